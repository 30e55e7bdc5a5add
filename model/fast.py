"""What makes a backbone fast on an accelerator without changing what it computes: fused attention, fused small steps, CUDA graphs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from model.backbone import Backbone

FUSED = "longwatch_fused"
SMALL_STEPS = ("Qwen2RMSNorm", "Qwen2MLP", "SiglipEncoderLayer")  # in eager torch each is a string of passes over memory


def fused_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None, **_: object
) -> tuple[Tensor, None]:
    """Attention in one kernel; it cannot tell where it looked.

    query [batch, heads, queries, dim], key and value [batch, kv_heads, tokens, dim]. `attention_mask` is added to the scores
    [batch, 1, queries, tokens]; without one, all of the past is seen and the queries themselves causally, for which
    FlashAttention needs no mask in memory.
    """
    batch, heads, queries, dim = query.shape
    groups = heads // key.shape[1]
    if attention_mask is None:
        bias = causal_lower_right(queries, key.shape[2])
        out = scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scaling, enable_gqa=groups > 1)
    elif queries == 1:
        # The query heads that share a key head go as its queries: no key is repeated.
        together = query.reshape(batch, -1, groups, dim)
        out = scaled_dot_product_attention(together, key, value, attn_mask=attention_mask, scale=scaling).reshape(query.shape)
    else:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        out = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(FUSED, fused_attention)


def fuse_attention(backbone: Backbone) -> None:
    """Let the whole model attend in fused kernels. Such a model shows no evidence: its attention is never written down."""
    backbone.net.set_attn_implementation({"text_config": FUSED, "vision_config": "sdpa"})


def sees_past_unmasked(backbone: Backbone) -> bool:
    """Whether a pass without a mask means: all of the past, and causally themselves."""
    return bool(backbone.config._attn_implementation == FUSED)


def compile_small_steps(backbone: Backbone) -> None:
    """Compile norms, MLPs and vision layers in place: seconds, as all layers share one piece of code each."""
    for module in backbone.net.modules():
        if type(module).__name__ in SMALL_STEPS:
            module.compile(dynamic=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Recording:
    inputs: tuple[Tensor, ...]
    outputs: Any
    graph: torch.cuda.CUDAGraph


class Graphed:
    """A function of tensors, recorded once for each shape of its inputs and then replayed without Python (CUDA graphs).

    It must not wait for the device nor take anything from the host but its inputs, which are copied to the device
    asynchronously; it may change tensors in place. What it returns is overwritten by the next call with the same
    shapes. Away from CUDA it is simply called. Not thread-safe.
    """

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        self._function = function
        self._device = device
        self._recordings: dict[tuple[torch.Size, ...], _Recording | None] = {}

    def __call__(self, *inputs: Tensor) -> Any:
        """The function's result."""
        shapes = tuple(each.shape for each in inputs)
        if self._device.type != "cuda" or shapes not in self._recordings:
            # The first call loads and compiles kernels, which cannot be recorded, and does the work as well.
            self._recordings[shapes] = None
            return self._function(*self._move(inputs))
        recording = self._recordings[shapes] or self._record(shapes, inputs)
        for place, new in zip(recording.inputs, inputs, strict=True):
            place.copy_(new, non_blocking=True)
        recording.graph.replay()
        return recording.outputs

    def _record(self, shapes: tuple[torch.Size, ...], inputs: tuple[Tensor, ...]) -> _Recording:
        """Recording computes nothing: the replay that follows does."""
        places = tuple(each.clone() for each in self._move(inputs))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._function(*places)
        recording = self._recordings[shapes] = _Recording(inputs=places, outputs=outputs, graph=graph)
        return recording

    def _move(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(each.to(self._device, non_blocking=True) for each in inputs)
