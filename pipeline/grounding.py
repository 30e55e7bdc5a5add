"""Ties an answer to the moments it rests on: which carriers, which camera, when.

A model never writes a time or a camera's name: where it means the moment it is looking at it says `<when>` or `<where>`, and
the moment's own record fills them in. So they are right to the frame, for any age and any name.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.core import CarrierKey, Evidence, TimeRange, clock

WHERE, WHEN, NOT_SEEN = "<where>", "<when>", "not seen"
LOOKED = 0.3  # an answer that gave the carriers less attention than this looked at none of them
MOMENTS = 3  # shown with an answer
NEAR_MS = 3_000  # carriers of one camera this close are one moment
WORTH = 0.15  # of the attention: less does not make a moment
LAST = 0.35  # of the attention: what drew as much may be where something was last seen
GLANCE = 0.05  # of what the strongest drew: a carrier with less belongs to no moment


def moments(keys: Sequence[CarrierKey], attention: NDArray[np.float64]) -> tuple[Evidence, ...]:
    """The moments that drew the answer's attention, strongest first.

    `keys` in order of time, with the attention [carriers] paid to each. Empty when hardly any was paid to carriers at all.
    """
    total = float(attention.sum())
    if total < LOOKED:
        return ()
    groups: list[list[int]] = []
    last: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        if attention[i] < GLANCE * attention.max():
            continue
        group = last.get(key.camera_id)
        if group is None or key.at_ms - keys[group[-1]].at_ms > NEAR_MS:
            group = []
            groups.append(group)
            last[key.camera_id] = group
        group.append(i)
    found = [_moment(keys, attention / total, group) for group in groups]
    found.sort(key=lambda e: -e.score)
    return tuple(e for i, e in enumerate(found[:MOMENTS]) if i == 0 or e.score >= WORTH)


def _moment(keys: Sequence[CarrierKey], share: NDArray[np.float64], group: Sequence[int]) -> Evidence:
    centre = max(group, key=lambda i: share[i])
    span = TimeRange(start_ms=keys[group[0]].at_ms, end_ms=keys[group[-1]].at_ms)
    score = float(sum(share[i] for i in group))
    return Evidence(camera_id=keys[centre].camera_id, at_ms=keys[centre].at_ms, span=span, score=score)


def pointed(text: str, evidence: Sequence[Evidence]) -> tuple[Evidence, ...]:
    """The moments of an answer, first the one that it points at if it does.

    A model points at where or when something was last seen: that is the end of the latest moment which drew much, even where
    an earlier one drew more.
    """
    if not evidence or (WHERE not in text and WHEN not in text):
        return tuple(evidence)
    last = max([e for e in evidence if e.score >= LAST] or evidence[:1], key=lambda e: e.span.end_ms)
    return replace(last, at_ms=last.span.end_ms), *(e for e in evidence if e is not last)


def ground(text: str, evidence: Sequence[Evidence], now_ms: int) -> str:
    """Fill in what the model pointed at. Without evidence a pointing answer is worth nothing: it becomes "not seen"."""
    if WHERE not in text and WHEN not in text:
        return text
    if not evidence:
        return NOT_SEEN
    best = evidence[0]
    when = f"{ago(now_ms - best.at_ms)} ago, at {clock(best.at_ms)}"
    return text.replace(WHERE, best.camera_id).replace(WHEN, when)


def speakable(text: str) -> str:
    """As much of a text that is still being said as can be shown: no part of what will be `<where>` or `<when>`, nor of a character."""
    text = text.rstrip("\ufffd")
    begun = [text[:at] for at in range(len(text)) if any(word.startswith(text[at:]) and word != text[at:] for word in (WHERE, WHEN))]
    return begun[0] if begun else text


def ago(ms: int) -> str:
    """A length of time as people say it: "40 seconds", "3 min 20 s", "2 h 5 min"."""
    s = max(0, round(ms / 1000))
    if s < 60:
        return f"{s} second{'' if s == 1 else 's'}"
    if s < 3600:
        return f"{s // 60} min {s % 60} s"
    if s < 86_400:
        return f"{s // 3600} h {s % 3600 // 60} min"
    return f"{s // 86_400} d {s % 86_400 // 3600} h"
