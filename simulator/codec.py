"""Sends pictures through H.264 as cameras do, so that a model learns from what it will be shown."""

from collections.abc import Iterable

import gi
import numpy as np
from numpy.typing import NDArray

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp  # noqa: E402, F401  (GstApp: gives appsrc and appsink their methods)

from simulator.visits import HEIGHT, WIDTH  # noqa: E402


def through_h264(pictures: Iterable[NDArray[np.uint8]], quantizer: int) -> list[NDArray[np.uint8]]:
    """Encode each picture as a key frame and decode it again.

    `quantizer` is x264's (18 fine to 36 coarse). Takes and returns RGB uint8 [360, 640, 3].
    """
    Gst.init(None)
    pipeline = Gst.parse_launch(
        f"appsrc name=src format=time caps=video/x-raw,format=RGB,width={WIDTH},height={HEIGHT},framerate=1/1"
        f" ! videoconvert ! x264enc speed-preset=ultrafast tune=zerolatency key-int-max=1 pass=qual quantizer={quantizer} threads=1"
        " ! avdec_h264 max-threads=1 ! videoconvert ! video/x-raw,format=RGB ! appsink name=sink sync=false max-buffers=0"
    )
    source, sink = pipeline.get_by_name("src"), pipeline.get_by_name("sink")
    pipeline.set_state(Gst.State.PLAYING)
    try:
        for i, picture in enumerate(pictures):
            buffer = Gst.Buffer.new_wrapped(picture.tobytes())
            buffer.pts, buffer.duration = i * Gst.SECOND, Gst.SECOND
            source.push_buffer(buffer)
        source.end_of_stream()
        decoded = []
        while (sample := sink.pull_sample()) is not None:
            buffer = sample.get_buffer()
            decoded.append(np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8).reshape(HEIGHT, WIDTH, 3))
        return decoded
    finally:
        pipeline.set_state(Gst.State.NULL)
