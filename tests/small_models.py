"""Small random models of every family, films to show them, and how far two results may lie apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForImageTextToText,
    LlavaOnevisionConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen3VLConfig,
    SiglipImageProcessorPil,
)
from transformers.masking_utils import eager_mask
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from model.backbone import Backbone
from model.habits import Habits, Spacing
from model.memory import LiveMemory
from model.videoscan import VideoScan
from pipeline.core import Carrier, Frame

torch.set_num_threads(1)

F64, F32 = torch.float64, torch.float32
PATCH = 4
LLAVA, QWEN2, QWEN3 = KINDS = ("llava_onevision", "qwen2_5_vl", "qwen3_vl")
END, ANSWER, VIDEO, PAD, START, STOP = "<end>", "<answer>", "<video>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
OPENINGS = (END, "look: ", "You watch cameras. ")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
DTYPES = pytest.mark.parametrize("dtype", [F64, F32], ids=["float64", "float32"])
some_models = settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])  # shrinking takes long


@dataclass(frozen=True)
class Shape:
    """A model's sizes, all drawn at random."""

    kind: str = LLAVA
    layers: int = 2
    kv_heads: int = 2
    groups: int = 2  # query heads to one of keys
    head_dim: int = 8
    grid: int = 4  # patches along a side, pooled to ceil(grid / 2) squared tokens; Qwen-VL: that many down, and one more or less across
    theta: float = 10_000.0
    opening: str = "look: "  # the prompt before the frames
    spacing: Spacing = "frame-length"
    patches: int | Literal["all"] = 0
    tied: bool = True  # words are scored by their own embeddings, which makes a random model repeat itself
    seed: int = 1

    @property
    def visual(self) -> tuple[int, int]:
        """Visual tokens of a frame, down and across."""
        down = (self.grid + 1) // 2
        return (down, down if self.kind == LLAVA else self.grid // 2 + 1)


def shapes(spacing: Sequence[Spacing] = ("frame-length", "unit")) -> st.SearchStrategy[Shape]:
    """Of the first family; tests put the others in its place."""
    return st.builds(
        Shape,
        layers=st.integers(1, 3),
        kv_heads=st.integers(1, 3),
        groups=st.integers(1, 3),
        head_dim=st.sampled_from([8, 16]),
        grid=st.sampled_from([3, 4, 5, 6, 7, 8]),
        theta=st.sampled_from([100.0, 10_000.0, 1_000_000.0]),
        opening=st.sampled_from(OPENINGS),
        spacing=st.sampled_from(spacing),
        seed=st.integers(0, 1 << 16),
    )


def tokenizer(kind: str = LLAVA, opening: str = "look: ") -> PreTrainedTokenizerFast:
    """Byte-level BPE that knows yes and no."""
    special = [END, ANSWER, VIDEO, PAD, START, STOP]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(["yes no Yes No yes no"] * 3, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=END)
    wrapped.add_special_tokens({"additional_special_tokens": special[1:]})
    video = VIDEO if kind == LLAVA else START + PAD + STOP
    wrapped.chat_template = (
        opening + "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'video' %}" + video + ""
        "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}<answer>"
    )
    return wrapped


TOKENIZERS = {(kind, opening): tokenizer(kind, opening) for kind in KINDS for opening in OPENINGS}


def config(shape: Shape) -> Any:
    words = TOKENIZERS[shape.kind, shape.opening]
    heads, half = shape.kv_heads * shape.groups, shape.head_dim // 2
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": shape.theta}
    if shape.kind != LLAVA:
        rope["mrope_section"] = [half // 2, half // 4, half // 4]
    text = {
        "vocab_size": len(words),
        "hidden_size": heads * shape.head_dim,
        "intermediate_size": 40,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 8192,
        "rope_parameters": rope,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.eos_token_id,
    }
    tower = {"hidden_size": 16, "intermediate_size": 32, "patch_size": PATCH}
    ids = dict(zip(("v", "p", "s", "e"), words.convert_tokens_to_ids([VIDEO, PAD, START, STOP]), strict=True))
    if shape.kind == LLAVA:
        siglip = {"model_type": "siglip_vision_model", "num_hidden_layers": 1, "num_attention_heads": 2, "vision_use_head": False}
        return LlavaOnevisionConfig(
            vision_config=tower | siglip | {"image_size": shape.grid * PATCH},
            text_config=text | {"model_type": "qwen2"},
            image_token_index=ids["v"],
            video_token_index=ids["v"],
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
            tie_word_embeddings=shape.tied,
        )
    tower |= {"num_heads": 2, "out_hidden_size": heads * shape.head_dim, "depth": 3}
    if shape.kind == QWEN2:
        tower |= {"window_size": 4 * PATCH, "fullatt_block_indexes": [1], "tokens_per_second": 2}
    else:
        tower |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
        text |= {"head_dim": shape.head_dim}
    return {QWEN2: Qwen2_5_VLConfig, QWEN3: Qwen3VLConfig}[shape.kind](
        vision_config=tower,
        text_config=text,
        image_token_id=ids["v"],
        video_token_id=ids["p"],
        vision_start_token_id=ids["s"],
        vision_end_token_id=ids["e"],
        tie_word_embeddings=shape.tied,
    )


def network(shape: Shape, dtype: torch.dtype) -> Any:
    torch.manual_seed(shape.seed)
    net = AutoModelForImageTextToText.from_config(config(shape)).to(dtype).eval().requires_grad_(False)
    for weights in net.parameters():  # fresh weights hardly tell one frame from another
        weights += 0.1 * torch.randn_like(weights)
    if not shape.tied:
        net.get_input_embeddings().weight *= 10  # so that the next word depends on the last
    return net


def exact_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: object
) -> tuple[Tensor, Tensor]:
    groups = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * scaling
    weights = (scores if attention_mask is None else scores + attention_mask).softmax(-1)
    return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2), weights


