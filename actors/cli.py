"""The command `longwatch`."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from json import loads
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from actors.train import train
from pipeline.config import Config, load_config
from pipeline.core import LongwatchError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Ask your cameras.", pretty_exceptions_show_locals=False)
console = Console()

ROLES = ("all", "ingest", "prefill", "decode")
Url = Annotated[str, typer.Option(help="Where Longwatch answers.", envvar="LONGWATCH_URL")]
Token = Annotated[str | None, typer.Option(help="Its access token, if it has one.", envvar="LONGWATCH_TOKEN")]
HERE = "http://127.0.0.1:8600"
PATIENCE_S = 65  # the API's own, which is a minute, and a little more


class Refused(LongwatchError):
    """The API said no."""


app.command()(train)


@app.command()
def up(
    camera: Annotated[list[str] | None, typer.Option(help="A camera as NAME=URI; repeat for more.", metavar="NAME=URI")] = None,
    config: Annotated[Path | None, typer.Option("-c", "--config", help="longwatch.yaml")] = None,
    model: Annotated[str | None, typer.Option(help="A Hugging Face name or a folder; the embedded model if not given.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A folder that `longwatch train` wrote for this model.")] = None,
    redis: Annotated[str | None, typer.Option(help="Redis URL; a private server if not given.", envvar="LONGWATCH_REDIS")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the page and the API.")] = None,
    token: Annotated[str | None, typer.Option(help="Access token that clients must send.", envvar="LONGWATCH_TOKEN")] = None,
    trust_network: Annotated[bool, typer.Option("--trust-network", help="Listen beyond this machine without a token.")] = False,
    role: Annotated[list[str] | None, typer.Option(help=f"Which plane runs here: {', '.join(ROLES)}.")] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster to join; a private one if not given.")] = None,
) -> None:
    """Start Longwatch and watch until Ctrl-C."""
    from actors.app import Longwatch, wait_for_end

    given = {
        "model": model,
        "adapter": adapter,
        "redis": redis,
        "host": host,
        "port": port,
        "token": token,
        "trust_network": trust_network or None,
    }
    settings = _settings(config, camera or [], {key: value for key, value in given.items() if value is not None})
    if unknown := set(role or []) - set(ROLES):
        raise LongwatchError(f"--role {', '.join(sorted(unknown))}: there is {', '.join(ROLES)}")
    with Longwatch(settings, roles=frozenset(role or ["all"]), ray_address=ray) as longwatch:
        console.print(f"Longwatch watches {len(settings.cameras)} cameras. Ask at [link]{longwatch.url}[/link] (Ctrl-C ends it).")
        if longwatch.mode == "training-free":
            console.print(f"{settings.model} was never taught to read carriers: training-free mode (docs/backbones.md).", highlight=False)
        wait_for_end()


def _settings(path: Path | None, cameras: list[str], given: dict[str, Any]) -> Config:
    """The configuration file with the command line laid over it, checked as a whole."""
    told = load_config(path).model_dump() if path else {}
    for pair in cameras:
        name, is_pair, uri = pair.partition("=")
        if not is_pair:
            raise LongwatchError(f"--camera {name}: write NAME=URI, for example gate=rtsp://192.168.1.20/stream1")
        told.setdefault("cameras", {})[name] = uri
    try:
        return Config.model_validate(told | given)
    except ValueError as error:
        raise LongwatchError(str(error)) from None


@app.command()
def ask(
    question: str,
    camera: Annotated[list[str] | None, typer.Option(help="Only these cameras.")] = None,
    since: Annotated[str | None, typer.Option(help="From when: ISO-8601 with offset, UNIX seconds, or -15m.")] = None,
    until: Annotated[str | None, typer.Option(help="Until when.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    url: Url = HERE,
    token: Token = None,
) -> None:
    """Ask a question, and see the answer as it is said."""
    given = {"question": question, "cameras": camera, "since": since, "until": until}
    body = {key: value for key, value in given.items() if value}
    if json:
        console.print_json(data=_call("POST", url, "/v1/ask", token, body))
        return
    answer = _listen(url, token, body)
    how = f"probability {answer['probability']:.2f}, {answer['took_ms']:.0f} ms, the first word after {answer['first_ms']:.0f} ms"
    how += "" if answer["mode"] == "carriers" else f", {answer['mode']}"
    console.print(Text.assemble((answer["answer"], "bold"), f"  ({how})"))
    for moment in answer["evidence"]:
        console.print(f"  {moment['camera']} {moment['at']}  {url}{moment['picture']}")
    for gap in answer["gaps"]:
        console.print(f"  [yellow]{gap['reason']}[/yellow]")


@app.command()
def cameras(url: Url = HERE, token: Token = None) -> None:
    """List the cameras and how they are."""
    table = Table("camera", "phase", "sampled", "frames", "dropped", "reconnects", "last frame", "error")
    for stream in _call("GET", url, "/v1/streams", token)["streams"]:
        stream["sampled"] = f"{stream['share']:.0%}"
        cells = (stream.get(key) for key in ("id", "phase", "sampled", "frames", "dropped", "reconnects", "last_frame", "error"))
        table.add_row(*("" if cell is None else str(cell) for cell in cells))
    console.print(table)


@app.command()
def memory(url: Url = HERE, token: Token = None) -> None:
    """Show what is remembered of every camera: from when, how much, and what is missing."""
    table = Table("camera", "first", "last", "carriers", "MB", "pictures", "MB", "gaps")
    for kept in _call("GET", url, "/v1/memory", token)["memory"]:
        span = kept["remembered"] or {"start": "", "end": ""}
        megabytes = (f"{kept[kind] / 1e6:.1f}" for kind in ("carrier_bytes", "picture_bytes"))
        gaps = "\n".join(f"{gap['start']} to {gap['end']}: {gap['reason']}" for gap in kept["gaps"])
        numbers = (str(kept["carriers"]), next(megabytes), str(kept["pictures"]), next(megabytes))
        table.add_row(kept["camera"], span["start"], span["end"], *numbers, gaps)
    console.print(table)


@app.command()
def status(
    once: Annotated[bool, typer.Option("--once", help="Look twice, tell, and end; exit code 1 when something is down.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
    every: Annotated[float, typer.Option(help="Seconds from look to look.", min=0.1)] = 2.0,
    url: Url = HERE,
    token: Token = None,
) -> None:
    """Show how cameras, planes and questions do, until Ctrl-C."""
    from actors.status import Unavailable, render, reports

    def get(path: str) -> httpx.Response:
        reply = _send("GET", url, path, token)
        if reply.status_code == 503:
            raise Unavailable(_reason(reply))
        return _accepted(reply)

    told = reports(get, every)
    if once or json:
        report = next(told)
        console.print_json(data=asdict(report) | {"well": report.well}) if json else console.print(render(report))
        raise typer.Exit(0 if report.well else 1)
    with Live(console=console, auto_refresh=False) as live:
        for report in told:
            live.update(render(report), refresh=True)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Option("-c", "--config", help="longwatch.yaml")] = None,
    model: Annotated[str | None, typer.Option(help="A Hugging Face name or a folder; as configured if not given.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A folder that `longwatch train` wrote for this model.")] = None,
    redis: Annotated[str | None, typer.Option(help="Redis URL to check.", envvar="LONGWATCH_REDIS")] = None,
    port: Annotated[int, typer.Option(help="Port of the page and the API.")] = 8600,
) -> None:
    """Check that this machine has what Longwatch needs, and say how to mend what is missing."""
    from actors.doctor import diagnose
    from actors.findings import is_well, render

    given = {"model": model, "adapter": adapter}
    settings = _settings(config, [], {key: value for key, value in given.items() if value is not None})
    findings = diagnose(settings, redis, port)
    console.print(render(findings))
    raise typer.Exit(0 if is_well(findings) else 1)


def _call(method: str, url: str, path: str, token: str | None, body: dict[str, Any] | None = None) -> Any:
    return _accepted(_send(method, url, path, token, body)).json()


def _listen(url: str, token: str | None, body: dict[str, Any]) -> Any:
    """The answer to a question; its words are shown until it is there."""
    words = ""
    asked = httpx.stream("POST", f"{url}/v1/ask", json=body | {"stream": True}, headers=_headers(token), timeout=PATIENCE_S)
    with Live(console=console, auto_refresh=False, transient=True) as live, _reached(url), asked as reply:
        if not reply.is_success:
            reply.read()
        for name, said in _events(_accepted(reply).iter_lines()):
            if name == "answer":
                return said
            if name == "error":
                raise Refused(_words(said["error"]))
            words += said["text"]
            live.update(Text(words, "bold"), refresh=True)
    raise Refused("the answer broke off; ask again")


def _events(lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Server-sent events as the API writes them: a line with the name, then one with the data."""
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, loads(value)


@contextmanager
def _reached(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as lost:
        raise Refused(f"Longwatch does not answer at {url} ({type(lost).__name__}); is `longwatch up` running?") from None


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _send(method: str, url: str, path: str, token: str | None, body: dict[str, Any] | None = None) -> httpx.Response:
    with _reached(url):
        return httpx.request(method, url + path, json=body, headers=_headers(token), timeout=PATIENCE_S)


def _accepted(reply: httpx.Response) -> httpx.Response:
    if not reply.is_success:
        raise Refused(_reason(reply))
    return reply


def _reason(reply: httpx.Response) -> str:
    return _words(reply.json().get("error", {}))


def _words(error: dict[str, str]) -> str:
    return " ".join(filter(None, (error.get("message"), error.get("hint"))))


def main() -> None:
    """Entry point: known errors are one line, without a traceback."""
    try:
        app()
    except LongwatchError as error:
        Console(stderr=True).print(f"[red]{error}[/red]", highlight=False)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
