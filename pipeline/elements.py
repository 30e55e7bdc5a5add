"""Pieces of GStreamer that `pipeline.camera` builds with, and what it says, in words of people."""

from typing import Any

import gi
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CameraLost
from pipeline.redact import redact

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

Gst.init(None)

_REASONS = {
    Gst.ResourceError.NOT_AUTHORIZED: "the camera refuses the user name or the password (401): correct the login in its address",
    Gst.ResourceError.NOT_FOUND: "nothing is there (404): correct the path in the camera's address, or the name of the file",
    Gst.ResourceError.OPEN_READ_WRITE: "cannot connect: check the camera's host and port, and that it is switched on",
}
_MEANT = {  # by what GStreamer says
    "(Parse error)": "what answers there does not speak RTSP: check the host and the port in the camera's address",
    "(Timeout while waiting for server response)": "it lets us connect and says nothing: restart the camera",
    "not-linked": "there is no video in it",
}


def make(factory: str, **properties: Any) -> Any:
    """An element with these properties. Raises CameraLost where GStreamer has none of that name."""
    element = Gst.ElementFactory.make(factory)
    if element is None:
        raise CameraLost(f"GStreamer has no {factory!r} here: install its good, bad and libav plugins")
    for name, value in properties.items():
        element.set_property(name.replace("_", "-"), value)
    return element


def scaled(video: Any, max_width: int) -> Any:
    """RGB with square pixels, at most so wide and never enlarged; a width of whole fours leaves no padding in its rows."""
    found, above, below = video.get_fraction("pixel-aspect-ratio")
    width, height = video.get_value("width") * (above / below if found else 1), video.get_value("height")
    scale = min(1.0, max_width / width)
    size = f"width={max(4, int(width * scale) // 4 * 4)},height={max(2, round(height * scale) // 2 * 2)}"
    return Gst.Caps.from_string(f"video/x-raw,format=RGB,{size},pixel-aspect-ratio=1/1")


def image(sample: Any) -> NDArray[np.uint8]:
    """A copy, read-only: GStreamer takes its memory back once unmapped."""
    video = sample.get_caps().get_structure(0)
    mapped, memory = sample.get_buffer().map(Gst.MapFlags.READ)
    if not mapped:
        raise CameraLost("a picture could not be read from GStreamer's memory")
    try:
        image = np.frombuffer(memory.data, np.uint8).reshape(video.get_value("height"), video.get_value("width"), 3).copy()
    finally:
        sample.get_buffer().unmap(memory)
    image.flags.writeable = False
    return image


def reason(error: Any, debug: str | None) -> str:
    """What went wrong, for people; GStreamer's own words when there are no better."""
    for code, text in _REASONS.items():
        if error.matches(Gst.ResourceError.quark(), code):
            return text
    for words, text in _MEANT.items():
        if words in (debug or ""):
            return text
    detail = (debug or "").strip().splitlines()
    said = redact(f"{error.message} {detail[-1] if detail else ''}".strip())
    damaged = any(error.matches(Gst.StreamError.quark(), code) for code in (Gst.StreamError.FORMAT, Gst.StreamError.DECODE))
    return f"what it sends is damaged, or not what it was announced as: {said}" if damaged else said
