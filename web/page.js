// The analyst's page: cameras, questions, answers with their pictures, alerts and rules. Text from the server is only ever set as text.

import { Failure, TOKEN, asked, json, pictureAt } from "/api.js";

const $ = (id) => document.getElementById(id);
const PLAIN = {
  StoreUnavailable: "The memory cannot be reached right now. What was seen is not lost; try again in a moment.",
  NotReady: "This Longwatch cannot answer questions right now.",
  NoAnswer: "The model found no words for an answer. Ask again, or in other words.",
  Internal: "Something failed inside Longwatch. Its log says what.",
  Unreachable: "Longwatch cannot be reached. Is it running?",
};

// ---- small tools -------------------------------------------------------------------------------------------------------

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function clock(at) {
  const time = new Date(at);
  const today = time.toDateString() === new Date().toDateString();
  return today ? time.toLocaleTimeString() : time.toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
}

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

const plural = (count, word) => `${count.toLocaleString()} ${word}${count === 1 ? "" : "s"}`;

const words = (error) => PLAIN[error.type] ?? error.message.charAt(0).toUpperCase() + error.message.slice(1);

// ---- pictures ----------------------------------------------------------------------------------------------------------

function enlarge(url, caption) {
  const dialog = $("picture");
  dialog.querySelector("img").src = url;
  dialog.querySelector("img").alt = caption;
  dialog.querySelector("p").textContent = caption;
  dialog.showModal();
}

function evidencePicture({ camera, at_ms: at, picture, score }) {
  const caption = `${camera}, ${clock(at)}`;
  const image = make("img");
  image.alt = caption;
  const button = make("button", "evidence", image, make("span", "", make("b", "", camera), ` ${clock(at)}`));
  button.type = "button";
  button.title = score === undefined ? caption : `${Math.round(score * 100)} % of the answer's attention`;
  pictureAt(picture).then(
    ({ url }) => {
      image.src = url;
      button.addEventListener("click", () => enlarge(url, caption));
    },
    () => {
      image.replaceWith(make("span", "no-picture", "picture no longer kept"));
      button.disabled = true;
    },
  );
  return button;
}

// ---- cameras -----------------------------------------------------------------------------------------------------------

const tiles = new Map(); // camera id -> its tile

function newTile(stream) {
  const image = make("img");
  image.alt = `Newest picture of ${stream.id}`;
  const waiting = make("span", "no-picture", "no picture yet");
  const view = make("button", "view", waiting);
  view.type = "button";
  const phase = make("span", "phase");
  const time = make("time");
  const figure = make("figure", "", view, make("figcaption", "", make("b", "", stream.id), phase, time));
  const tile = { figure, image, view, phase, time, shown: null };
  view.addEventListener("click", () => tile.shown && enlarge(image.src, `${stream.id}, ${clock(tile.shown)}`));
  $("cameras").append(figure);
  return tile;
}

function addChoices(id) {
  const box = make("input");
  Object.assign(box, { type: "checkbox", name: "camera", value: id });
  const chip = make("label", "chip", box, id);
  const option = make("option", "", id);
  $("chips").append(chip);
  $("add-rule").elements.camera.append(option);
  return [chip, option];
}

function showStreams(streams) {
  for (const [id, tile] of tiles) {
    if (streams.some((stream) => stream.id === id)) continue;
    [tile.figure, ...tile.choices].forEach((element) => element.remove());
    URL.revokeObjectURL(tile.image.src);
    tiles.delete(id);
  }
  for (const stream of streams) {
    if (!tiles.has(stream.id)) tiles.set(stream.id, { ...newTile(stream), choices: addChoices(stream.id) });
    const tile = tiles.get(stream.id);
    tile.pictured = Boolean(stream.remembered);
    tile.phase.textContent = stream.phase + (stream.share < 1 ? ` at ${Math.round(100 * stream.share)} %` : "");
    tile.phase.dataset.phase = stream.phase;
    tile.phase.title = stream.error ?? `${plural(stream.frames, "picture")} seen, ${stream.dropped} skipped`;
    tile.figure.classList.toggle("stale", ["lost", "unwatched"].includes(stream.phase));
  }
  $("no-cameras").hidden = streams.length > 0;
  $("chips").hidden = streams.length === 0;
}

async function refresh(id, tile) {
  const { url, at } = await pictureAt(`/v1/frames/${id}/latest.jpg`);
  const old = tile.image.src;
  tile.image.src = url;
  tile.view.replaceChildren(tile.image);
  tile.time.textContent = clock(at);
  tile.time.dateTime = new Date(at).toISOString();
  tile.shown = at;
  if (old && $("picture").querySelector("img").src !== old) URL.revokeObjectURL(old);
}

// ---- questions and answers ---------------------------------------------------------------------------------------------

