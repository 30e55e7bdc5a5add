"""The architecture of the embedded model: LLaVA-OneVision as transformers has it, small enough to ship with the code."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig

from model.backbone import Backbone

FOLDER = Path(__file__).parent / "embedded"
SIDE = 128  # pictures are squashed to this square
PATCH = 16


def config(vocabulary: int, image_token: int, video_token: int, eos_token: int) -> LlavaOnevisionConfig:
    """SigLIP 4 x 128 over 64 patches (pooled to 16 tokens a frame) into Qwen2 5 x 192: 3.1 M parameters."""
    vision = SiglipVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, image_size=SIDE, patch_size=PATCH
    )
    vision.vision_use_head = False
    text = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},  # as Qwen2's: most of a key says what, whatever the distance
        tie_word_embeddings=True,
        eos_token_id=eos_token,
        bos_token_id=None,
        pad_token_id=eos_token,
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        video_token_index=video_token,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )


def fresh(vocabulary: int, image_token: int, video_token: int, eos_token: int, seed: int = 0) -> LlavaOnevisionForConditionalGeneration:
    """An untrained embedded model."""
    torch.manual_seed(seed)
    return LlavaOnevisionForConditionalGeneration(config(vocabulary, image_token, video_token, eos_token)).float()


def tower_of(source: Path) -> dict[str, torch.Tensor]:
    """A vision tower's weights, of its own file or of a saved model's folder."""
    if source.is_file():
        return load_file(source)
    weights: dict[str, torch.Tensor] = Backbone.load(source).net.model.vision_tower.state_dict()
    return weights
