"""What is decoded and kept of a stream, and what is hidden of a camera's address: no GStreamer needed."""

import numpy as np
import pytest

from pipeline.redact import redact
from pipeline.sampling import KeyGate, Sampler

SECOND = 1_000_000_000


def test_the_gate_opens_again_when_key_frames_become_rare() -> None:
    gate = KeyGate(fps=1, longest_s=5)
    assert not gate.passes(-1, is_key=False), "nothing can be decoded before the first key frame"
    for tick in range(4 * 8):
        assert gate.passes(tick * SECOND // 8, tick % 8 == 0) is (tick <= 24 or tick % 8 == 0)
    assert gate.keys_only
    assert not gate.passes(5 * SECOND, is_key=False)
    assert gate.passes(6 * SECOND, is_key=True) and not gate.keys_only
    assert gate.passes(6 * SECOND + 1, is_key=False)


def test_one_scene_cut_is_no_key_frame_rate() -> None:
    gate = KeyGate(fps=1, longest_s=5)
    for at_s in (0, 4, 8, 8.5, 12):
        gate.passes(round(at_s * SECOND), is_key=True)
        assert not gate.keys_only


def test_the_sampler_keeps_its_rate_in_spite_of_jitter() -> None:
    sampler, jitter = Sampler(2), np.random.default_rng(3)
    times = [round((n / 25 + jitter.uniform(-0.015, 0.015)) * SECOND) for n in range(25 * 60)]
    assert 119 <= sum(map(sampler.take, times)) <= 121
    assert sampler.take(0), "time went back: start anew"


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://admin:hunter2@10.0.0.1:554/x",
        "cannot open rtsp://admin:hu/nt@er2@cam/x now",
        "RTSPS://:hunter2@cam",
        "http://cam/mjpg?user=admin&pwd=hunter2&channel=1",
        "rtsp://cam:554/user=admin_password=hunter2_channel=1.sdp",
        "redis://:hunter2@localhost",
    ],
)
def test_logins_are_hidden(text: str) -> None:
    assert "er2" not in redact(text) and "***" in redact(text)


def test_what_is_no_secret_stays() -> None:
    for text in ("rtsp://10.0.0.1:554/dock", "/films/a@b.mp4", "file:///films/a@b.mp4", "mail a@b.org", "frames=3"):
        assert redact(text) == text
