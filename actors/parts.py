"""What every plane is made of: the settings they share, the model and the store."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import EMBEDDED_MODEL, Config
from pipeline.core import Form, LivePolicy
from storage.codec import Codec
from storage.seal import Seal
from storage.store import CarrierStore

if TYPE_CHECKING:
    from model.batch import Batch
    from model.videoscan import VideoScan
    from pipeline.batching import Seat

log = logging.getLogger(__name__)

NAMESPACE = "longwatch"  # of the named actors
BEHIND = 10  # by so much (nice) answering stands behind watching where both share a processor: a question can wait, pictures come
FIRST_PREFILLER = "prefill"  # it also does what is to be done once for all cameras


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an actor is told when it is made."""

    redis_url: str = field(repr=False)  # may hold a password
    registry_url: str = field(repr=False)
    model: str  # a Hugging Face name, a folder, or "embedded"
    adapter: Path | None = None  # merged into the model where it is loaded
    live: int | None = None  # carriers in a camera's live memory; None: the model's own number
    live_policy: LivePolicy | None = None  # which of them goes; None: the model's own
    keep_s: float = 14 * 86_400.0
    keep_pictures_s: float = 3 * 86_400.0
    keep_bytes: int | None = None  # of one camera
    cache_bytes: int = 0  # of carriers, in a process that decodes
    form: Form = Form.INT8
    key_files: tuple[Path, ...] = ()  # read where the actor runs: keys travel to no other machine
    threads: int = 1  # of torch, on a CPU
    prefillers: int = 1

    @classmethod
    def of(cls, config: Config, redis_url: str) -> "Settings":
        """The settings that a configuration asks for."""
        memory = config.memory
        return cls(
            redis_url=redis_url,
            registry_url=config.registry_redis or redis_url,
            model=config.model,
            adapter=config.adapter,
            live=memory.carriers,
            live_policy=memory.live_policy,
            keep_s=memory.keep_hours * 3600,
            keep_pictures_s=memory.keep_pictures_hours * 3600,
            keep_bytes=None if memory.keep_gb_per_camera is None else int(memory.keep_gb_per_camera * 1e9),
            cache_bytes=memory.cache_mb * 1_000_000,
            form=memory.form,
            key_files=memory.key_files,
            prefillers=config.prefill.actors,
        )

    @property
    def prefill_planes(self) -> tuple[str, ...]:
        """The names of the prefill actors."""
        return (FIRST_PREFILLER, *(f"{FIRST_PREFILLER}-{number}" for number in range(2, self.prefillers + 1)))


def load_model(settings: Settings) -> "VideoScan":
    """The model on the best device here: a GPU computes in bfloat16, as today's models were trained, a CPU in float32. Raises BadAdapter.

    torch is loaded here and not before: the processes without a model start in a second and stay small.
    """
    import torch

    from model import embedded, relevance
    from model.backbone import Backbone
    from model.similarity import Similarity
    from model.videoscan import VideoScan

    torch.set_num_threads(settings.threads)
    name = embedded.FOLDER if settings.model == EMBEDDED_MODEL else settings.model
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    backbone = Backbone.load(name, device=device, dtype=dtype, adapter=settings.adapter)
    head = relevance.load(backbone, name) or (Similarity(backbone) if backbone.habits.mode == "training-free" else None)
    scan = VideoScan(backbone, live=settings.live, policy=settings.live_policy, relevance=head)
    log.info("model %s (%s), mode: %s", settings.model, scan.fingerprint, scan.mode)
    return scan


def load_batch(model: "VideoScan") -> "Batch[Seat]":
    """Nobody yet, to be answered together."""
    from model.batch import Batch

    return Batch(model)


def open_store(settings: Settings, fingerprint: str, *, head: str | None = None, cache_bytes: int = 0) -> CarrierStore:
    """The long-term memory of one model's carriers, and of their vectors by one head. Raises BadKeyFile."""
    return CarrierStore(
        settings.redis_url,
        fingerprint,
        head=head,
        ttl_s=settings.keep_s,
        picture_ttl_s=settings.keep_pictures_s,
        keep_bytes=settings.keep_bytes,
        cache_bytes=cache_bytes,
        codec=Codec(form=settings.form, seal=Seal.from_files(settings.key_files)),
    )
