"""How one carrier becomes one Redis value and back, bit for bit: a header, then a msgpack body sealed by a checksum."""

import re
import struct
from enum import StrEnum
from math import prod
from typing import Any

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.core import CAMERA_ID, Carrier, CarrierKey, LongwatchError, TimeRange

FINGERPRINT = re.compile(r"[0-9a-f]{4,64}")

VERSION = 1
MAGIC = b"LWCR"
MAX_BYTES = 16 << 20  # of a value; a 7B model's carrier in float16 takes 56 KiB
MAX_MS = 2**53  # times stay exact as a Redis score

HEADER = struct.Struct("<4sHIQ")  # magic, version, length of the body, xxh3_64 of the body
DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
FIELDS = {"camera_id": str, "at_ms": int, "fingerprint": str, "start_ms": int, "end_ms": int, "embedding": list, "kv": list}
ARRAY_FIELDS = [str, list, bytes]  # dtype, shape, raw
LIMITS = {"max_str_len": 64, "max_bin_len": MAX_BYTES, "max_array_len": 4, "max_map_len": len(FIELDS), "max_ext_len": 0}


class BadReason(StrEnum):
    """Why a value cannot be taken for the carrier asked for."""

    VERSION = "version"
    LENGTH = "length"
    CHECKSUM = "checksum"
    KEY = "key"
    FINGERPRINT = "fingerprint"
    SHAPE = "shape"
    DTYPE = "dtype"
    MALFORMED = "malformed"


class BadCarrier(LongwatchError):
    """A value that is not the carrier asked for, or a carrier that cannot be kept."""

    def __init__(self, reason: BadReason) -> None:
        super().__init__(f"bad carrier: {reason}")
        self.reason = reason


def encode(carrier: Carrier) -> bytes:
    """The value to keep. Raises BadCarrier where `decode` would refuse it."""
    key, span = carrier.key, carrier.span
    times = (key.at_ms, span.start_ms, span.end_ms)
    if not all(0 <= time < MAX_MS for time in times) or span.start_ms > span.end_ms:
        raise BadCarrier(BadReason.MALFORMED)
    if not CAMERA_ID.fullmatch(key.camera_id):
        raise BadCarrier(BadReason.KEY)
    if not FINGERPRINT.fullmatch(carrier.fingerprint):
        raise BadCarrier(BadReason.FINGERPRINT)
    _check_shapes(carrier.embedding.shape, carrier.kv.shape)
    fields = (key.camera_id, key.at_ms, carrier.fingerprint, span.start_ms, span.end_ms, _pack(carrier.embedding), _pack(carrier.kv))
    body: bytes = msgpack.packb(dict(zip(FIELDS, fields, strict=True)))
    if HEADER.size + len(body) > MAX_BYTES:
        raise BadCarrier(BadReason.LENGTH)
    return HEADER.pack(MAGIC, VERSION, len(body), xxhash.xxh3_64_intdigest(body)) + body


def decode(blob: bytes, key: CarrierKey, fingerprint: str) -> Carrier:
    """The carrier `key` as made by the model `fingerprint`, arrays read-only. Raises BadCarrier for anything else."""
    body = _parse(_open(blob))
    if (body["camera_id"], body["at_ms"]) != (key.camera_id, key.at_ms):
        raise BadCarrier(BadReason.KEY)
    if body["fingerprint"] != fingerprint:
        raise BadCarrier(BadReason.FINGERPRINT)
    span = TimeRange(start_ms=body["start_ms"], end_ms=body["end_ms"])
    if not 0 <= span.start_ms <= span.end_ms < MAX_MS:
        raise BadCarrier(BadReason.MALFORMED)
    embedding, kv = _unpack(body["embedding"]), _unpack(body["kv"])
    _check_shapes(embedding.shape, kv.shape)
    return Carrier(key=key, fingerprint=fingerprint, span=span, embedding=embedding, kv=kv)


def _open(blob: bytes) -> bytes:
    """The body, once header, length and checksum agree."""
    if not HEADER.size < len(blob) <= MAX_BYTES:
        raise BadCarrier(BadReason.LENGTH)
    magic, version, length, checksum = HEADER.unpack_from(blob)
    if (magic, version) != (MAGIC, VERSION):
        raise BadCarrier(BadReason.VERSION)
    body = blob[HEADER.size :]
    if len(body) != length:
        raise BadCarrier(BadReason.LENGTH)
    if xxhash.xxh3_64_intdigest(body) != checksum:
        raise BadCarrier(BadReason.CHECKSUM)
    return body


def _parse(body: bytes) -> dict[str, Any]:
    """The fields, each of exactly its type (a bool is no int here)."""
    try:
        fields = msgpack.unpackb(body, raw=False, strict_map_key=True, **LIMITS)
    except (ValueError, msgpack.UnpackException) as error:
        raise BadCarrier(BadReason.MALFORMED) from error
    if type(fields) is not dict or {name: type(value) for name, value in fields.items()} != FIELDS:
        raise BadCarrier(BadReason.MALFORMED)
    return fields


def _pack(array: NDArray[Any]) -> list[object]:
    name = array.dtype.name
    if name not in DTYPES:
        raise BadCarrier(BadReason.DTYPE)
    return [name, list(array.shape), array.astype(DTYPES[name], copy=False).tobytes()]


def _unpack(packed: list[Any]) -> NDArray[Any]:
    """Views the bytes, which is what makes the array read-only."""
    if [type(part) for part in packed] != ARRAY_FIELDS:
        raise BadCarrier(BadReason.MALFORMED)
    name, shape, raw = packed
    if name not in DTYPES:
        raise BadCarrier(BadReason.DTYPE)
    if not all(type(size) is int and size > 0 for size in shape) or prod(shape) * DTYPES[name].itemsize != len(raw):
        raise BadCarrier(BadReason.SHAPE)
    return np.frombuffer(raw, DTYPES[name]).reshape(shape)


def _check_shapes(embedding: tuple[int, ...], kv: tuple[int, ...]) -> None:
    """[hidden] and [layers, 2, kv_heads, head_dim], nothing empty."""
    if len(embedding) != 1 or len(kv) != 4 or kv[1] != 2 or 0 in embedding + kv:
        raise BadCarrier(BadReason.SHAPE)
