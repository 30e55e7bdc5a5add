"""Values of one camera and model are alike to the byte, but for times and numbers: who has read one by the book knows the next at a glance.

A glance only ever says yes. Whatever is not exactly as expected is read by the book (`storage.codec`), which takes it or says why not.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Any

import msgpack
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from pipeline.core import Carrier, CarrierKey, TimeRange
from storage import codec
from storage.quantise import BITS, modest, restore

HEAD = codec.HEADER.size
TIME_BYTES = 8  # of a msgpack integer from 2^32 on, after its tag


class Stored(Carrier):
    """A carrier as it is kept: all but its key is read each time it is looked at, and takes neither time nor room before."""

    __slots__ = ("_layout", "_value")
    _layout: "Layout"
    _value: bytes

    def __getattr__(self, name: str) -> Any:
        """That for which the slots of a carrier stay empty."""
        match name:
            case "embedding":
                return self._layout.embedding.restored(self._value)
            case "kv":
                return self._layout.kv.restored(self._value)
            case "span":
                return self._layout.span(self._value)
            case "fingerprint":
                return self._layout.fingerprint
            case "patches" | "vector":
                return None
        raise AttributeError(f"{type(self).__name__} has no {name}")

    @property
    def nbytes(self) -> int:
        """What it takes as it is kept, and what its numbers take where they were filled in since, as by `dataclasses.replace`."""
        return len(self._value) if hasattr(self, "_value") else super().nbytes

    def at(self, key: CarrierKey, span: TimeRange) -> "Stored":
        """The same, of another time."""
        made = _stored(key, self._layout, self._value)
        object.__setattr__(made, "span", span)
        return made


def _stored(key: CarrierKey, layout: "Layout", value: bytes) -> Stored:
    made = object.__new__(Stored)
    put = object.__setattr__  # frozen
    put(made, "key", key)
    put(made, "_layout", layout)
    put(made, "_value", value)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Where an array stands in a value, and how its numbers are kept there."""

    start: int
    stop: int
    shape: tuple[int, ...]
    count: int
    group: int
    bits: int
    dtype: str

    def restored(self, value: bytes) -> NDArray[Any]:
        """The array, of the dtype that it was computed in, read-only."""
        array = restore(memoryview(value)[self.start : self.stop], self.count, self.group, self.bits, self.dtype).reshape(self.shape)
        array.flags.writeable = False
        return array

    @property
    def scales(self) -> int:
        """How many bytes its scales take, from `start` on."""
        return 2 * (self.count // self.group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the values of one camera and model in one form have in common."""

    camera_id: str
    fingerprint: str
    size: int
    parts: Struct  # fixed bytes, and between them checksum, at_ms, start_ms, end_ms and the scales of both arrays
    fixed: tuple[bytes, ...]
    embedding: Numbers
    kv: Numbers

    def read(self, value: bytes | None, key: CarrierKey) -> Stored | None:
        """The carrier `key`, if the value is one of these and sound; None says only that it has to be read by the book."""
        if value is None or len(value) != self.size or key.camera_id != self.camera_id:
            return None
        start, checksum, a, at_ms, b, start_ms, c, end_ms, d, scales, e, more_scales = self.parts.unpack_from(value)
        if (start, a, b, c, d, e) != self.fixed or at_ms != key.at_ms or not start_ms <= end_ms < codec.MAX_MS:
            return None
        if xxh3_64_intdigest(memoryview(value)[HEAD:]).to_bytes(8, "little") != checksum:
            return None
        return _stored(key, self, value) if modest(scales + more_scales) else None

    def span(self, value: bytes) -> TimeRange:
        """Of a value that was read."""
        parts = self.parts.unpack_from(value)
        return TimeRange(start_ms=parts[5], end_ms=parts[7])


def layout(value: bytes) -> Layout | None:
    """That of a value which was read by the book; None where there is no telling at a glance: other numbers than integers, patches."""
    body = value[HEAD:]
    fields = msgpack.unpackb(body)
    if msgpack.packb(fields) != body or list(fields) != list(codec.FIELDS):
        return None
    if any(fields[name][1] not in BITS for name in ("embedding", "kv")) or min(fields["at_ms"], fields["start_ms"]) < 1 << 32:
        return None
    fixed, at, numbers = [value[: HEAD - 8]], HEAD, {}
    rest = b"%c" % body[0]  # the map's own byte
    for name, content in fields.items():
        rest += msgpack.packb(name) + msgpack.packb(content)
        if name in ("embedding", "kv"):
            numbers[name] = _numbers(content, at + len(rest))
        varying = TIME_BYTES if name.endswith("_ms") else len(content[-1]) if name in numbers else 0
        if varying:
            fixed.append(rest[:-varying])
            at, rest = at + len(rest), b""
    a, b, c, d, e = map(len, fixed[1:])
    first, second = numbers["embedding"], numbers["kv"]
    codes = first.stop - first.start - first.scales
    parts = Struct(f">{len(fixed[0])}s8s{a}sQ{b}sQ{c}sQ{d}s{first.scales}s{codes}x{e}s{second.scales}s")
    return Layout(
        camera_id=fields["camera_id"], fingerprint=fields["fingerprint"], size=len(value), parts=parts, fixed=tuple(fixed), **numbers
    )


def _numbers(packed: list[Any], stop: int) -> Numbers:
    dtype, coding, shape, group, raw = packed
    count = 1
    for size in shape:
        count *= size
    return Numbers(start=stop - len(raw), stop=stop, shape=tuple(shape), count=count, group=group, bits=BITS[coding], dtype=dtype)


class Reader:
    """Reads values of one model as `storage.codec.decode` does, and those like the last of their camera at a glance. Thread-safe."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        self._layouts: dict[str, Layout] = {}

    def known(self, camera_id: str) -> Layout | None:
        """What the camera's values have in common, where any was read."""
        return self._layouts.get(camera_id)

    def decode(self, value: bytes, key: CarrierKey) -> Carrier:
        """The carrier `key`, arrays read-only. Raises BadCarrier for anything else."""
        known = self._layouts.get(key.camera_id)
        if known and (stored := known.read(value, key)):
            return stored
        carrier = codec.decode(value, key, self._fingerprint)
        if learnt := layout(value):
            self._layouts[key.camera_id] = learnt
        return carrier
