"""The training itself: stages, steps, optimiser; made to be broken off and gone on with at any step."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn

from model import adapter
from model.adapting import crew, progress
from model.adapting.clips import Clips, Feed
from model.adapting.progress import Progress, Recipe
from model.adapting.stages import STAGES, loss, parts
from model.backbone import Backbone
from model.fast import fuse_attention
from pipeline.core import LongwatchError

WARM_UP = 0.03  # share of a stage's steps


class Diverged(LongwatchError):
    """A loss that is no number: a smaller rate may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How one step went."""

    stage: int
    step: int
    loss: float  # mean over the clips of all workers
    skipped: int  # clips that could not be shown, so far, by all workers


class Learning:
    """One training of one backbone, whose network gets the adapters in place; `out` becomes a folder that `Adapter.open` takes.

    Every worker of a crew makes the same one. What is random is seeded anew at every step from the place in the recipe, so a
    training that was resumed equals one that never stopped. Raises CannotResume and FolderTaken.
    """

    def __init__(self, backbone: Backbone, clips: Clips, recipe: Recipe, out: Path, *, resume: bool = False) -> None:
        self._backbone, self._recipe, self._out = backbone, recipe, out
        self._base = backbone.identity
        self._worker, workers = crew.place()
        if not backbone.chooses:  # or it must be seen where a frame's carrier looks
            fuse_attention(backbone)
        torch.manual_seed(recipe.seed)
        names = {name for stage in recipe.stages for name in parts(backbone, STAGES[stage])}
        self._adapted = adapter.attach(backbone.net, sorted(names), rank=recipe.rank, alpha=recipe.alpha, dropout=recipe.dropout)
        self._adapters = {name: weights for name, weights in backbone.net.named_parameters() if weights.requires_grad}
        self.progress, self._kept = Progress(taken=(0,) * workers), dict[str, Tensor]()
        if resume:
            self.progress, self._kept = progress.load(out, recipe, self._base, workers)
            for name, weights in self._adapters.items():
                weights.data.copy_(self._kept[name])
        else:
            progress.check_free(out)
        taken = self.progress.taken[self._worker]
        self._feed = Feed(clips, recipe.seed, taken=taken, worker=self._worker, workers=workers)
        self._skipped = self.progress.skipped

    @property
    def skipped(self) -> list[str]:
        """Why clips could not be shown to this worker, each, since it was made."""
        return self._feed.skipped

    def run(self, told: Callable[[Told], None] = lambda _: None, *, save_every: int = 100) -> Progress:
        """Train to the end of the recipe. Raises NothingToLearn and Diverged."""
        self._out.mkdir(parents=True, exist_ok=True)
        self._backbone.habits.save(self._out)
        while self.progress.stage < len(self._recipe.stages):
            self._stage(self._recipe.stages[self.progress.stage], told, save_every)
            self.progress = replace(self.progress, stage=self.progress.stage + 1, step=0)
            self._save({})
        return self.progress

    def _stage(self, number: int, told: Callable[[Told], None], save_every: int) -> None:
        weights = self._open(number)
        optimiser = torch.optim.AdamW(weights, weight_decay=0.0)
        if self.progress.step:
            progress.recall(optimiser, self._kept)
        while self.progress.step < self._recipe.steps:
            lost = self._step(number, weights, optimiser)
            self._count()
            told(Told(stage=number, step=self.progress.step, loss=lost, skipped=self.progress.skipped))
            if self.progress.step % save_every == 0:
                self._save(progress.optimiser_tensors(optimiser))

    def _open(self, number: int) -> list[Tensor]:
        """Let a stage's adapters learn and all others rest."""
        stage, net = STAGES[number], self._backbone.net
        learns = tuple(parts(self._backbone, stage))
        for name, weights in self._adapters.items():
            weights.requires_grad_(name.startswith(learns))
        net.train()
        net.get_submodule(self._backbone.family.tower).train(stage.tower)  # what rests drops nothing out
        return [weights for weights in self._adapters.values() if weights.requires_grad]

    def _step(self, number: int, weights: list[Tensor], optimiser: torch.optim.Optimizer) -> float:
        """One step of the optimiser over a batch of clips; returns the loss."""
        r = Random(f"{self._recipe.seed} {number} {self.progress.step} {self._worker}")
        torch.manual_seed(r.getrandbits(63))
        optimiser.param_groups[0]["lr"] = self._rate(number)
        optimiser.zero_grad()
        total = 0.0
        for _ in range(self._recipe.batch):
            lost = loss(self._backbone, STAGES[number], next(self._feed), r) / self._recipe.batch
            lost.backward()
            total += lost.item()
        crew.share_gradients(weights)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        everybody = crew.gather(total, self._backbone.device)
        mean = sum(everybody) / len(everybody)
        if not math.isfinite(mean):
            raise Diverged(f"stage {number}, step {self.progress.step + 1}: the loss is {mean}; begin anew with a smaller --rate")
        return mean

    def _rate(self, number: int) -> float:
        """Warm up, then fall along a cosine to nothing."""
        steps, highest = self._recipe.steps, self._recipe.rate or STAGES[number].rate
        warm = max(1, round(WARM_UP * steps))
        done = self.progress.step
        return highest * min((done + 1) / warm, (1 + math.cos(math.pi * max(0, done - warm) / max(1, steps - warm))) / 2)

    def _count(self) -> None:
        device = self._backbone.device
        taken = tuple(map(int, crew.gather(self._feed.taken, device)))
        skipped = self._skipped + int(sum(crew.gather(len(self._feed.skipped), device)))
        self.progress = replace(self.progress, step=self.progress.step + 1, taken=taken, skipped=skipped)

    def _save(self, remembered: dict[str, Tensor]) -> None:
        if self._worker:
            return
        adapter.save(self._adapted, self._out, base=self._base, dtype=self._backbone.dtype)
        progress.save(self._out, self._recipe, self._base, self.progress, self._adapters | remembered)
