"""`longwatch train --workers`: Ray Train from its start to its end, broken off and gone on with on the way."""

import os
import signal
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
from killing import Session, until
from safetensors.torch import load_file
from test_adapting import saved
from test_train import fingerprint
from torch import distributed
from typer.testing import CliRunner

from actors.cli import app
from actors.train import STAGES, Job, _reason, learn
from model.adapting.clips import BadData, NothingToLearn
from model.adapting.progress import FILE, FolderTaken, Recipe

pytestmark = [pytest.mark.ray, pytest.mark.gst, pytest.mark.timeout(900)]

STEPS, PATIENCE_S = 12, 240.0
SMALL = ("--steps", STEPS, "--batch", 1, "--frames", 3, "--rank", 2, "--rate", 0.01)  # where chance is: 5 % are dropped out, by worker
RECIPE = Recipe(data=("simulator",), frames=3, stages=STAGES["both"], steps=STEPS, batch=1, rate=0.01, rank=2)


for needed in ("pandas", "pyarrow"):  # no part of `dev`: each process of Ray would load them, and start the later
    pytest.importorskip(needed, reason="needs longwatch[train]")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def unbroken(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes learn that meet without Ray."""
    out = tmp_path_factory.mktemp("unbroken")
    spawned, meeting = get_context("spawn"), out.parent / "meeting"
    started = [spawned.Process(target=_work, args=(worker, base, out, meeting), daemon=True) for worker in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in started] == [0, 0]
    return out


def _work(worker: int, base: Path, out: Path, meeting: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=worker, world_size=2)
    learn(Job(model=str(base), out=out, recipe=RECIPE, resume=False), lambda told: None)
    distributed.destroy_process_group()


def command(base: Path, out: Path, *more: object) -> list[str]:
    return [*map(str, ("train", "simulator", "--model", base, "--out", out, "--workers", 2, *SMALL, *more))]


def far(a: Path, b: Path) -> float:
    """The largest difference between two adapters."""
    ours, theirs = (load_file(each / "adapter_model.safetensors") for each in (a, b))
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def test_two_workers_broken_off_and_resumed_learn_what_they_would_without_a_break_and_it_is_served(
    base: Path, unbroken: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    with Session([sys.executable, "-m", "actors.cli", *command(base, out)], log) as running:
        assert until(lambda: running.ended is not None or (out / FILE).exists(), PATIENCE_S) < PATIENCE_S, log.read_text()
        for worker in running.processes("ray::RayTrainWorker"):
            os.kill(worker, signal.SIGSTOP)  # or a quick machine would be at the end by now
        os.kill(running.processes()[0], signal.SIGINT)  # Ctrl-C, as the first stage is done
        assert until(lambda: running.ended is not None, PATIENCE_S) < PATIENCE_S
        assert running.ended != 0, "it was at its end before it could be broken off"
        assert until(lambda: not running.processes(), PATIENCE_S) < PATIENCE_S, "something is left behind"
    assert far(out, unbroken) > 1e-4

    said = CliRunner().invoke(app, command(base, out, "--resume"), env={"COLUMNS": "300"})
    assert said.exit_code == 0, said.output
    assert "stage 2, loss" in said.output and f"{STEPS}/{STEPS}" in said.output and "learnt; use it with" in said.output
    assert far(out, unbroken) < 1e-6
    assert not (out / "ray").exists()
    assert fingerprint(model=str(base), adapter=out) != fingerprint(model=str(base))


def test_what_would_fail_in_every_worker_is_said_before_any_is_started(base: Path, unbroken: Path, tmp_path: Path) -> None:
    taken = CliRunner().invoke(app, command(base, unbroken))
    assert isinstance(taken.exception, FolderTaken) and "--resume goes on with it" in str(taken.exception)
    missing = CliRunner().invoke(app, [each if each != "simulator" else str(tmp_path / "gone.json") for each in command(base, tmp_path)])
    assert isinstance(missing.exception, BadData)


def test_why_workers_failed_is_said_in_the_words_of_the_one_that_knows() -> None:
    from ray.train import WorkerGroupError

    lost, known = RuntimeError("Connection closed by peer"), NothingToLearn("of 2 clips none can be shown")
    assert _reason(WorkerGroupError("a traceback of each", {0: lost, 1: known})) == str(known)
    assert "a traceback of each" in _reason(WorkerGroupError("a traceback of each", {0: lost}))
