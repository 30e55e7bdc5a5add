"""Questions and rules over carriers, and what they cost without carriers or without this code: the baselines."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import DynamicCache

from bench.gpu.prefill import full_cameras, pictures, plain_frame, random_past
from bench.gpu.run import Bench, Row, attention, row
from bench.gpu.shapes import QUESTION
from model.context import Carriers, attend, prefix_cache
from model.decoding import read
from model.together import Answering, judge

YES, NO = (ord("y"), ord("Y")), (ord("n"), ord("N"))


def gathered(kv: Tensor) -> Carriers:
    """Carriers on the device from kv [sets, carriers, layers, 2, kv_heads, head_dim]."""
    keys, values = kv.permute(3, 2, 0, 4, 1, 5)
    return Carriers(keys=keys, values=values, counts=torch.full((len(kv),), kv.shape[1], device=kv.device))


def first_token(bench: Bench, carriers: int) -> Iterator[Row]:
    """From carriers in the host's memory to the first token of an answer, with the evidence and without it."""
    what, setting = "time to first token", f"{carriers} carriers"
    times = _first_token(bench, carriers, evidence=True)
    yield row(what, f"{setting}, with evidence", "ms", times)
    yield row(what, setting, "ms", _first_token(bench, carriers, evidence=False))


@torch.inference_mode()
def _first_token(bench: Bench, carriers: int, *, evidence: bool) -> list[float]:
    b, prefix = bench.backbone, prefix_cache(bench.backbone, 1)
    host = bench.pinned(random_past(bench, 1, carriers)[1])
    suffix = b.suffix(QUESTION)

    def ask() -> int:
        told = read(b, gathered(host.to(b.device, non_blocking=True)), [suffix], prefix, attention=evidence)
        if told.attention is not None:
            told.attention.mean((0, 1, 2)).cpu()
        return int(told.logits.argmax())

    with attention(b, "eager" if evidence else b.config._attn_implementation):
        return bench.timed(ask)


@torch.inference_mode()
def speaking(bench: Bench, questions: int) -> Iterator[Row]:
    """Tokens a second of so many answers at once, each over its own carriers."""
    b, tokens, carriers = bench.backbone, bench.sizes.tokens, bench.sizes.carriers[0]
    past = gathered(random_past(bench, questions, carriers)[1])
    answering = Answering(b, room=tokens + 4, graphs=bench.graphs)
    answering.join(read(b, past, [b.suffix(QUESTION)] * questions, prefix_cache(b, 1)))
    del past
    times = bench.timed(lambda: answering.next().tolist(), repeats=tokens)
    setting = f"{questions} questions, {carriers} carriers each"
    steps = sorted(times)
    yield row("tokens a second", setting, "1/s", [1000 * questions / ms for ms in steps], **{"ms a step": steps[len(steps) // 2]})


@torch.inference_mode()
def rules(bench: Bench) -> Iterator[Row]:
    """Rules judged a second: those of a camera together over its carriers, and each by itself."""
    (cameras, count, carriers), b = bench.sizes.watched, bench.backbone
    past, prefix = gathered(random_past(bench, cameras, carriers)[1]), prefix_cache(b, 1)
    suffixes = [b.suffix(QUESTION)] * count

    def together() -> Tensor:
        return judge(b, past, suffixes, YES, NO, prefix).cpu()

    def one_by_one() -> list[Tensor]:
        return [judge(b, past, [suffix], YES, NO, prefix).cpu() for suffix in suffixes]

    for label, call in (("together", together), ("one by one", one_by_one)):
        times = bench.timed(call, warmup=2)
        rates = [1000 * cameras * count / ms for ms in times]
        setting = f"{cameras} cameras x {count} rules, M={carriers}, {label}"
        yield row("cameras x rules a second", setting, "1/s", rates, **{"ms for all": sorted(times)[len(times) // 2]})


@torch.inference_mode()
def dense(bench: Bench) -> Iterator[Row]:
    """Baseline: all frames seen again for a question, all of their tokens in one pass."""
    b, frames = bench.backbone, bench.sizes.dense
    resident = full_cameras(bench, 1, 1)
    shots, suffix = pictures(bench, frames), torch.tensor(b.suffix(QUESTION), device=b.device)
    prefix = torch.tensor(b.prefix, device=b.device)

    def read(tokens: Tensor) -> int:
        whole = torch.cat((b.embed(prefix), tokens.flatten(0, 1), b.embed(suffix)))[None]
        past = Carriers(keys=torch.empty(0, 1, 0, 0, 0, device=b.device), values=whole[:0], counts=torch.zeros(1, device=b.device))
        length = whole.shape[1]
        mask = None if bench.fused else attend(b, past, length)[:, :, -length:]
        out = b.run(whole, torch.arange(length, device=b.device)[None], DynamicCache(), mask)
        return int(b.logits(out.last_hidden_state[0, -1]).argmax())

    seen = resident.see(shots.to(b.device))
    what = "baseline: time to first token"
    yield row(what, f"dense, {frames} frames seen before, all tokens read again", "ms", bench.timed(lambda: read(seen), warmup=1))
    times = bench.timed(lambda: read(resident.see(shots.to(b.device, non_blocking=True))), warmup=1)
    yield row(what, f"dense, {frames} frames from their pictures", "ms", times)


def retrieving(bench: Bench) -> Iterator[Row]:
    """Baseline: a few full frames' keys and values from the host, as ReKV retrieves them; choosing them is not counted."""
    frames = bench.sizes.retrieved
    times = _first_token(bench, frames * bench.backbone.tokens_per_frame, evidence=False)
    yield row("baseline: time to first token", f"ReKV-style, {frames} retrieved frames of full keys and values", "ms", times)


@torch.inference_mode()
def plain_loop(bench: Bench) -> Iterator[Row]:
    """Baseline: one camera, frame by frame, keys and values in Python lists, as public code for this method does it."""
    b, live = bench.backbone, bench.sizes.lives[0]
    embeddings, kv = (list(each[0]) for each in random_past(bench, 1, live))
    shots = pictures(bench, 1)
    resident = full_cameras(bench, 1, 1)

    def step() -> None:
        tokens = resident.see(shots.to(b.device))
        embedding, keys, values = plain_frame(b, tokens, gathered(torch.stack(kv)[None]))
        embeddings.append(embedding[0])
        kv.append(torch.stack((keys, values), 1)[:, :, 0, :, 0])
        goes = _most_alike(embeddings)
        del embeddings[goes], kv[goes]
        kv[-1].cpu()

    with attention(b, "sdpa"), torch.compiler.set_stance("force_eager"):
        times = bench.timed(step)
    rate = 1000 / sorted(times)[len(times) // 2]
    yield row("baseline: ms a frame, all", f"plain loop, 1 camera, M={live}", "ms", times, **{"frames/s": rate})


def _most_alike(embeddings: Sequence[Tensor]) -> int:
    return int(torch.stack([cosine_similarity(a, b, dim=0) for a, b in pairwise(embeddings)]).argmax())
