// Talking to the API: requests, pictures, and words as they come.

export const TOKEN = "longwatch-token";

export class Failure extends Error {
  constructor({ type, message }) {
    super(message);
    this.type = type;
  }
}

async function request(path, { method = "GET", body } = {}) {
  const headers = {};
  if (localStorage.getItem(TOKEN)) headers.Authorization = `Bearer ${localStorage.getItem(TOKEN)}`;
  if (body) headers["Content-Type"] = "application/json";
  const sent = { method, headers, body: body && JSON.stringify(body) };
  const response = await fetch(path, sent).catch(() => {
    throw new Failure({ type: "Unreachable", message: "" });
  });
  if (response.ok) return response;
  const login = document.getElementById("login");
  if (response.status === 401 && !login.open) login.showModal();
  const told = await response.json().catch(() => ({}));
  throw new Failure(told.error ?? { type: "HttpError", message: `The server answered ${response.status}.` });
}

export const json = async (path, options) => (await request(path, options)).json();

export async function pictureAt(path) {
  const response = await request(path);
  return { url: URL.createObjectURL(await response.blob()), at: Number(response.headers.get("Longwatch-At-Ms")) };
}

// The answer to a question; `hear` gets more of its words whenever there are any.
export async function asked(body, hear) {
  const response = await request("/v1/ask", { method: "POST", body: { ...body, stream: true } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const broken = new Failure({ type: "Broken", message: "The answer broke off. Ask again." });
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done) throw broken;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const [, name, data] = block.match(/^event: (\w+)\ndata: (.*)$/);
      if (name === "error") throw new Failure(JSON.parse(data).error);
      if (name === "answer") return JSON.parse(data);
      hear(JSON.parse(data).text);
    }
  }
}
