import tracemalloc
from dataclasses import replace
from random import Random
from typing import Any

import msgpack
import numpy as np
import pytest
from carriers import arrays
from fuzz_codec import FINGERPRINT, KEY, attempt, with_header
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.core import BFLOAT16, MAX_BYTES, MAX_NUMBERS, Carrier, CarrierKey, Patches, TimeRange
from storage.codec import HEADER, MAGIC, VERSION, BadCarrier, decode, encode

SPAN = TimeRange(start_ms=KEY.at_ms - 500, end_ms=KEY.at_ms)
CARRIER = Carrier(
    key=KEY,
    fingerprint=FINGERPRINT,
    span=SPAN,
    embedding=np.arange(6, dtype=np.float16),
    kv=np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4),
)
PLACES = np.array([[0, 7, 300], [1, 2, 65_535]], np.uint16)
PATCHES = Patches(kv=np.arange(2 * 2 * 3 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 3, 4), places=PLACES)
PATCHED = replace(CARRIER, patches=PATCHES)

MS = st.integers(0, 2**53 - 1)
DTYPE: st.SearchStrategy[np.dtype[Any]] = st.sampled_from([*map(np.dtype, ("<f2", "<f4", ">f2", ">f4")), BFLOAT16])
SIZE = st.integers(1, 4)


@st.composite
def carriers(draw: st.DrawFn) -> Carrier:
    """Any carrier that may be kept; NaN payloads, infinities and negative zeros among its numbers."""
    start_ms, end_ms = sorted((draw(MS), draw(MS)))
    dtype = draw(DTYPE)
    shape = (draw(SIZE), 2, draw(SIZE), draw(SIZE))
    kept = draw(st.integers(0, 3))
    return Carrier(
        key=CarrierKey(camera_id=draw(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)), at_ms=draw(MS)),
        fingerprint=draw(st.from_regex(r"[0-9a-f]{4,64}", fullmatch=True)),
        span=TimeRange(start_ms=start_ms, end_ms=end_ms),
        embedding=draw(hnp.arrays(draw(DTYPE), draw(SIZE))),
        kv=draw(hnp.arrays(dtype, shape)),
        patches=Patches(
            kv=draw(hnp.arrays(dtype, (*shape[:3], kept, shape[3]))),
            places=np.sort(draw(hnp.arrays(np.uint16, (shape[0], kept), unique=True)), axis=1),
        )
        if kept
        else None,
    )


def little_endian(array: np.ndarray[Any, Any]) -> bytes:
    return array.tobytes() if array.dtype == BFLOAT16 else array.astype(array.dtype.newbyteorder("<")).tobytes()


@settings(max_examples=200, deadline=None)
@given(carriers())
def test_round_trip_is_bit_exact_and_read_only(carrier: Carrier) -> None:
    back = decode(encode(carrier), carrier.key, carrier.fingerprint)
    assert (back.key, back.fingerprint, back.span) == (carrier.key, carrier.fingerprint, carrier.span)
    for ours, theirs in zip(arrays(back), arrays(carrier), strict=True):
        assert (ours.shape, ours.dtype.name, ours.tobytes()) == (theirs.shape, theirs.dtype.name, little_endian(theirs))
        assert not ours.flags.writeable
    assert encode(back) == encode(carrier)


def test_strided_arrays_keep_their_order() -> None:
    carrier = replace(CARRIER, kv=np.asfortranarray(CARRIER.kv), embedding=np.arange(12, dtype=np.float16)[::2])
    back = decode(encode(carrier), KEY, FINGERPRINT)
    np.testing.assert_array_equal(back.kv, carrier.kv)
    np.testing.assert_array_equal(back.embedding, carrier.embedding)


def body(carrier: Carrier = CARRIER) -> dict[str, Any]:
    fields: dict[str, Any] = msgpack.unpackb(encode(carrier)[HEADER.size :])
    return fields


def with_field(name: str, value: object, carrier: Carrier = CARRIER) -> bytes:
    return with_header(msgpack.packb(body(carrier) | {name: value}))


def with_places(places: bytes) -> bytes:
    return with_field("places", places, PATCHED)


