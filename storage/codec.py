"""How one carrier becomes one Redis value and back: a header, then a msgpack body sealed by a checksum (docs/format.md)."""

import re
import struct
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack
import numpy as np
import xxhash

from pipeline.core import CAMERA_ID, MAX_BYTES, Carrier, CarrierKey, Form, Patches, TimeRange
from storage import keys
from storage.errors import BadCarrier as BadCarrier
from storage.errors import BadReason as BadReason
from storage.quantise import PARTS, pack, unpack
from storage.seal import Seal

FINGERPRINT = re.compile(r"[0-9a-f]{4,64}")

VERSION = 2
MAGIC = b"LWCR"
MAX_MS = 2**53  # times stay exact as a Redis score

HEADER = struct.Struct("<4sHIQ")  # magic, version, length of the body, xxh3_64 of the body
FIELDS = {"camera_id": str, "at_ms": int, "fingerprint": str, "start_ms": int, "end_ms": int, "embedding": list, "kv": list}
WITH_PATCHES = FIELDS | {"patches": list, "places": bytes}
LIMITS = {"max_str_len": 64, "max_bin_len": MAX_BYTES, "max_array_len": len(PARTS), "max_map_len": len(WITH_PATCHES), "max_ext_len": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """How one store keeps its values: in which form it writes numbers (it reads all), and whether sealed."""

    form: Form = Form.EXACT
    seal: Seal = field(default_factory=Seal)

    def encode(self, carrier: Carrier) -> bytes:
        """The value to keep. Raises BadCarrier where `decode` would refuse it."""
        return self.seal.seal(encode(carrier, self.form), keys.carrier(carrier.key, carrier.fingerprint))

    def decode(self, value: bytes, key: CarrierKey, fingerprint: str) -> Carrier:
        """The carrier `key` as made by the model `fingerprint`. Raises BadValue for anything else."""
        return decode(self.seal.open(value, keys.carrier(key, fingerprint)), key, fingerprint)


def encode(carrier: Carrier, form: Form = Form.EXACT) -> bytes:
    """The value to keep, unsealed. Raises BadCarrier where `decode` would refuse it, and for numbers that the form cannot hold."""
    key, span = carrier.key, carrier.span
    times = (key.at_ms, span.start_ms, span.end_ms)
    if not all(0 <= time < MAX_MS for time in times) or span.start_ms > span.end_ms:
        raise BadCarrier(BadReason.MALFORMED)
    if not CAMERA_ID.fullmatch(key.camera_id):
        raise BadCarrier(BadReason.KEY)
    if not FINGERPRINT.fullmatch(carrier.fingerprint):
        raise BadCarrier(BadReason.FINGERPRINT)
    _check_shapes(carrier.embedding.shape, carrier.kv.shape)
    fields = (key.camera_id, key.at_ms, carrier.fingerprint, span.start_ms, span.end_ms)
    arrays: tuple[object, ...] = (pack(carrier.embedding, form), pack(carrier.kv, form))
    if carrier.patches:
        _check_patches(carrier.patches, carrier)
        arrays += (pack(carrier.patches.kv, form), carrier.patches.places.astype("<u2").tobytes())
    body: bytes = msgpack.packb(dict(zip(WITH_PATCHES if carrier.patches else FIELDS, fields + arrays, strict=True)))
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
    embedding, kv = unpack(body["embedding"]), unpack(body["kv"])
    _check_shapes(embedding.shape, kv.shape)
    carrier = Carrier(key=key, fingerprint=fingerprint, span=span, embedding=embedding, kv=kv)
    return replace(carrier, patches=_patches(body, carrier)) if "patches" in body else carrier


def _patches(body: dict[str, Any], carrier: Carrier) -> Patches:
    """What a value says of patches, once it fits the carrier."""
    kv, raw, layers = unpack(body["patches"]), body["places"], carrier.kv.shape[0]
    if not raw or len(raw) % (2 * layers):
        raise BadCarrier(BadReason.SHAPE)
    patches = Patches(kv=kv, places=np.frombuffer(raw, "<u2").reshape(layers, -1))
    _check_patches(patches, carrier)
    return patches


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
    if type(fields) is not dict or {name: type(value) for name, value in fields.items()} not in (FIELDS, WITH_PATCHES):
        raise BadCarrier(BadReason.MALFORMED)
    return fields


def _check_shapes(embedding: tuple[int, ...], kv: tuple[int, ...]) -> None:
    """[hidden] and [layers, 2, kv_heads, head_dim], nothing empty."""
    if len(embedding) != 1 or len(kv) != 4 or kv[1] != 2 or 0 in embedding + kv:
        raise BadCarrier(BadReason.SHAPE)


def _check_patches(patches: Patches, carrier: Carrier) -> None:
    """kv [layers, 2, kv_heads, patches, head_dim] as the carrier's own; places [layers, patches], ascending in every layer."""
    layers, two, heads, dim = carrier.kv.shape
    kept = patches.places.shape[-1]
    if patches.kv.shape != (layers, two, heads, kept, dim) or patches.places.shape != (layers, kept) or kept == 0:
        raise BadCarrier(BadReason.SHAPE)
    if patches.kv.dtype != carrier.kv.dtype or patches.places.dtype != np.uint16:
        raise BadCarrier(BadReason.DTYPE)
    if (patches.places[:, 1:] <= patches.places[:, :-1]).any():
        raise BadCarrier(BadReason.MALFORMED)
