"""The head that says which carriers a question is about, on small models: its arithmetic, its file, and what an answer looks at for it."""

import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from carriers import Watched
from numpy.typing import NDArray
from safetensors.torch import load_file, save_model
from small_models import EVERY_KIND, F32, ONE, Shape, backbone, bound, frames, off, stream

from model import embedded, footage, hours, pretrain_tower, relevance, train_relevance
from model.backbone import Backbone
from model.examples import Library
from model.probe import SUBJECTS
from model.relevance import CLASSES, Relevance
from model.videoscan import VideoScan
from pipeline.answerer import Answerer
from pipeline.core import VECTOR, Carrier, Frame, Question
from pipeline.prefiller import Prefiller
from simulator.visits import CAMERAS
from simulator.watching import HINT
from simulator.world import Site

QUESTION = "Was there a red car?"


def head_of(b: Backbone, seed: int = 0) -> Relevance:
    torch.manual_seed(seed)
    return Relevance.of(b).eval().requires_grad_(False)


def scan_of(b: Backbone, head: Relevance | None) -> VideoScan:
    return VideoScan(b, live=4, relevance=head)


def even(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row with mean 0 and variance 1."""
    return (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + 1e-5)


def gelu(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows * (1 + np.vectorize(math.erf)(rows / math.sqrt(2))) / 2


def mapped(part: torch.nn.Module, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = {name: each.double().numpy() for name, each in part.state_dict().items()}
    layers = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    rows = even(rows)
    for layer in layers:
        rows = (rows if layer == layers[0] else gelu(rows)) @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
    return rows


def compared(layer: torch.nn.Module, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The patches of a frame after attention to one another and two maps, what goes in added to what comes out each time."""
    w = {name: each.double().numpy() for name, each in layer.state_dict().items()}
    x = even(rows) * w["norm1.weight"] + w["norm1.bias"]
    told = x @ w["self_attn.in_proj_weight"].T + w["self_attn.in_proj_bias"]
    queries, keys, values = told.reshape(len(rows), 3, relevance.HEADS, -1).transpose(1, 2, 0, 3)
    alike = np.exp(queries @ keys.transpose(0, 2, 1) / np.sqrt(keys.shape[-1]))
    seen = (alike / alike.sum(-1, keepdims=True) @ values).transpose(1, 0, 2).reshape(rows.shape)
    rows = rows + seen @ w["self_attn.out_proj.weight"].T + w["self_attn.out_proj.bias"]
    x = even(rows) * w["norm2.weight"] + w["norm2.bias"]
    return rows + gelu(x @ w["linear1.weight"].T + w["linear1.bias"]) @ w["linear2.weight"].T + w["linear2.bias"]


def vectors(carriers: Sequence[Carrier]) -> NDArray[np.float32]:
    return np.stack([carrier.vector for carrier in carriers if carrier.vector is not None])


@EVERY_KIND
def test_vectors_are_the_maps_of_patches_and_question(kind: str) -> None:
    b = backbone(Shape(kind=kind), F32)
    head = head_of(b)
    head.groups[3, :7] = 1
    head.scale.fill_(2)
    scan = scan_of(b, head)
    carriers = scan.prefill(film := frames(6), [scan.memory() for _ in range(6)])
    features = b.features([frame.image for frame in film]).double().numpy()
    looks = np.exp([mapped(head.patch, compared(head.around, mapped(head.inward, patches))) for patches in features])
    shown = np.stack([looks[..., :7].sum(-1) if i == 3 else looks[..., i] for i in range(VECTOR - 1)], -1)
    others = looks.sum(-1, keepdims=True) - shown
    largest = np.log(shown / others).max(1)
    assert off(vectors(carriers), np.hstack((largest, np.ones((6, 1))))) < bound(F32)
    words = torch.tensor([[*b.prefix, *b.suffix(QUESTION)]])
    states = b.net.model.language_model(inputs_embeds=b.embed(words)).last_hidden_state[0].double().numpy()  # as transformers reads it
    read = np.concatenate((states[-1], states[len(b.prefix) :].mean(0)))
    *about, bias = mapped(head.question, read[None])[0]
    assert off(scan.sought(QUESTION), np.append(2 * np.exp(about) / np.exp(about).sum(), bias)) < bound(F32)


def test_a_head_that_is_surer_than_it_is_right_is_made_as_sure_as_it_is() -> None:
    """Whichever of two carriers it thought likelier, it still does: only how likely changes."""
    logits = 8 * torch.randn(200_000, generator=torch.manual_seed(0))
    truth = torch.rand(200_000, generator=torch.manual_seed(1)) < (0.5 * logits - 1).sigmoid()
    slope, offset = train_relevance.fitted(logits, truth)
    assert (slope, offset) == pytest.approx((0.5, -1), abs=0.05)
    b = backbone(ONE, F32)
    head, states = head_of(b), relevance.read(b, QUESTION)[None]
    vectors = torch.randn(9, VECTOR)
    vectors[:, -1] = 1  # as every carrier's

    def told() -> torch.Tensor:
        return head.questions(head.about(states)) @ vectors.T

    before = told()
    head.rescale(slope, offset)
    assert torch.allclose(told(), slope * before + offset, atol=1e-5)


def test_a_model_without_a_head_says_so() -> None:
    scan = scan_of(backbone(ONE, F32), None)
    carriers, _ = stream(scan, frames(2))
    assert (scan.head, [c.vector for c in carriers], scan.sought(QUESTION)) == (None, [None, None], None)


def test_a_head_is_named_by_its_weights_and_comes_back_from_its_file(tmp_path: Path) -> None:
    b = backbone(ONE, F32)
    head = head_of(b)
    assert relevance.load(b, tmp_path) is None and relevance.load(b, "some/model-on-a-hub") is None
    save_model(head, str(tmp_path / relevance.FILE))
    again = relevance.load(b, tmp_path)
    assert again is not None and again.digest == head.digest != head_of(b, seed=1).digest
    scan = scan_of(b, again)
    assert scan.head == head.digest
    before, after = (vectors(stream(each, frames(2))[0]) for each in (scan_of(b, head), scan))
    assert np.array_equal(before, after)
    with pytest.raises(RuntimeError, match="size mismatch"):
        relevance.load(backbone(Shape(kv_heads=3), F32), tmp_path)


def test_serving_needs_no_training_code() -> None:
    told = "import model.videoscan, sys; print(*[m for m in sys.modules if m.startswith(('simulator', 'model.')) or m == 'typer'])"
    found = subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True).stdout.split()
    assert "model.relevance" in found
    assert not {name for name in found if name.startswith(("simulator", "typer")) or name in ("model.examples", "model.train_relevance")}