AttentionInterface.register("exact", exact_attention)
AttentionMaskInterface.register("exact", eager_mask)


def in_float64(net: Any) -> None:
    """Takes in float64 what transformers takes in float32 whatever the weights are."""
    net.set_attn_implementation("exact")
    for module in list(net.model.language_model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                norm = nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon, dtype=F64)
                norm.weight = child.weight
                setattr(module, name, norm)


ONE = Shape()


def backbone(shape: Shape = ONE, dtype: torch.dtype = F64) -> Backbone:
    net = network(shape, dtype)
    if dtype == F64:
        in_float64(net)
    else:
        net.set_attn_implementation("eager")
    return Backbone(net, TOKENIZERS[shape.kind, shape.opening], Habits(spacing=shape.spacing, grid=shape.visual, patches=shape.patches))


def save(b: Backbone, folder: Path) -> None:
    """Write Hugging Face layout."""
    b.net.save_pretrained(folder)
    b.tokenizer.save_pretrained(folder)
    processor = SiglipImageProcessorPil if b.net.config.model_type == LLAVA else Qwen2VLImageProcessorPil
    processor(image_mean=list(b.channels[0]), image_std=list(b.channels[1])).save_pretrained(folder)
    b.habits.save(folder)


def frames(count: int, camera: str = "gate", seed: int = 0, size: tuple[int, int] = (24, 32), apart_ms: int = 1000) -> list[Frame]:
    """Random pictures, a second apart."""
    r = np.random.default_rng([seed, *camera.encode()])
    pictures = (r.integers(0, 256, (*size, 3), np.uint8) for _ in range(count))
    return [Frame(camera_id=camera, pts_ns=i, captured_ms=apart_ms * i, image=picture) for i, picture in enumerate(pictures)]


def stream(scan: VideoScan, film: Sequence[Frame]) -> tuple[list[Carrier], LiveMemory]:
    """Frame by frame, as a camera is served."""
    memory, carriers = scan.memory(), []
    for frame in film:
        carriers += scan.prefill([frame], [memory])
        memory.add(carriers[-1])
    return carriers, memory


def kv(carriers: Sequence[Carrier]) -> NDArray[np.float64]:
    return np.stack([carrier.kv for carrier in carriers])  # [carriers, layers, 2, kv_heads, head_dim]


def off(a: object, b: object) -> float:
    """The largest difference, on the scale of the largest value."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert x.shape == y.shape
    return float(np.abs(x - y).max() / max(1.0, np.abs(y).max()))


def bound(dtype: torch.dtype) -> float:
    return 1e-12 if dtype == F64 else 1e-4


def first_tokens(b: Backbone, word: str) -> list[int]:
    ways = (word, f" {word}", word.title(), f" {word.title()}")
    return sorted({b.tokenizer(way, add_special_tokens=False).input_ids[0] for way in ways})
