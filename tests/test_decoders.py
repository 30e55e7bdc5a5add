"""Which decoder reads a camera: a device's where there is one that works, else the CPU's."""

import logging

import pytest
from odd_camera import OddCamera

from pipeline import camera as camera_module
from pipeline.camera import GstSource
from pipeline.codecs import HARDWARE
from pipeline.core import Camera
from pipeline.elements import make
from pipeline.errors import CameraLost

pytestmark = pytest.mark.gst

H264 = "video/x-h264"


def first_frame(source: GstSource) -> tuple[int, ...]:
    """The shape of the first picture of a connection, which then ends."""
    frames = source.frames()
    try:
        return next(frames).image.shape
    finally:
        frames.close()


def source_of(camera: OddCamera) -> GstSource:
    return GstSource(Camera(id="gate", uri=camera.uri, fps=8, still_s=0), silence_s=30)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the elements that graphs are built of, as they are made."""
    names: list[str] = []

    def noted(factory: str, **properties: object) -> object:
        names.append(factory)
        return make(factory, **properties)

    monkeypatch.setattr(camera_module, "make", noted)
    return names


def test_a_devices_decoder_goes_before_the_cpus(monkeypatch: pytest.MonkeyPatch, made: list[str]) -> None:
    monkeypatch.setitem(HARDWARE, H264, ("no-such-decoder", "openh264dec"))
    with OddCamera() as camera:
        assert first_frame(source_of(camera)) == (180, 320, 3)
    assert "openh264dec" in made and "avdec_h264" not in made


def test_a_device_that_cannot_be_had_is_passed_over(monkeypatch: pytest.MonkeyPatch, made: list[str]) -> None:
    monkeypatch.setitem(HARDWARE, H264, ("v4l2src",))  # stands for one: there is no such device here
    with OddCamera() as camera:
        assert first_frame(source_of(camera)) == (180, 320, 3)
    assert made.index("v4l2src") < made.index("avdec_h264")


def test_a_decoder_that_gives_no_picture_is_not_tried_twice(
    monkeypatch: pytest.MonkeyPatch, made: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(HARDWARE, H264, ("identity",))  # stands for one: it can be had, and decodes nothing
    with OddCamera() as camera, caplog.at_level(logging.WARNING, "pipeline.camera"):
        source = source_of(camera)
        with pytest.raises(CameraLost):
            first_frame(source)
        assert caplog.messages == ["camera gate: no picture from identity: the CPU decodes from now on"]
        assert first_frame(source) == (180, 320, 3)
    assert made.count("identity") == 1
