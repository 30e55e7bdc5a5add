"""Annotated videos in LLaVA-Video-178K's format (arXiv 2410.02713): a JSON list of videos with conversations about them.

    [{"id": "1", "video": "academic/1.mp4", "conversations": [{"from": "human", "value": "<image>\\nWhat ...?"},
                                                             {"from": "gpt", "value": "A ..."}, ...]}, ...]

Other keys are of no use here. Videos are looked for beside the file. Each question of a conversation is asked by itself, as
analysts ask: what was said before is not told.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError

from model.adapting.clips import Asked, BadClip, BadData, Clip
from pipeline.errors import CameraLost

Film = Callable[[Path], Sequence[NDArray[np.uint8]]]
"""The pictures of a video file. Raises CameraLost."""


class _Turn(BaseModel):
    by: Literal["human", "gpt"] = Field(alias="from")
    value: str

    @property
    def words(self) -> str:
        return self.value.replace("<image>", "").strip()


def _by_turns(turns: list[_Turn]) -> list[_Turn]:
    if not turns or [turn.by for turn in turns] != ["human", "gpt"] * (len(turns) // 2):
        raise ValueError("human and gpt must speak in turn, human first and gpt last")
    if not all(turn.words for turn in turns):
        raise ValueError("every turn must say something")
    return turns


class _Entry(BaseModel):
    video: Annotated[str, Field(min_length=1)]
    conversations: Annotated[list[_Turn], AfterValidator(_by_turns)]


class LlavaVideo:
    """See `model.adapting.clips.Clips`. Raises BadData if the file is not of this format, naming the first entry that is wrong."""

    def __init__(self, file: Path, film: Film) -> None:
        self._file, self._film = file, film
        try:
            self._entries = TypeAdapter(list[_Entry]).validate_json(file.read_bytes())
        except OSError as error:
            raise BadData(f"{file}: cannot be read: {error.strerror}") from error
        except ValidationError as error:
            raise BadData(f"{file}: {_in_words(error)}") from None
        if not self._entries:
            raise BadData(f"{file}: holds no entry")

    def __len__(self) -> int:
        return len(self._entries)

    def clip(self, index: int) -> Clip:
        """See `Clips`."""
        entry = self._entries[index]
        video = self._file.parent / entry.video
        if not video.is_file():
            raise BadClip(f"{self._file}, entry {index}: no video {video}")
        try:
            frames = self._film(video)
        except CameraLost as error:
            raise BadClip(f"{self._file}, entry {index}: {video}: {error}") from error
        if not frames:
            raise BadClip(f"{self._file}, entry {index}: {video}: holds no pictures")
        pairs = zip(entry.conversations[::2], entry.conversations[1::2], strict=True)
        return Clip(frames=frames, asked=tuple(Asked(question=q.words, answer=a.words) for q, a in pairs))


def _in_words(error: ValidationError) -> str:
    """The first mistake with its place; values are left out."""
    first, *others = error.errors(include_url=False, include_input=False)
    entry, *where = first["loc"] or ("",)
    place = f"entry {entry}: " if isinstance(entry, int) else ""
    place += f"{'.'.join(map(str, where))}: " if where else ""
    more = f" (and {len(others)} more mistakes)" if others else ""
    return f"{place}{first['msg'].removeprefix('Value error, ')}{more}"