function showAnswer(card, said) {
  const sure = `${Math.round(said.probability * 100)} % sure`;
  const looked = `${plural(said.carriers, "moment")} of ${plural(said.cameras.length, "camera")}`;
  const how = said.mode === "carriers" ? [] : [said.mode];
  card.append(make("p", "answer", said.answer), make("p", "quiet", [sure, looked, duration(said.took_ms), ...how].join(" · ")));
  if (said.evidence.length) card.append(make("div", "strip", ...said.evidence.map(evidencePicture)));
  else card.append(make("p", "quiet", "No picture shows it."));
  const gaps = said.gaps.map((gap) => make("li", "", make("b", "", gap.camera), ` ${clock(gap.start)} – ${clock(gap.end)}: ${gap.reason}`));
  if (gaps.length) card.append(make("p", "gaps-title", "Not looked at"), make("ul", "gaps", ...gaps));
}

function showFailure(card, error) {
  card.classList.add("failed");
  card.append(make("p", "answer", words(error)));
}

async function ask(event) {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question) return;
  const cameras = [...document.querySelectorAll("#chips input:checked")].map((box) => box.value);
  const since = document.querySelector("#times input:checked").value;
  const where = cameras.length ? cameras.join(", ") : "all cameras";
  const looking = make("p", "answer looking", "Looking");
  const card = make("article", "panel card", make("p", "asked", question, make("span", "quiet", ` ${where}, ${clock(Date.now())}`)), looking);
  card.setAttribute("aria-busy", "true");
  $("answers").prepend(card);
  $("question").select();
  const hear = (words) => {
    if (looking.classList.replace("looking", "saying")) looking.textContent = "";
    looking.append(words);
  };
  try {
    const said = await asked({ question, cameras, ...(since && { since }) }, hear);
    looking.remove();
    showAnswer(card, said);
  } catch (error) {
    looking.remove();
    showFailure(card, error);
    if (!(error instanceof Failure)) throw error;
  } finally {
    card.removeAttribute("aria-busy");
  }
}

// ---- alerts and rules --------------------------------------------------------------------------------------------------

let newestAlert = null;

function showAlerts(alerts) {
  if (alerts[0]?.id === newestAlert) return;
  newestAlert = alerts[0]?.id ?? null;
  $("no-alerts").hidden = alerts.length > 0;
  const items = alerts.map((alert) => {
    const sure = `${Math.round(alert.probability * 100)} %`;
    const item = make("li", "", make("b", "", alert.condition), make("p", "quiet", `${alert.camera} · ${clock(alert.at_ms)} · ${sure}`));
    if (alert.evidence.length) item.append(evidencePicture(alert.evidence[0]));
    return item;
  });
  $("alerts").querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
  $("alerts").replaceChildren(...items);
}

function showRules(rules) {
  const items = rules.map((rule) => {
    const where = rule.cameras.length ? rule.cameras.join(", ") : "any camera";
    const remove = make("button", "remove", "×");
    remove.setAttribute("aria-label", `Remove the rule: ${rule.condition}`);
    remove.addEventListener("click", () => json(`/v1/rules/${rule.id}`, { method: "DELETE" }).then(loadRules, say));
    const quiet = make("span", "quiet", [where, rule.webhook_host].filter(Boolean).join(" → "));
    return make("li", "", make("span", "", rule.condition, make("br"), quiet), remove);
  });
  $("rules").replaceChildren(...items);
}

const loadRules = async () => showRules((await json("/v1/rules")).rules);

function onSubmit(form, send) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const told = form.querySelector(".error");
    told.textContent = "";
    try {
      await send(Object.fromEntries(new FormData(form)));
      form.reset();
    } catch (error) {
      told.textContent = words(error);
    }
  });
}

// ---- the loop ----------------------------------------------------------------------------------------------------------

function say(error) {
  const live = [...tiles.values()].filter((tile) => tile.phase.dataset.phase === "live").length;
  $("state").textContent = error ? words(error) : `${live} of ${plural(tiles.size, "camera")} live`;
  $("state").dataset.ok = error ? "no" : "yes";
}

async function look() {
  const [{ streams }, { alerts }] = await Promise.all([json("/v1/streams"), json("/v1/alerts?limit=20")]);
  showStreams(streams);
  showAlerts(alerts);
}

async function everySecond() {
  const began = Date.now();
  if (!document.hidden && !$("login").open) {
    try {
      await look();
      const pictured = [...tiles].filter(([, tile]) => tile.pictured);
      await Promise.allSettled(pictured.map(([id, tile]) => refresh(id, tile)));
      say(null);
    } catch (error) {
      say(error);
    }
  }
  setTimeout(everySecond, Math.max(200, 1000 - (Date.now() - began)));
}

$("ask").addEventListener("submit", ask);
onSubmit($("add-rule"), async ({ condition, camera, webhook }) => {
  await json("/v1/rules", { method: "POST", body: { condition, cameras: camera ? [camera] : [], webhook: webhook || null } });
  await loadRules();
});
onSubmit($("add-camera"), async ({ id, uri }) => {
  await json("/v1/streams", { method: "POST", body: { id, uri } });
  await look();
});
$("picture").addEventListener("click", (event) => event.target === $("picture") && $("picture").close());
$("login").addEventListener("close", () => {
  localStorage.setItem(TOKEN, $("login").querySelector("input").value);
  loadRules().catch(say);
});
loadRules().catch(say);
everySecond();
