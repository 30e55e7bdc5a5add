"""A moment that shows what an earlier one shows is kept as that one's time alone, under the names of its own carrier and picture."""

import struct

import xxhash

from storage.errors import BadReason, BadValue
from storage.seal import OVERHEAD

MAGIC = b"LWSA"
VERSION = 1
FURTHEST_MS = 600_000  # back to the moment that is repeated
BODY = struct.Struct("<4sHq")  # magic, version, at_ms of the moment that is repeated
CHECKSUM = struct.Struct("<Q")  # xxh3_64 of the body and of the name that it is kept under
SIZE = BODY.size + CHECKSUM.size
SIZES = (SIZE, SIZE + OVERHEAD)  # in the clear and sealed: no carrier and no JPEG is as short


def encode(of_ms: int, name: str) -> bytes:
    """The value to keep under `name`, unsealed."""
    body = BODY.pack(MAGIC, VERSION, of_ms)
    return body + CHECKSUM.pack(_checksum(body, name))


def decode(value: bytes, name: str, at_ms: int) -> int | None:
    """When the moment is from that `at_ms` repeats; None where the value is something else. Raises BadValue for an odd repeat."""
    if not value.startswith(MAGIC):
        return None
    if len(value) != SIZE:
        raise BadValue(BadReason.LENGTH)
    _, version, of_ms = BODY.unpack_from(value)
    if version != VERSION:
        raise BadValue(BadReason.VERSION)
    if CHECKSUM.unpack_from(value, BODY.size)[0] != _checksum(value[: BODY.size], name):
        raise BadValue(BadReason.CHECKSUM)
    if not 0 < at_ms - of_ms <= FURTHEST_MS:
        raise BadValue(BadReason.MALFORMED)
    return int(of_ms)


def _checksum(body: bytes, name: str) -> int:
    return xxhash.xxh3_64_intdigest(body + name.encode())
