"""Models of real size with random weights, made where they run: speed and memory need the shape, not the training."""

from typing import Any

import torch
from transformers import AutoModelForImageTextToText, LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

from model.backbone import Backbone

SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
SHAPES: dict[str, tuple[dict[str, int], dict[str, int]]] = {  # vision, text
    "7b": (  # LLaVA-Video-7B: SigLIP so400m at 384 pixels, Qwen2-7B
        SO400M | {"image_size": 384, "patch_size": 14},
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
    ),
    "0.5b": (  # LLaVA-OneVision-0.5B: the same eyes, Qwen2-0.5B
        SO400M | {"image_size": 384, "patch_size": 14},
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
    ),
    "tiny": (  # for a CPU: every part, in milliseconds
        {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
        },
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 300,
        },
    ),
}
QUESTION = "is there a car?"  # with what closes a prompt, 24 tokens: about what it is in Qwen2's own


class ByteTokens:
    """Every byte a token: prompts of the usual length without a vocabulary's files."""

    eos_token_id = 299
    chat_template = "bytes"

    def apply_chat_template(self, messages: Any, **_: object) -> str:
        """14 tokens before the frames and 9 behind the question, as in Qwen2's template."""
        words = messages[0]["content"][1]["text"]
        return f"you see videos<video>{words} answer: "

    def __call__(self, text: str, **_: object) -> Any:
        """Their token ids."""
        return type("Encoding", (), {"input_ids": list(text.encode())})

    def convert_ids_to_tokens(self, token: int) -> str:
        """The one that is asked for stands for the frames."""
        return "<video>"

    def get_vocab(self) -> dict[str, int]:
        """All of them."""
        return {chr(i): i for i in range(256)}


def config(shape: str) -> LlavaOnevisionConfig:
    """The configuration of a shape in SHAPES."""
    vision, text = SHAPES[shape]
    tower = SiglipVisionConfig(**vision)
    tower.vision_use_head = False
    language = Qwen2Config(
        **text,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=shape == "0.5b",
    )
    return LlavaOnevisionConfig(
        vision_config=tower,
        text_config=language,
        image_token_index=257,
        video_token_index=258,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=shape == "0.5b",
    )


def build(shape: str, device: torch.device, dtype: torch.dtype) -> Backbone:
    """A model of this shape with random weights, made on the device."""
    torch.manual_seed(0)
    with device:
        net = AutoModelForImageTextToText.from_config(config(shape), dtype=dtype, attn_implementation="eager")
    return Backbone(net.eval().requires_grad_(False), ByteTokens())


def vision_flops(backbone: Backbone) -> int:
    """Multiplications and additions of one frame's visual tokens: tower, projector."""
    v, hidden = backbone.vision, backbone.config.hidden_size
    patches, width = (v.image_size // v.patch_size) ** 2, v.hidden_size
    embedding = 2 * patches * 3 * v.patch_size**2 * width
    layer = 2 * patches * (4 * width**2 + 2 * width * v.intermediate_size) + 4 * patches**2 * width
    projector = 2 * patches * (width * hidden + hidden**2)
    return int(embedding + v.num_hidden_layers * layer + projector)


def language_flops(backbone: Backbone, carriers: int) -> int:
    """Those of a frame's tokens and its carrier through the language model, with so many carriers before them."""
    c, tokens = backbone.config, backbone.tokens_per_frame + 1
    kv = c.num_key_value_heads * backbone.head_dim
    weights = c.hidden_size * (2 * c.hidden_size + 2 * kv + 3 * c.intermediate_size)
    seen = tokens * (len(backbone.prefix) + carriers) + tokens * (tokens + 1) // 2
    return int(c.num_hidden_layers * (2 * tokens * weights + 4 * seen * c.hidden_size))
