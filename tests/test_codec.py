import random
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.core import Carrier, CarrierKey, TimeRange
from storage.codec import HEADER, MAGIC, MAX_BYTES, VERSION, BadCarrier, BadReason, decode, encode

FINGERPRINT = "0a1b2c3d"
KEY = CarrierKey(camera_id="dock", at_ms=1_700_000_000_123)
SPAN = TimeRange(start_ms=KEY.at_ms - 500, end_ms=KEY.at_ms)
CARRIER = Carrier(
    key=KEY,
    fingerprint=FINGERPRINT,
    span=SPAN,
    embedding=np.arange(6, dtype=np.float16),
    kv=np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4),
)

MS = st.integers(0, 2**53 - 1)
DTYPE = st.sampled_from(["<f2", "<f4", ">f2", ">f4"])
SIZE = st.integers(1, 4)


@st.composite
def carriers(draw: st.DrawFn) -> Carrier:
    """Any carrier that may be kept; NaN payloads, infinities and negative zeros among its numbers."""
    start_ms, end_ms = sorted((draw(MS), draw(MS)))
    dtype = np.dtype(draw(DTYPE))
    shape = (draw(SIZE), 2, draw(SIZE), draw(SIZE))
    return Carrier(
        key=CarrierKey(camera_id=draw(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)), at_ms=draw(MS)),
        fingerprint=draw(st.from_regex(r"[0-9a-f]{4,64}", fullmatch=True)),
        span=TimeRange(start_ms=start_ms, end_ms=end_ms),
        embedding=draw(hnp.arrays(np.dtype(draw(DTYPE)), draw(SIZE))),
        kv=draw(hnp.arrays(dtype, shape)),
    )