def looking_for(b: Backbone, target: Frame) -> Relevance:
    """A head to which every question is about one frame: the more alike a patch is to its first, the more its frame is about that too."""
    head = head_of(b)
    like = even(b.features([target.image])[0, :1].double().numpy())
    idle = (head.around.self_attn.out_proj, head.around.linear2)  # no patch is compared with others
    for layer in (head.inward[1], *idle, head.patch[1], head.patch[3], head.question[1], head.question[3]):
        layer.weight.zero_()
        layer.bias.zero_()
    head.inward[1].weight[0] = torch.tensor(like[0] / like.size)  # 1 for the same patch, else less
    head.inward[1].bias[1] = 10.0  # against which it is large or small
    head.patch[1].weight[0, 0] = 1.0
    head.patch[3].weight[0, 0] = float(1 / gelu(even(mapped(head.inward, like)))[0, 0])
    head.scale.fill_(1000)
    head.question[3].bias[0], head.question[3].bias[-1] = 100.0, 1000 * math.log(CLASSES - 1) - 999  # each other class looks like 0
    return head


@pytest.mark.redis
def test_what_is_prefilled_is_looked_at_by_its_relevance(redis_url: str) -> None:
    b, film = backbone(ONE, F32), frames(60)
    scan = scan_of(b, looking_for(b, film[23]))
    store = Watched(redis_url, scan.fingerprint, head=scan.head)
    prefiller = Prefiller(scan, store.live, lambda write: store.put([write]), store.claim)
    for each in film:
        prefiller.step([each])
    ask = Answerer(scan, store, lambda: ["gate"], budget=10, now_ms=lambda: 60_000).answer
    assert ask(Question(text=QUESTION)).carriers == 10
    assert {22_000, 23_000, 24_000} <= {key.at_ms for key in store.read}
    blind = scan_of(b, head_of(b, seed=1))  # another head: of what it knows nothing was kept
    other = Watched(redis_url, blind.fingerprint, head=blind.head)
    Answerer(blind, other, lambda: ["gate"], budget=10, now_ms=lambda: 60_000).answer(Question(text=QUESTION))
    assert np.ptp(np.diff([key.at_ms for key in other.read][:-1])) <= 1000
    store.close()
    other.close()


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage")
    footage.main(folder, sites=2, seconds=40)
    return folder