RAW = np.zeros(6, "<f2").tobytes()
CODES = b"\x80\x3f" + bytes(6)  # one scale of 1.0, then six codes
ODD_VALUES = {
    "empty": (b"", "length"),
    "header only": (encode(CARRIER)[: HEADER.size], "length"),
    "truncated": (encode(CARRIER)[:-1], "length"),
    "trailing byte": (encode(CARRIER) + b"\0", "length"),
    "huge": (b"\0" * (MAX_BYTES + 1), "length"),
    "older version": (MAGIC + bytes([VERSION - 1]) + encode(CARRIER)[5:], "version"),
    "newer version": (MAGIC + bytes([VERSION + 1]) + encode(CARRIER)[5:], "version"),
    "another format": (b"\x80\x04\x95\x00" + encode(CARRIER)[4:], "version"),
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
    "missing field": (with_header(msgpack.packb({k: v for k, v in body().items() if k != "kv"})), "malformed"),
    "extension type": (with_field("kv", msgpack.ExtType(1, b"x")), "malformed"),
    "empty extension type": (with_field("kv", msgpack.ExtType(1, b"")), "malformed"),
    "timestamp": (with_field("at_ms", msgpack.Timestamp(1)), "malformed"),
    "integer keys": (with_header(msgpack.packb({1: 2})), "malformed"),
    "no map": (with_header(msgpack.packb([1, 2])), "malformed"),
    "not msgpack": (with_header(b"\xc1"), "malformed"),
    "two objects": (with_header(msgpack.packb(body()) + b"\xc0"), "malformed"),
    "declares 4 G items": (with_header(b"\xdd\xff\xff\xff\xff"), "malformed"),
    "nested deep": (with_header(b"\x91" * 5000 + b"\xc0"), "malformed"),
    "bad utf-8": (with_header(b"\x81\xa1\xff\xc0"), "malformed"),
    "long text": (with_field("fingerprint", "a" * 65), "malformed"),
    "array of wrong parts": (with_field("embedding", ["float16", "float16", [6], RAW]), "malformed"),
    "raw as text": (with_field("embedding", ["float16", "float16", [6], 0, "x" * 12]), "malformed"),
    "unknown dtype": (with_field("embedding", ["float64", "float64", [6], 0, RAW]), "dtype"),
    "object dtype": (with_field("embedding", ["object", "object", [6], 0, RAW]), "dtype"),
    "dtype of another size": (with_field("embedding", ["float32", "float32", [6], 0, RAW]), "shape"),
    "shape of another size": (with_field("embedding", ["float16", "float16", [7], 0, RAW]), "shape"),
    "overflowing shape": (with_field("embedding", ["float16", "float16", [2**62, 2**62], 0, RAW]), "shape"),
    "negative shape": (with_field("embedding", ["float16", "float16", [-6], 0, RAW]), "shape"),
    "two negatives": (with_field("embedding", ["float16", "float16", [-2, -3], 0, RAW]), "shape"),
    "bool shape": (with_field("embedding", ["float16", "float16", [6, True], 0, RAW]), "shape"),
    "empty array": (with_field("embedding", ["float16", "float16", [0], 0, b""]), "shape"),
    "no dimensions": (with_field("embedding", ["float16", "float16", [], 0, RAW[:2]]), "shape"),
    "unknown coding": (with_field("embedding", ["float16", "int2", [6], 6, CODES]), "dtype"),
    "coding wider than the dtype": (with_field("embedding", ["float16", "float32", [3], 0, RAW]), "dtype"),
    "group of a float": (with_field("embedding", ["float16", "float16", [6], 6, RAW]), "shape"),
    "no group": (with_field("embedding", ["float16", "int8", [6], 0, CODES]), "shape"),
    "negative group": (with_field("embedding", ["float16", "int8", [6], -6, CODES]), "shape"),
    "group that divides nothing": (with_field("embedding", ["float16", "int8", [6], 4, CODES]), "shape"),
    "group across heads": (with_field("kv", ["float16", "int8", [1, 2, 1, 3], 2, bytes(3 * 2 + 6)]), "shape"),
    "bool for group": (with_field("embedding", ["float16", "int8", [6], True, CODES]), "malformed"),
    "codes too short": (with_field("embedding", ["float16", "int8", [6], 6, CODES[:-1]]), "shape"),
    "codes of another width": (with_field("embedding", ["float16", "int4", [6], 6, CODES]), "shape"),
    "infinite scale": (with_field("embedding", ["float16", "int8", [6], 6, b"\x80\x7f" + CODES[2:]]), "numbers"),
    "scale that is no number": (with_field("embedding", ["float16", "int8", [6], 6, b"\xff\xff" + CODES[2:]]), "numbers"),
    "infinite half": (with_field("embedding", ["float32", "float16", [6], 0, b"\x00\x7c" * 6]), "numbers"),
    "matrix embedding": (with_field("embedding", ["float16", "float16", [2, 3], 0, RAW]), "shape"),
    "flat kv": (with_field("kv", ["float16", "float16", [6], 0, RAW]), "shape"),
    "kv without values": (with_field("kv", ["float16", "float16", [6, 1, 1, 1], 0, RAW]), "shape"),
    "patches without places": (with_field("patches", body(PATCHED)["patches"]), "malformed"),
    "places without patches": (with_field("places", PLACES.tobytes()), "malformed"),
    "places in a list": (with_field("places", PLACES.tolist(), PATCHED), "malformed"),
    "no places": (with_places(b""), "shape"),
    "places of half a layer": (with_places(PLACES.tobytes()[:-2]), "shape"),
    "fewer places than patches": (with_places(PLACES[:, :2].tobytes()), "shape"),
    "places twice": (with_places(PLACES[:, [0, 0, 1]].tobytes()), "malformed"),
    "places out of order": (with_places(PLACES[:, ::-1].tobytes()), "malformed"),
    "patches of other heads": (with_field("patches", body(replace(PATCHED, kv=CARRIER.kv))["kv"], PATCHED), "shape"),
    "patches of another dtype": (with_field("patches", ["float16", "float16", [2, 2, 3, 3, 4], 0, bytes(288)], PATCHED), "dtype"),
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
        ({"embedding": np.zeros(4, [("bfloat16", "<f2")])}, "dtype"),
        ({"embedding": np.zeros(0, np.float16)}, "shape"),
        ({"patches": replace(PATCHES, kv=PATCHES.kv[..., :3])}, "shape"),
        ({"patches": replace(PATCHES, places=PLACES[:1])}, "shape"),
        ({"patches": replace(PATCHES, kv=PATCHES.kv[:, :, :, :0], places=PLACES[:, :0])}, "shape"),
        ({"patches": replace(PATCHES, kv=PATCHES.kv.astype(np.float16))}, "dtype"),
        ({"patches": replace(PATCHES, places=PLACES.astype(np.int64))}, "dtype"),
        ({"patches": replace(PATCHES, places=PLACES[:, ::-1])}, "malformed"),
    ],
)
def test_what_cannot_be_read_back_is_not_written(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadCarrier) as caught:
        encode(replace(CARRIER, **change))
    assert caught.value.reason == reason