def little_endian(array: np.ndarray[Any, Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


@settings(max_examples=200, deadline=None)
@given(carriers())
def test_round_trip_is_bit_exact_and_read_only(carrier: Carrier) -> None:
    back = decode(encode(carrier), carrier.key, carrier.fingerprint)
    assert (back.key, back.fingerprint, back.span) == (carrier.key, carrier.fingerprint, carrier.span)
    for ours, theirs in ((back.embedding, carrier.embedding), (back.kv, carrier.kv)):
        assert (ours.shape, ours.dtype.name, ours.tobytes()) == (theirs.shape, theirs.dtype.name, little_endian(theirs))
        assert not ours.flags.writeable
    assert encode(back) == encode(carrier)


def test_strided_arrays_keep_their_order() -> None:
    carrier = replace(CARRIER, kv=np.asfortranarray(CARRIER.kv), embedding=np.arange(12, dtype=np.float16)[::2])
    back = decode(encode(carrier), KEY, FINGERPRINT)
    np.testing.assert_array_equal(back.kv, carrier.kv)
    np.testing.assert_array_equal(back.embedding, carrier.embedding)


def body() -> dict[str, Any]:
    fields: dict[str, Any] = msgpack.unpackb(encode(CARRIER)[HEADER.size :])
    return fields


def seal(packed: bytes, version: int = VERSION, magic: bytes = MAGIC) -> bytes:
    """A value whose header agrees with its body, as a confused or hostile writer could make."""
    return HEADER.pack(magic, version, len(packed), xxhash.xxh3_64_intdigest(packed)) + packed


def with_field(name: str, value: object) -> bytes:
    return seal(msgpack.packb(body() | {name: value}))


RAW = np.zeros(6, "<f2").tobytes()
ODD_VALUES = {
    "empty": (b"", "length"),
    "header only": (encode(CARRIER)[: HEADER.size], "length"),
    "truncated": (encode(CARRIER)[:-1], "length"),
    "trailing byte": (encode(CARRIER) + b"\0", "length"),
    "huge": (b"\0" * (MAX_BYTES + 1), "length"),
    "older version": (seal(msgpack.packb(body()), version=0), "version"),
    "newer version": (seal(msgpack.packb(body()), version=VERSION + 1), "version"),
    "another format": (seal(msgpack.packb(body()), magic=b"\x80\x04\x95\x00"), "version"),
    "flipped last bit": (encode(CARRIER)[:-1] + bytes([encode(CARRIER)[-1] ^ 1]), "checksum"),
    "another camera": (with_field("camera_id", "gate"), "key"),
    "another time": (with_field("at_ms", KEY.at_ms + 1), "key"),
    "another model": (with_field("fingerprint", "ffffffff"), "fingerprint"),
    "backward span": (with_field("start_ms", SPAN.end_ms + 1), "malformed"),
    "negative span": (with_field("start_ms", -1), "malformed"),
    "time beyond a score": (with_field("end_ms", 2**53), "malformed"),
    "bool for int": (with_field("start_ms", False), "malformed"),
    "float for int": (with_field("start_ms", 0.0), "malformed"),
    "bytes for text": (with_field("fingerprint", FINGERPRINT.encode()), "malformed"),
    "extra field": (with_field("class", "os.system"), "malformed"),
    "missing field": (seal(msgpack.packb({k: v for k, v in body().items() if k != "kv"})), "malformed"),
    "extension type": (with_field("kv", msgpack.ExtType(1, b"x")), "malformed"),
    "empty extension type": (with_field("kv", msgpack.ExtType(1, b"")), "malformed"),
    "timestamp": (with_field("at_ms", msgpack.Timestamp(1)), "malformed"),
    "integer keys": (seal(msgpack.packb({1: 2})), "malformed"),
    "no map": (seal(msgpack.packb([1, 2])), "malformed"),
    "not msgpack": (seal(b"\xc1"), "malformed"),
    "two objects": (seal(msgpack.packb(body()) + b"\xc0"), "malformed"),
    "declares 4 G items": (seal(b"\xdd\xff\xff\xff\xff"), "malformed"),
    "nested deep": (seal(b"\x91" * 5000 + b"\xc0"), "malformed"),
    "bad utf-8": (seal(b"\x81\xa1\xff\xc0"), "malformed"),
    "long text": (with_field("fingerprint", "a" * 65), "malformed"),
    "array of wrong parts": (with_field("embedding", ["float16", [6]]), "malformed"),
    "raw as text": (with_field("embedding", ["float16", [6], "x" * 12]), "malformed"),
    "unknown dtype": (with_field("embedding", ["bfloat16", [6], RAW]), "dtype"),
    "object dtype": (with_field("embedding", ["object", [6], RAW]), "dtype"),
    "dtype of another size": (with_field("embedding", ["float32", [6], RAW]), "shape"),
    "shape of another size": (with_field("embedding", ["float16", [7], RAW]), "shape"),
    "overflowing shape": (with_field("embedding", ["float16", [2**62, 2**62], RAW]), "shape"),
    "negative shape": (with_field("embedding", ["float16", [-6], RAW]), "shape"),
    "two negatives": (with_field("embedding", ["float16", [-2, -3], RAW]), "shape"),
    "bool shape": (with_field("embedding", ["float16", [6, True], RAW]), "shape"),
    "empty array": (with_field("embedding", ["float16", [0], b""]), "shape"),
    "no dimensions": (with_field("embedding", ["float16", [], RAW[:2]]), "shape"),
    "matrix embedding": (with_field("embedding", ["float16", [2, 3], RAW]), "shape"),
    "flat kv": (with_field("kv", ["float16", [6], RAW]), "shape"),
    "kv without values": (with_field("kv", ["float16", [6, 1, 1, 1], RAW]), "shape"),
}


@pytest.mark.parametrize(("value", "reason"), ODD_VALUES.values(), ids=ODD_VALUES)
def test_odd_values_are_refused_by_reason(value: bytes, reason: str) -> None:
    with pytest.raises(BadCarrier) as caught:
        decode(value, KEY, FINGERPRINT)
    assert caught.value.reason == reason


def test_asking_for_another_carrier_or_model_is_refused() -> None:
    value = encode(CARRIER)
    for key in (replace(KEY, camera_id="gate"), replace(KEY, at_ms=1)):
        with pytest.raises(BadCarrier, match="key"):
            decode(value, key, FINGERPRINT)
    with pytest.raises(BadCarrier, match="fingerprint"):
        decode(value, KEY, FINGERPRINT[:-1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"embedding": np.zeros(4, np.float64)}, "dtype"),
        ({"kv": np.zeros((2, 2, 3, 4), object)}, "dtype"),
        ({"embedding": np.zeros((2, 2), np.float16)}, "shape"),
        ({"kv": np.zeros((2, 3, 3, 4), np.float16)}, "shape"),
        ({"kv": np.zeros((0, 2, 3, 4), np.float16)}, "shape"),
        ({"kv": np.zeros((1, 2, 1, MAX_BYTES // 4), np.float16)}, "length"),
        ({"span": TimeRange(start_ms=2, end_ms=1)}, "malformed"),
        ({"key": CarrierKey(camera_id="dock", at_ms=2**53)}, "malformed"),
        ({"key": CarrierKey(camera_id="a}b", at_ms=1)}, "key"),
        ({"fingerprint": "not hex"}, "fingerprint"),
    ],
)
def test_what_cannot_be_read_back_is_not_written(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadCarrier) as caught:
        encode(replace(CARRIER, **change))
    assert caught.value.reason == reason


def mutate(value: bytes, rng: random.Random) -> bytes:
    """One accident: bits flipped, bytes overwritten, a cut, an insertion, a repeated or a swapped part."""
    start, end = sorted((rng.randrange(len(value)), rng.randrange(len(value) + 1)))
    noise = rng.randbytes(rng.randint(1, 16))
    flipped = bytearray(value)
    for _ in range(rng.randint(1, 8)):
        flipped[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
    accidents = (
        bytes(flipped),
        value[:start] + noise + value[start + len(noise) :],
        value[:start] + value[end:],
        value[:start] + noise + value[start:],
        value[:end] + value[start:],
        value[end:] + value[:end],
    )
    return accidents[rng.randrange(len(accidents))]


def test_no_accident_is_taken_for_a_carrier() -> None:
    rng = random.Random(20_000)
    value = encode(CARRIER)
    for _ in range(20_000):
        mutated = mutate(value, rng)
        if mutated == value:
            continue
        with pytest.raises(BadCarrier):
            decode(mutated, KEY, FINGERPRINT)


def test_no_resealed_body_is_decoded_to_something_odd() -> None:
    """The checksum is no defence against a writer: what it seals is either refused or a sound carrier of that key."""
    rng = random.Random(5_000)
    packed = encode(CARRIER)[HEADER.size :]
    reasons = set()
    for _ in range(5_000):
        try:
            carrier = decode(seal(mutate(packed, rng)), KEY, FINGERPRINT)
        except BadCarrier as error:
            reasons.add(error.reason)
        else:
            assert (carrier.key, carrier.fingerprint) == (KEY, FINGERPRINT)
            assert carrier.embedding.ndim == 1 and carrier.kv.ndim == 4 and carrier.kv.shape[1] == 2
            assert carrier.span.start_ms <= carrier.span.end_ms
    assert reasons >= {BadReason.MALFORMED, BadReason.KEY, BadReason.FINGERPRINT, BadReason.SHAPE}
