"""A question as a model reads it: its own chat template around the frames and the analyst's words."""

from typing import Any

from pipeline.core import LongwatchError

VIDEO = "<video>"  # where the templates of LLaVA-OneVision put the frames; other families have a token of their own
TEXT = 128  # positions left for a question and its answer
_WORDS = "\ue000"  # stands for the analyst's words while the template is filled in


class NoPlaceForVideo(LongwatchError):
    """A chat template that has no place for frames with a question behind them."""


def prompt(tokenizer: Any, question: str, video: str = VIDEO) -> tuple[list[int], list[int]]:
    """The tokens before the frames, and those from behind them to where the answer begins.

    The analyst's words are read as words: a special token written in them stays text, so a question cannot leave its place.
    Raises NoPlaceForVideo.
    """
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": _WORDS}]}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, _, behind = text.partition(video)
    opening, found, closing = behind.partition(_WORDS)
    if not found:
        raise NoPlaceForVideo(f"the model's chat template does not put {video} before the question; it gives {text!r}")
    words = tokenizer(question, add_special_tokens=False, split_special_tokens=True).input_ids
    return _read(tokenizer, before), [*_read(tokenizer, opening), *words, *_read(tokenizer, closing)]


def _read(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids) if text else []
