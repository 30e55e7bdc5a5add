"""The demo: a simulated site watched by the real system, asked three questions whose truth is known.

python -m actors.demo [--once]
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random, sample
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import track

from actors.app import Longwatch, wait_for_end
from actors.plane import CannotStart
from pipeline.config import Config
from pipeline.grounding import ago
from simulator.marking import correct, truth_words
from simulator.questions import Quiz, ask, camera, count, direction, order, when
from simulator.visits import CAMERAS
from simulator.watching import Subject, Watch, watch
from simulator.world import Site

console = Console(highlight=False, soft_wrap=True)

WATCH_S = 60
RULE = {"id": "truck-at-dock", "condition": "a truck is at the dock", "cameras": ("dock",), "threshold": 0.6, "cooldown_s": 20}
PICTURES = Path(".run/demo")
UNCLAIMED = range(20_000, 32_000)  # ports above those of Ray's workers and below those that Linux hands out


@contextmanager
def simulated_site(seed: int) -> Iterator[dict[str, Any]]:
    """The simulator as a process of its own, as cameras are."""
    command = [sys.executable, "-m", "simulator.serve", "--port", "0", "--owned", "--seed", str(seed)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise CannotStart("the simulated cameras did not start; run `longwatch doctor`")
        yield json.loads(line)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:  # a very busy machine
            process.kill()
            process.wait()


def free_port(wanted: int = 8600) -> int:
    """The wanted port, or another where that one is taken or 0. It may be bound a minute later: the system gives it to nobody by itself."""
    for port in filter(None, (wanted, *sample(UNCLAIMED, 100))):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise CannotStart("no free port on 127.0.0.1")


def wait_until_seen(client: httpx.Client, seconds: int) -> None:
    """Until every camera has been remembered for so long; says so as it goes."""
    for _ in track(range(seconds), description=f"watching {len(CAMERAS)} cameras", console=console):
        time.sleep(1)
    deadline = time.monotonic() + 60
    while any(s["phase"] != "live" for s in client.get("/v1/streams").raise_for_status().json()["streams"]):
        if time.monotonic() > deadline:
            raise CannotStart("not every camera is live after two minutes; see GET /v1/streams")
        time.sleep(0.5)


def questions(site: Site, start: float, end: float, r: Random) -> list[tuple[Quiz, Watch, list[str]]]:
    """Three questions with their truth, each of another kind, as far as what happened gives cause for them."""
    times = [start + s for s in range(int(end - start) + 1)]
    everywhere = watch(site, CAMERAS, times)
    each = {c: watch(site, [c], times) for c in r.sample(CAMERAS, len(CAMERAS))}
    plan: list[tuple[Any, Watch, list[str]]] = [(camera, everywhere, [])] + [
        (f, w, [c]) for f in (when, count, direction, order) for c, w in each.items()
    ]
    found: dict[Any, tuple[Quiz, Watch, list[str]]] = {}
    for family, w, cameras in plan:
        if family not in found and (quiz := ask(w, r, family)) and quiz.evidence:
            found[family] = (quiz, w, cameras)
    return list(found.values())[:3]


def ask_and_mark(
    client: httpx.Client, quiz: Quiz, w: Watch, cameras: Sequence[str], epoch: float, margin_s: float = 0.5
) -> tuple[dict[str, Any], bool]:
    """Ask over HTTP about the time of the watch and a margin around it. The answer, and whether it was right."""
    since, until = w.shots[0].at + epoch - margin_s, w.shots[-1].at + epoch + margin_s
    reply = client.post("/v1/ask", json={"question": quiz.text, "cameras": list(cameras), "since": since, "until": until})
    answer: dict[str, Any] = reply.raise_for_status().json()
    best = answer["evidence"][0] if answer["evidence"] else None
    right = correct(quiz, w, text=answer["answer"], camera=best and best["camera"], at=best and best["at_ms"] / 1000 - epoch)
    return answer, right


def ask_one(client: httpx.Client, quiz: Quiz, w: Watch, cameras: list[str], epoch: float, number: int) -> bool:
    """Ask over HTTP, save the evidence, and print it all beside the truth. Returns whether it was right."""
    began = time.perf_counter()
    answer, right = ask_and_mark(client, quiz, w, cameras, epoch)
    took = time.perf_counter() - began
    console.print(f"\n[bold]Question {number}[/bold]  {quiz.text}" + (f"  [dim](camera {cameras[0]})[/dim]" if cameras else ""))
    console.print(f"  answer    [bold]{answer['answer']}[/bold]  [dim](probability {answer['probability']:.2f})[/dim]")
    for i, moment in enumerate(answer["evidence"]):
        file = PICTURES / f"question{number}-{i + 1}-{moment['camera']}.jpg"
        file.write_bytes(client.get(moment["picture"]).raise_for_status().content)
        console.print(f"  evidence  {moment['camera']} {moment['at']}  {file}")
    console.print(f"  took      {took * 1000:.0f} ms, from {answer['carriers']} carriers")
    console.print(f"  truth     {truth_words(quiz, w, w.shots[-1].at)}  {'[green]right[/green]' if right else '[red]WRONG[/red]'}")
    return right


def show_alerts(client: httpx.Client, site: Site, start: float, end: float, epoch: float) -> None:
    """When the rule fired, beside when it was true."""
    dock = watch(site, ["dock"], [start + s for s in range(int(end - start) + 1)])
    true_s = [round(dock.shots[i].at - start) for i in dock.clear(Subject("truck"))]
    fired = [round(a["at_ms"] / 1000 - epoch - start) for a in client.get("/v1/alerts").raise_for_status().json()["alerts"]]
    console.print(f"\n[bold]Rule[/bold]  {RULE['condition']}  [dim](seconds into the watch)[/dim]")
    console.print(f"  fired     {', '.join(f'{s} s' for s in sorted(fired) if s >= 0) or 'not'}")
    console.print(f"  truth     {_runs(true_s) or 'no truck was there'}")


def _runs(seconds: list[int]) -> str:
    """ "3-9 s, 20-31 s" """
    starts = [s for s in seconds if s - 1 not in seconds]
    ends = [s for s in seconds if s + 1 not in seconds]
    return ", ".join(f"{a}-{b} s" for a, b in zip(starts, ends, strict=True))


def main(once: Annotated[bool, typer.Option("--once", help="End after the questions.")] = False, seed: int = 900_001) -> None:
    """Run the demo; with --once the exit code says whether every stage worked."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    console.print("[bold]Longwatch demo[/bold]: a simulated site, four RTSP cameras, nothing faked behind them.")
    with simulated_site(seed) as served:
        config = Config.model_validate({"cameras": served["cameras"], "rules": [RULE], "port": free_port()})
        console.print("starting Redis, Ray, ingest, prefill, decode and the API ...")
        with Longwatch(config) as longwatch, httpx.Client(base_url=longwatch.url, timeout=60) as client:
            site, epoch = Site(seed, traffic=served["traffic"]), served["epoch"]
            start = time.time() - epoch + 2  # the cameras' first frames
            wait_until_seen(client, WATCH_S)
            end = time.time() - epoch - 2
            asked = questions(site, start, end, Random(seed))
            if len(asked) < 3:
                raise CannotStart(f"a minute of site {seed} gave cause for {len(asked)} questions only; try another --seed")
            right = [ask_one(client, *question, epoch, i + 1) for i, question in enumerate(asked)]
            show_alerts(client, site, start, end, epoch)
            console.print(f"\n{sum(right)} of {len(right)} right, asked {ago(int((end - start) * 1000))} of four cameras.")
            if once:
                return
            console.print(f"\nThe page: [link]{longwatch.url}[/link]   It goes on watching until Ctrl-C.")
            wait_for_end()


if __name__ == "__main__":
    typer.run(main)