def test_a_head_is_trained_and_tells_what_resembles_what(filmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the commands of the recipe: what a frame shows resembles it more than what it does not."""
    monkeypatch.setattr(train_relevance, "FRAMES", 32)  # for many steps in little time
    model = tmp_path / "model"
    shutil.copytree(embedded.FOLDER, model, ignore=shutil.ignore_patterns(relevance.FILE))
    train_relevance.main(filmed, model, minutes=0.2)
    hours.main(filmed, model, tmp_path / "table.npy")
    table = np.load(tmp_path / "table.npy")
    assert table.shape == (2, 2, 4, 40, len(SUBJECTS)) and table.dtype == np.float16
    shown = Library(filmed, Backbone.load(model)).showing
    assert table[0][shown[0] == 1].mean() > table[0][shown[0] == 0].mean() + 1  # the first site is taught, the last checks it


def crowded(folder: Path, seed: int) -> float:
    """Share of a site's pictures in which one thing may stand before another."""
    site, (_, times) = Site(seed), footage.read(folder, seed)
    shown = [[s.x for s in site.sightings(camera, t) if s.visible >= HINT] for camera, row in zip(CAMERAS, times, strict=True) for t in row]
    return sum(any(abs(a - b) < footage.BEFORE for a, b in combinations(xs, 2)) for xs in shown) / len(shown)


def test_crowded_footage_shows_things_that_stand_before_others(filmed: Path, tmp_path: Path) -> None:
    footage.main(tmp_path, sites=1, seconds=10, workers=1, first=100_000, crowded=True)
    pictures, times = footage.read(tmp_path, 100_000)
    assert pictures.shape == (4, 10, 128, 128, 3) and (np.diff(times) > 0).all()
    assert crowded(tmp_path, 100_000) > 0.5 and crowded(filmed, 1_000) < 0.3


def test_a_head_goes_on_from_what_it_knows_over_crowded_frames_too(filmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_relevance, "FRAMES", 32)
    monkeypatch.setattr(train_relevance, "RATE", 1e-5)
    model = tmp_path / "model"
    shutil.copytree(embedded.FOLDER, model, ignore=shutil.ignore_patterns(relevance.FILE))
    with pytest.raises(typer.BadParameter, match="no relevance.safetensors"):
        train_relevance.main(filmed, model, resume=True)
    shutil.copy(embedded.FOLDER / relevance.FILE, model)
    train_relevance.main(filmed, model, minutes=0.05, crowded=filmed, resume=True)
    before, after = (load_file(folder / relevance.FILE) for folder in (embedded.FOLDER, model))
    assert 0 < off(after["patch.1.weight"], before["patch.1.weight"]) < 0.01


def test_a_tower_goes_on_from_what_a_saved_models_knows(filmed: Path, tmp_path: Path) -> None:
    pretrain_tower.main(filmed, tmp_path / "tower.safetensors", minutes=0.02, batch=4, rate=1e-5, resume=embedded.FOLDER)
    before, after = (embedded.tower_of(source) for source in (embedded.FOLDER, tmp_path / "tower.safetensors"))
    assert 0 < max(off(after[name], before[name]) for name in before) < 0.01
