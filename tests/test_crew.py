"""Workers that train together, as torch.distributed's own processes."""

from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_adapting import RECIPE, Coloured, saved
from torch import distributed

from model.adapting.clips import Clip
from model.adapting.learning import Learning
from model.adapting.progress import CannotResume, Recipe
from model.backbone import Backbone

STILL = replace(RECIPE, steps=2, dropout=0.0)  # nothing is left to chance


class Whole(Coloured):
    """Asks over all frames, always."""

    def clip(self, index: int) -> Clip:
        clip = super().clip(index)
        return replace(clip, asked=tuple(replace(each, over=(0, 1, 2)) for each in clip.asked))


def work(worker: int, base: Path, out: Path, recipe: Recipe, meeting: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=worker, world_size=2)
    Learning(Backbone.load(base), Whole(), recipe, out).run()
    distributed.destroy_process_group()


def test_two_workers_learn_what_one_would_from_all_their_clips(tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    spawned, to = get_context("spawn"), (base, tmp_path / "two", replace(STILL, batch=1), tmp_path / "meeting")
    started = [spawned.Process(target=work, args=(worker, *to), daemon=True) for worker in range(2)]  # the run ends without them
    for process in started:
        process.start()
    for process in started:
        process.join(240)
    assert [process.exitcode for process in started] == [0, 0]

    Learning(Backbone.load(base), Whole(), replace(STILL, batch=2), tmp_path / "one").run()
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6
    with pytest.raises(CannotResume, match="workers was 2, not 1"):
        Learning(Backbone.load(base), Whole(), replace(STILL, batch=1), tmp_path / "two", resume=True)
