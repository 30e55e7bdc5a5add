"""Frames to carriers: what each way to run them is worth, batches of cameras with full memories, and memory that stays flat."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from bench.gpu.run import Bench, Measurement, NotHere, Row, attention, row
from bench.gpu.shapes import language_flops, vision_flops
from model.backbone import Backbone
from model.context import Carriers, frame_pass
from model.fast import Graphed, compile_small_steps, fuse_attention
from model.resident import Resident

GIB = 1 << 30


def ceilings(bench: Bench) -> Iterator[Row]:
    """What the machine can do at best: a large product, and large copies."""
    side, copied = bench.sizes.square, bench.sizes.copied
    a, b = (torch.randn(side, side, device=bench.device, dtype=bench.backbone.dtype) for _ in range(2))
    rates = [2 * side**3 / ms / 1e9 for ms in bench.timed(lambda: a @ b)]
    matmul = row("ceiling: matrix product", f"{side}^3, {a.dtype}", "TFLOP/s", rates)
    bench.matmul = matmul.median * 1e12
    yield matmul
    source = torch.randint(0, 255, (copied,), device=bench.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    yield _rate("ceiling: copy on the device", 2 * copied, bench.timed(lambda: target.copy_(source)))
    host = bench.pinned(source[: copied // 4])
    yield _rate("ceiling: copy from the host", len(host), bench.timed(lambda: target[: len(host)].copy_(host, non_blocking=True)))


def _rate(what: str, moved: int, times_ms: list[float]) -> Row:
    return row(what, f"{moved / GIB:.2g} GiB moved", "GB/s", [moved / ms / 1e6 for ms in times_ms])


def random_past(bench: Bench, cameras: int, live: int) -> tuple[Tensor, Tensor]:
    """Carriers that no frame made: embeddings [cameras, live, hidden] and kv [cameras, live, layers, 2, kv_heads, head_dim]."""
    b = bench.backbone
    embeddings = torch.randn(cameras, live, b.config.hidden_size, device=b.device, dtype=b.dtype)
    shape = (cameras, live, b.config.num_hidden_layers, 2, b.config.num_key_value_heads, b.head_dim)
    return embeddings, torch.randn(shape, device=b.device, dtype=b.dtype)


def pictures(bench: Bench, cameras: int) -> Tensor:
    """Random pictures [cameras, 3, side, side] uint8 on the host."""
    side = bench.backbone.vision.image_size
    return bench.pinned(torch.randint(0, 256, (cameras, 3, side, side), dtype=torch.uint8))


def full_cameras(bench: Bench, cameras: int, live: int, *, loud: float = 1.0) -> Resident:
    """Cameras whose memories are full, of keys and values as large as `loud`."""
    resident = Resident(bench.backbone, cameras=cameras, live=live, graphs=bench.graphs)
    embeddings, kv = random_past(bench, cameras, live)
    resident.recall(range(cameras), embeddings, kv.mul_(loud))
    return resident


def plain_frame(backbone: Backbone, tokens: Tensor, past: Carriers) -> tuple[Tensor, Tensor, Tensor]:
    """The textbook way for tokens [frames, tokens, hidden]: embeddings, keys and values of the carriers, as `unrotated` has them."""
    made = frame_pass(backbone, tokens, past)
    return tokens.mean(1)[:, : backbone.hidden], made.keys, made.values


def ways() -> list[Measurement]:
    """The ways to run the same batch, each with what it adds to the one before; what works and is faster stays on."""
    return [
        (f"way to run: {label}", partial(_way, label=label, enable=enable))
        for label, enable in (
            ("eager attention", lambda bench: None),
            ("+ fused attention", lambda bench: fuse_attention(bench.backbone)),
            ("+ CUDA graphs", lambda bench: setattr(bench, "graphs", True)),
            ("+ compiled norms, MLPs, vision", lambda bench: compile_small_steps(bench.backbone)),
        )
    ]


def _way(bench: Bench, label: str, enable: Callable[[Bench], None]) -> Iterator[Row]:
    before = bench.backbone.config._attn_implementation, bench.graphs
    enable(bench)
    try:
        result = _compare(bench, label)
        keeps = result.median < bench.fastest_ms
    except RuntimeError:
        _disable(bench, *before)
        raise
    if keeps:
        bench.fastest_ms = result.median
    elif bench.device.type == "cuda":
        _disable(bench, *before)
    yield result


def _disable(bench: Bench, attending: str, graphs: bool) -> None:
    bench.backbone.net.set_attn_implementation({"text_config": attending, "vision_config": "eager" if attending == "eager" else "sdpa"})
    bench.graphs = graphs
    torch.compiler.set_stance("force_eager")  # compiling comes last, so that nothing compiled is lost with it


@torch.inference_mode()
def _compare(bench: Bench, label: str) -> Row:
    """Milliseconds a frame, and how far its carriers are from those of the textbook way, one by one."""
    torch.manual_seed(1)
    cameras, live = bench.sizes.compared, bench.sizes.lives[0]
    # Random weights hardly look at a memory of usual size: wrong positions would pass for rounding.
    resident, shots = full_cameras(bench, cameras, live, loud=4), pictures(bench, cameras)
    off = max(_off(bench, resident, shots) for _ in range(3))  # the first loads, the second records, the third replays
    if bench.rounding is None:
        bench.rounding = off  # eager attention rounds most
    if not off <= max(0.02, 3 * bench.rounding):
        raise RuntimeError(f"carriers are off the textbook's by {off:.2g}, where rounding makes {bench.rounding:.2g}")
    times = bench.timed(lambda: resident.prefill(shots, range(cameras)).wait())
    return row("ms a frame, way to run", f"{cameras} cameras, M={live}, {label}", "ms", [ms / cameras for ms in times], off_by=off)


def _off(bench: Bench, resident: Resident, shots: Tensor) -> float:
    """||carriers - textbook's|| / ||textbook's|| of the last camera's next frame."""
    memories, b = resident.memories, bench.backbone
    rows = memories.order[-1]
    past = Carriers(keys=memories.keys[:, -1:, :, rows], values=memories.values[:, -1:, :, rows], counts=memories.counts[-1:])
    with attention(b, "sdpa"), torch.compiler.set_stance("force_eager"):
        _, keys, values = plain_frame(b, resident.see(shots[-1:].to(b.device)), past)
    textbook = torch.cat((keys, values), -1)[:, 0, :, 0].float().cpu()
    kv = resident.prefill(shots, range(len(shots))).wait().kv[-1]
    return float((torch.cat((kv[:, 0], kv[:, 1]), -1).float() - textbook).norm() / textbook.norm())


