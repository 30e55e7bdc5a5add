"""`longwatch train`: teaches a backbone to read carriers, in one process or, through Ray Train, in several."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.core import LongwatchError
from pipeline.loop import Loop

if TYPE_CHECKING:
    from model.adapting.clips import Clips
    from model.adapting.learning import Told
    from model.adapting.progress import Recipe

SIMULATOR = "simulator"
STAGES = {"1": (1,), "2": (2,), "both": (1, 2)}
START_S = "300"  # workers that start slowly, on a busy machine, are none that failed, as after the 60 of Ray Train


class CrewFailed(LongwatchError):
    """Workers that could not train together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A training as each of its workers is told it."""

    model: str
    out: Path
    recipe: "Recipe"
    resume: bool


def _patches(told: str) -> str:
    if told and told != "all" and not told.isdecimal():
        raise typer.BadParameter(f"{told!r}: use a number, 0 for none, or all")
    return told


def train(
    data: Annotated[list[str], typer.Argument(help="JSON files in LLaVA-Video-178K's format, their videos beside them; or: simulator.")],
    model: Annotated[str, typer.Option(help="A Hugging Face name or a folder.")],
    out: Annotated[Path, typer.Option(help="Where the adapter is written, and what it takes to go on.", file_okay=False)],
    stage: Annotated[Literal["1", "2", "both"], typer.Option(help="1: frames as carriers alone; 2: clips under the mask.")] = "both",
    steps: Annotated[int, typer.Option(help="Steps of each stage.", min=1)] = 1000,
    batch: Annotated[int, typer.Option(help="Clips a step, in each worker.", min=1)] = 8,
    frames: Annotated[int, typer.Option(help="Most frames of a clip.", min=1)] = 32,
    fps: Annotated[float, typer.Option(help="Frames a second of a video.", min=0.01, max=30)] = 1.0,
    patches: Annotated[
        str, typer.Option(help="Visual tokens kept beside each carrier: a number, or all; if not given, as MODEL has it.", parser=_patches)
    ] = "",
    rate: Annotated[float | None, typer.Option(help="Highest learning rate; 1e-5 and 5e-6 if not given.", min=0)] = None,
    rank: Annotated[int, typer.Option(help="Rank of the adapters.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="What all chance follows from.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes, each with a GPU where there are as many.", min=1)] = 1,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster for the workers; a private one if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in OUT.")] = False,
) -> None:
    """Teach a model to read carriers; `longwatch up --model MODEL --adapter OUT` uses what it learnt."""
    from model.adapting.progress import Recipe

    recipe = Recipe(
        data=tuple(each if each == SIMULATOR else _anywhere(each) for each in data),
        frames=frames,
        fps=fps,
        patches=patches,
        stages=STAGES[stage],
        steps=steps,
        batch=batch,
        rate=rate,
        rank=rank,
        seed=seed,
    )
    job = Job(model=_anywhere(model), out=out.resolve(), recipe=recipe, resume=resume)
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bars:
        told = _Bars(bars, recipe)
        skipped = learn_together(job, workers, ray, told) if workers > 1 else learn(job, told)
    if skipped:
        Console().print(f"[yellow]{len(skipped)} clips could not be shown and were skipped[/yellow]; the first: {skipped[0]}")
    Console().print(f"learnt; use it with: longwatch up --model {model} --adapter {out}", highlight=False)


def _anywhere(name: str) -> str:
    """A path that holds in any working folder, since Ray Train gives its workers others; other names as they are."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def learn(job: Job, told: "Callable[[Told], None]") -> list[str]:
    """Train in this process, alone or as one of a crew. Returns why clips were skipped, each. Half precision is for GPUs."""
    import torch

    from model.adapting.learning import Learning
    from model.backbone import Backbone

    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    clips = _clips(job.recipe)  # what is wrong with the data is said before a large model is loaded
    backbone = Backbone.load(job.model, device=device, dtype=dtype, mode="carriers")
    if patches := job.recipe.patches:
        backbone = backbone.used(patches=patches if patches == "all" else int(patches))
    learning = Learning(backbone, clips, job.recipe, job.out, resume=job.resume)
    learning.run(told)
    return learning.skipped