def test_no_accident_lie_or_forgery_is_taken_for_a_carrier() -> None:
    r = Random(20_000)
    outcomes = {attempt(r) for _ in range(20_000)}
    reasons = {outcome.partition(": ")[2] for outcome in outcomes}
    assert reasons >= {"version", "length", "checksum", "key", "fingerprint", "shape", "dtype", "numbers", "malformed", "seal", "taken"}


def peak_bytes(value: bytes) -> int:
    """Memory that reading a value takes at most, beside the value."""
    tracemalloc.start()
    try:
        decode(value, KEY, FINGERPRINT)
    except BadCarrier:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("shape", [[2**31, 2, 2**31, 1], [2**22, 2, 1, 1], [1, 2, 1, 2**63]])
def test_a_shape_that_lies_takes_no_memory(shape: list[int]) -> None:
    assert peak_bytes(with_field("kv", ["float32", "int4", shape, 1, bytes(64)])) < 64 << 10


def test_the_largest_value_takes_bounded_memory() -> None:
    most = [MAX_NUMBERS // 32, 2, 1, 16]
    raw = bytes(2 * MAX_NUMBERS // 16 + MAX_NUMBERS // 2)
    array = 4 * MAX_NUMBERS
    assert array <= peak_bytes(with_field("kv", ["float32", "int4", most, 16, raw])) < 6 * array
    over = [MAX_NUMBERS // 32 + 1, 2, 1, 16]
    assert peak_bytes(with_field("kv", ["float32", "int4", over, 16, raw + bytes(20)])) < 4 * len(raw)
