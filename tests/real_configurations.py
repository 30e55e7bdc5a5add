"""Configurations of published checkpoints, written down: nothing is fetched.

Sizes are public knowledge, checked here by the number of parameters that they give. Not certain, and of no weight for what is
tested: the padded vocabularies (152,000 and 152,128) of the two LLaVA-OneVision models, and `max_position_embeddings` of Qwen2.5-VL.
"""

from typing import Any

import torch
from small_models import LLAVA, PAD, TOKENIZERS, VIDEO
from transformers import AutoModelForImageTextToText, LlavaOnevisionConfig, Qwen2_5_VLConfig, Qwen3VLConfig

from model.backbone import Backbone

QWEN2_05B = {
    "model_type": "qwen2",
    "vocab_size": 152_000,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
QWEN2_7B = QWEN2_05B | {
    "vocab_size": 152_128,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
QWEN25_TEXT = {k: v for k, v in QWEN2_7B.items() if k != "model_type"} | {
    "vocab_size": 152_064,
    "max_position_embeddings": 128_000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
QWEN25_TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "tokens_per_second": 2,
}
QWEN3_TEXT = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262_144,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True},
}
QWEN3_TOWER = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096}


def configurations() -> dict[str, Any]:
    return {
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": LlavaOnevisionConfig(text_config=QWEN2_05B, tie_word_embeddings=True),
        "llava-hf/llava-onevision-qwen2-7b-ov-hf": LlavaOnevisionConfig(text_config=QWEN2_7B),
        "Qwen/Qwen2.5-VL-7B-Instruct": Qwen2_5_VLConfig(text_config=QWEN25_TEXT, vision_config=QWEN25_TOWER),
        "Qwen/Qwen3-VL-8B-Instruct": Qwen3VLConfig(text_config=QWEN3_TEXT, vision_config=QWEN3_TOWER),
    }


def real(name: str, config: Any = None) -> Backbone:
    """With a tokenizer of the tests' own, since none is fetched: prompts differ, and so do fingerprints from the real ones."""
    config = config or configurations()[name]
    words = TOKENIZERS[config.model_type, "look: "]
    config.video_token_id = words.convert_tokens_to_ids(VIDEO if config.model_type == LLAVA else PAD)
    with torch.device("meta"):
        net = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    return Backbone(net, words)