@torch.inference_mode()
def vision(bench: Bench, cameras: int) -> Iterator[Row]:
    """The vision tower and the projector alone, pictures on the device."""
    resident = Resident(bench.backbone, cameras=1, live=1)
    see = Graphed(resident.see, bench.device) if bench.graphs else resident.see
    shots = pictures(bench, cameras).to(bench.device)
    times = [ms / cameras for ms in bench.timed(lambda: see(shots))]
    yield row("ms a frame, vision", f"{cameras} cameras", "ms", times, **_share(bench, times, vision_flops(bench.backbone)))


@torch.inference_mode()
def cell(bench: Bench, cameras: int, live: int) -> Iterator[Row]:
    """A batch of cameras with full memories: the language model alone, then everything from the host's pictures to the host's carriers."""
    resident, shots = full_cameras(bench, cameras, live), pictures(bench, cameras)
    setting, flops = f"{cameras} cameras, M={live}", language_flops(bench.backbone, live)
    times = _language_ms(bench, resident, shots)
    yield row("ms a frame, language model", setting, "ms", times, **_share(bench, times, flops))
    times = [ms / cameras for ms in bench.timed(lambda: resident.prefill(shots, range(cameras)).wait())]
    yield row("ms a frame, all", setting, "ms", times, **_share(bench, times, flops + vision_flops(bench.backbone)))


def _language_ms(bench: Bench, resident: Resident, shots: Tensor) -> list[float]:
    tokens, slots = resident.see(shots.to(bench.device)), torch.arange(len(shots), device=bench.device)
    remember = partial(resident.remember, full=True)
    call = Graphed(remember, bench.device) if bench.graphs else remember
    return [ms / len(shots) for ms in bench.timed(lambda: call(tokens, slots))]


def _share(bench: Bench, times_ms: list[float], flops: int) -> dict[str, float]:
    """Frames a second, and how much of the measured ceiling of matrix products that is."""
    rate = 1000 / sorted(times_ms)[len(times_ms) // 2]
    return {"frames/s": rate, "of the ceiling": rate * flops / bench.matmul} if bench.matmul else {"frames/s": rate}


def flat(bench: Bench) -> Iterator[Row]:
    """Peak memory of one camera's stream up to an early frame, and from there to a late one."""
    if bench.device.type != "cuda":
        raise NotHere("there is no accelerator whose memory could be read")
    early, late = bench.sizes.frames
    resident, shots = Resident(bench.backbone, cameras=1, live=64, graphs=bench.graphs), pictures(bench, 1)
    for first, last in ((0, early), (early, late)):
        torch.cuda.reset_peak_memory_stats()
        for _ in range(first, last):
            resident.prefill(shots, [0]).wait()
        yield row("peak memory", f"frames {first + 1} to {last}, 1 camera, M=64", "GiB", [torch.cuda.max_memory_allocated() / GIB])
