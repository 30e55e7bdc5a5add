"""Values that are known at a glance read as by the book; those that are not so in any respect are left to the book."""

import pickle
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from carriers import FINGERPRINT, assert_same
from fuzz_codec import with_header

from pipeline.core import Carrier, CarrierKey, Form, TimeRange
from storage import codec
from storage.alike import Reader, Stored
from storage.errors import BadCarrier

NOW = 1_790_000_000_000
ALL_LAYERS = (5, 2, 2, 32)


def carrier(at_ms: int, dtype: Any = np.float32, camera_id: str = "gate", **more: Any) -> Carrier:
    r = np.random.default_rng(at_ms)
    return Carrier(
        key=CarrierKey(camera_id=camera_id, at_ms=at_ms),
        fingerprint=FINGERPRINT,
        span=more.get("span", TimeRange(start_ms=at_ms - 700, end_ms=at_ms)),
        embedding=(more.get("scale", 1) * r.standard_normal(192)).astype(dtype),
        kv=(more.get("scale", 1) * r.standard_normal(ALL_LAYERS)).astype(dtype),
    )


def used(form: Form = Form.INT8) -> Reader:
    """One who has read a carrier of the camera."""
    reader = Reader(FINGERPRINT)
    read(reader, carrier(NOW), form)
    return reader


def read(reader: Reader, one: Carrier, form: Form = Form.INT8) -> Carrier:
    return reader.decode(codec.encode(one, form), one.key)


def by_the_book(one: Carrier, form: Form = Form.INT8) -> Carrier:
    return codec.decode(codec.encode(one, form), one.key, FINGERPRINT)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("form", Form)
def test_who_has_read_one_reads_the_next_as_by_the_book(form: Form, dtype: Any) -> None:
    reader = Reader(FINGERPRINT)
    for at_ms in (NOW, NOW + 1, NOW + 1000):
        one = carrier(at_ms, dtype)
        back = read(reader, one, form)
        assert_same(back, by_the_book(one, form))
        assert not back.kv.flags.writeable and not back.embedding.flags.writeable
    assert isinstance(back, Stored) == (form in (Form.INT8, Form.INT4))


def test_numbers_take_no_room_until_they_are_looked_at() -> None:
    back = read(used(), carrier(NOW + 1))
    assert isinstance(back, Stored)
    assert back.nbytes == len(codec.encode(carrier(NOW + 1), Form.INT8)) < (back.kv.nbytes + back.embedding.nbytes) / 3
    assert back.kv is not back.kv


def test_it_can_be_copied_changed_and_sent_as_any_carrier() -> None:
    back = read(used(), carrier(NOW + 1))
    span = TimeRange(start_ms=1, end_ms=2)
    assert_same(
        replace(back, span=span), replace(codec.decode(codec.encode(carrier(NOW + 1), Form.INT8), back.key, FINGERPRINT), span=span)
    )
    there = pickle.loads(pickle.dumps(back))  # noqa: S301 - our own
    assert_same(there, back)
    assert there.nbytes == replace(back, span=span).nbytes == back.kv.nbytes + back.embedding.nbytes
    with pytest.raises(AttributeError, match="no colour"):
        _ = back.colour  # type: ignore[attr-defined]


def lied(**fields: Any) -> bytes:
    """A carrier's value with other fields, and a checksum that agrees."""
    body = msgpack.unpackb(codec.encode(carrier(NOW + 1), Form.INT8)[codec.HEADER.size :])
    return with_header(msgpack.packb(body | fields))


def scales(first: bytes) -> list[Any]:
    """The keys and values as packed, with another first scale."""
    packed = msgpack.unpackb(codec.encode(carrier(NOW + 1), Form.INT8)[codec.HEADER.size :])["kv"]
    return [*packed[:-1], first + packed[-1][2:]]


VALUE = codec.encode(carrier(NOW + 1), Form.INT8)
ODD = {
    "flipped bit": (VALUE[:-1] + bytes([VALUE[-1] ^ 1]), "checksum"),
    "flipped checksum": (VALUE[:12] + bytes([VALUE[12] ^ 1]) + VALUE[13:], "checksum"),
    "cut": (VALUE[:-1], "length"),
    "longer": (VALUE + b"\0", "length"),
    "another version": (VALUE[:4] + b"\3" + VALUE[5:], "version"),
    "another time": (lied(at_ms=NOW + 2), "key"),
    "another camera": (lied(camera_id="dock"), "key"),
    "another model": (lied(fingerprint="0a1b2c3e"), "fingerprint"),
    "backward span": (lied(start_ms=NOW + 2), "malformed"),
    "time beyond a score": (lied(end_ms=2**53), "malformed"),
    "a float for a time": (lied(end_ms=1.79e12), "malformed"),
    "scale that is infinite": (lied(kv=scales(b"\x80\x7f")), "numbers"),
    "scale that is no number": (lied(kv=scales(b"\xc0\xff")), "numbers"),
}


@pytest.mark.parametrize(("value", "reason"), ODD.values(), ids=ODD)
def test_what_is_odd_is_refused_by_who_knows_its_like(value: bytes, reason: str) -> None:
    reader, key = used(), carrier(NOW + 1).key
    for _ in range(2):
        with pytest.raises(BadCarrier) as caught:
            reader.decode(value, key)
        assert caught.value.reason == reason
    assert isinstance(reader.decode(VALUE, key), Stored)


@pytest.mark.parametrize("first", [b"\x00\x7c", b"\x7f\x7f", b"\x80\xbf"], ids=["large", "largest", "negative"])
def test_odd_scales_that_are_numbers_are_left_to_the_book(first: bytes) -> None:
    value, key = lied(kv=scales(first)), carrier(NOW + 1).key
    back = used().decode(value, key)
    assert not isinstance(back, Stored)
    assert_same(back, codec.decode(value, key, FINGERPRINT))


def test_another_form_or_width_is_learnt_anew() -> None:
    reader = used()
    for form in (Form.INT4, Form.INT8, Form.EXACT):
        for at_ms in (NOW + 1, NOW + 2):
            assert_same(
                read(reader, carrier(at_ms), form), codec.decode(codec.encode(carrier(at_ms), form), carrier(at_ms).key, FINGERPRINT)
            )
    known = reader.known("gate")
    assert known and known.size == len(VALUE) and reader.known("dock") is None
