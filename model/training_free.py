"""The training-free mode: how a published model is used before an adapter teaches it to read carriers.

By the recipe of ReKV (arXiv 2503.00540): a frame sees the last few frames whole, and an answer the newest and the most relevant, each
by its visual tokens' keys and values. Of carriers nothing is read; they only choose which tokens are kept where not all can be.
"""

from typing import TYPE_CHECKING

from model.habits import Habits
from model.prompt import TEXT

if TYPE_CHECKING:
    from model.backbone import Backbone

LIVE = 8  # frames that the next one sees
RECENT = 4  # the newest of each camera, in every answer: alone they do well on questions about now (SimpleStream)
TOKENS = 32 * 196  # visual ones that an answer looks at: as many as LLaVA-OneVision was trained to read of a video


def untaught(backbone: "Backbone") -> Habits:
    """How to use a backbone that nobody taught anything: as much of every frame, and as many frames, as it and the memory take."""
    patches = min(backbone.tokens_per_frame, backbone.most_patches)
    room = backbone.config.max_position_embeddings - len(backbone.prefix) - TEXT
    frames = max(1, min(TOKENS // patches, room // backbone.frame_length - 1))
    return Habits(
        mode="training-free",
        live=min(LIVE, frames),
        live_policy="recency",
        budget=frames,
        recent=RECENT,
        patches=patches,
        grid=backbone.habits.grid,
    )