def _clips(recipe: "Recipe") -> "Clips":
    from model.adapting.clips import Several
    from model.adapting.llava_video import LlavaVideo
    from model.adapting.simulated import Simulated
    from pipeline.film import film

    look = partial(film, fps=recipe.fps, most=recipe.frames)
    return Several([Simulated(frames=recipe.frames) if each == SIMULATOR else LlavaVideo(Path(each), look) for each in recipe.data])


def learn_together(job: Job, workers: int, address: str | None, told: "Callable[[Told], None]") -> list[str]:
    """`learn` in several processes with one set of adapters. OUT must be one folder for all. Raises CrewFailed and CannotStart."""
    try:
        from ray.train import RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise CrewFailed(f"--workers needs more of Ray: pip install -e '.[train]' ({error})") from error
    import ray

    from actors.cluster import RayCluster

    _check(job)
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", START_S)
    scratch = job.out / "ray"
    with _own_ctrl_c(), RayCluster(address, cpus=workers):  # as if there were so many CPUs: they wait for no other work
        ear = ray.remote(_Ear).options(num_cpus=0).remote()
        scaling = ScalingConfig(num_workers=workers, use_gpu=ray.cluster_resources().get("GPU", 0) >= workers)
        run = RunConfig(storage_path=str(scratch))
        trainer = TorchTrainer(_work, train_loop_config={"job": job, "ear": ear}, scaling_config=scaling, run_config=run)
        hearing = Loop(lambda: _pass_on(ear, told), name="training", every_s=1.0).start()
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise CrewFailed(_reason(error)) from error
        finally:
            hearing.close()
            shutil.rmtree(scratch, ignore_errors=True)
        _pass_on(ear, told)
        skipped: list[str] = ray.get(ear.skipped.remote())
    return skipped


@contextmanager
def _own_ctrl_c() -> Iterator[None]:
    """Ray Train answers Ctrl-C while it trains, and would go on doing so."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _check(job: Job) -> None:
    """What every worker would fail of is said here, before any is started."""
    from model.adapting import progress

    _clips(job.recipe)
    if not job.resume:
        progress.check_free(job.out)


def _pass_on(ear: Any, told: "Callable[[Told], None]") -> None:
    """Tell what was heard since the last time."""
    import ray
    from ray.exceptions import RayActorError

    from model.adapting.learning import Told

    try:
        heard = ray.get(ear.heard.remote())
    except RayActorError:  # it all ends now
        return
    for one in heard:
        told(Told(**one))


def _reason(error: Exception) -> str:
    """Why workers failed: in their own words where one of them knows, for the others then only miss that one."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    known = [failure for failure in failures.values() if isinstance(failure, LongwatchError)]
    return str(known[0] if known else error.__cause__ or error)


def _work(config: dict[str, Any]) -> None:
    """What each worker does. The losses of all are the same: the first tells them."""
    import ray

    from model.adapting import crew

    ear, is_first = config["ear"], crew.place()[0] == 0
    skipped = learn(config["job"], lambda told: ear.tell.remote(asdict(told)) if is_first else None)
    ray.get(ear.skip.remote(skipped))  # and so all that was told before is heard, too


class _Ear:
    """An actor that workers speak to, so that a training tells as much wherever it runs. It knows no torch, and so starts in a second."""

    def __init__(self) -> None:
        self._heard: list[dict[str, Any]] = []
        self._skipped: list[str] = []

    def tell(self, told: dict[str, Any]) -> None:
        """How a step went."""
        self._heard.append(told)

    def skip(self, reasons: list[str]) -> None:
        """Why clips could not be shown to a worker, at its end."""
        self._skipped += reasons

    def heard(self) -> list[dict[str, Any]]:
        """How all steps went that nobody heard of yet."""
        heard, self._heard = self._heard, []
        return heard

    def skipped(self) -> list[str]:
        """As `learn` gives it, of all workers."""
        return self._skipped


class _Bars:
    """A bar for each stage, with the loss behind it."""

    def __init__(self, bars: Progress, recipe: "Recipe") -> None:
        self._bars = bars
        self._tasks = {stage: bars.add_task(f"stage {stage}", total=recipe.steps) for stage in recipe.stages}

    def __call__(self, told: "Told") -> None:
        self._bars.update(self._tasks[told.stage], completed=told.step, description=f"stage {told.stage}, loss {told.loss:.3f}")
