"""Mutated values against the reader: each is refused by name, or is a sound carrier of the key that was asked for.

    python -m tests.fuzz_codec --count 1000000 [--seed 1]

Read both by the book and by somebody who knows the value from before (`storage.alike`): nothing that is refused may pass at a glance.

The values are those of tests/golden: every form of numbers, and a sealed one.
"""

import resource
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import numpy as np
import typer
import xxhash

from pipeline.core import Carrier, CarrierKey
from storage import codec
from storage.alike import Reader
from storage.codec import Codec
from storage.errors import BadValue
from storage.quantise import DTYPES
from storage.seal import Seal

GOLDEN = Path(__file__).parent / "golden"
KEY = CarrierKey(camera_id="dock", at_ms=1_700_000_000_123)
FINGERPRINT = "0a1b2c3d"
SEAL_KEY = bytes(range(32))
PLAIN = [path.read_bytes() for path in sorted(GOLDEN.glob("v2-*.carrier"))]
SEALED = [path.read_bytes() for path in sorted(GOLDEN.glob("sealed-*.carrier"))]
READER, SEALED_READER = Codec(), Codec(seal=Seal([SEAL_KEY]))
USED = {value: Reader(FINGERPRINT) for value in PLAIN}
for _value, _reader in USED.items():
    _reader.decode(_value, KEY)
MAX_GROWTH_KIB = 32 << 10

ODD_NUMBERS = (-1, 0, 1, 2, 7, 2**16, 2**22, 2**31, 2**32, 2**63, 2**64 - 1, True, None, 1.0, "1")
ODD_WORDS = ("float32", "float16", "bfloat16", "int8", "int4", "int2", "object", "", "x" * 65, b"int8", 8)


def mutate(value: bytes, other: bytes, r: Random) -> bytes:
    """One accident: bits flipped, bytes overwritten, a cut, an insertion, a repeated or swapped part, another value's end."""
    start, end = sorted((r.randrange(len(value)), r.randrange(len(value) + 1)))
    noise = r.choice((r.randbytes(r.randint(1, 16)), b"\xff" * r.randint(1, 8)))
    flipped = bytearray(value)
    for _ in range(r.randint(1, 8)):
        flipped[r.randrange(len(value))] ^= 1 << r.randrange(8)
    accidents = (
        bytes(flipped),
        value[:start] + noise + value[start + len(noise) :],
        value[:start] + value[end:],
        value[:start] + noise + value[start:],
        value[:end] + value[start:],
        value[end:] + value[:end],
        value[:start] + other[start:],
        value[:start],
    )
    return r.choice(accidents)


def with_header(body: bytes) -> bytes:
    """A value whose header agrees with its body, as a confused or hostile writer could make."""
    return codec.HEADER.pack(codec.MAGIC, codec.VERSION, len(body), xxhash.xxh3_64_intdigest(body)) + body


def lie(body: bytes, r: Random) -> bytes:
    """A well-formed body one of whose arrays says something untrue of itself, or of the places of its patches."""
    fields: dict[str, Any] = msgpack.unpackb(body)
    if "places" in fields and r.random() < 0.2:
        places = fields["places"]
        fields["places"] = r.choice((places[: r.randrange(len(places))], places * 2, places[::-1], r.randbytes(len(places)), []))
        lied: bytes = msgpack.packb(fields)
        return lied
    array = fields[r.choice([name for name, value in fields.items() if isinstance(value, list)])]
    part = r.randrange(len(array))
    if part < 2:
        array[part] = r.choice(ODD_WORDS)
    elif part == 2:
        at = r.randrange(len(array[2]) + 1)
        array[2][at : at + r.randrange(2)] = [r.choice(ODD_NUMBERS)]
    elif part == 3:
        array[3] = r.choice(ODD_NUMBERS)
    else:
        array[4] = r.choice((array[4][: r.randrange(len(array[4]))], array[4] * 2, r.randbytes(len(array[4]))))
    packed: bytes = msgpack.packb(fields)
    return packed


def at_a_glance(mutated: bytes, value: bytes) -> Carrier | None:
    """What somebody reads who has read the value before it was mutated, and so may know by sight what is like it."""
    try:
        return USED[value].decode(mutated, KEY)
    except BadValue:
        return None


def parts(carrier: Carrier | None) -> list[object]:
    """All that a carrier is."""
    assert carrier
    arrays = [carrier.embedding, carrier.kv, *((carrier.patches.kv, carrier.patches.places) if carrier.patches else ())]
    return [carrier.key, carrier.fingerprint, carrier.span, *((array.dtype, array.shape, array.tobytes()) for array in arrays)]


def attempt(r: Random) -> str:
    """Mutate one value, read it, and say what came of it. Raises AssertionError for what must never be."""
    kind = r.choice(("accident", "accident", "hostile", "lie", "sealed"))
    value, other = r.choice(SEALED if kind == "sealed" else PLAIN), r.choice(PLAIN)
    body = value[codec.HEADER.size :]
    match kind:
        case "hostile":
            mutated = with_header(mutate(body, other[codec.HEADER.size :], r))
        case "lie":
            mutated = with_header(lie(body, r))
        case _:
            mutated = mutate(value, other, r)
    try:
        carrier = (SEALED_READER if kind == "sealed" else READER).decode(mutated, KEY, FINGERPRINT)
    except BadValue as error:
        assert kind == "sealed" or at_a_glance(mutated, value) is None, mutated
        return f"{kind}: {error.reason}"
    assert kind == "sealed" or parts(at_a_glance(mutated, value)) == parts(carrier), mutated
    # Neither checksum nor seal is passed by accident; who recomputes the checksum may make a carrier of this key, if a sound one.
    assert kind in ("hostile", "lie") or mutated in PLAIN + SEALED, mutated
    assert (carrier.key, carrier.fingerprint) == (KEY, FINGERPRINT)
    assert carrier.embedding.ndim == 1 and carrier.kv.ndim == 4 and carrier.kv.shape[1] == 2
    assert {carrier.embedding.dtype, carrier.kv.dtype} <= set(DTYPES.values())
    if carrier.patches:
        layers, two, heads, dim = carrier.kv.shape
        assert carrier.patches.kv.shape == (layers, two, heads, carrier.patches.places.shape[1], dim)
        assert carrier.patches.kv.dtype == carrier.kv.dtype and (np.diff(carrier.patches.places.astype(int)) > 0).all()
    assert carrier.span.start_ms <= carrier.span.end_ms
    return f"{kind}: taken"


def main(count: int = 20_000, seed: int = 1) -> None:
    """Print how often each outcome came, and how fast; fails on the first thing that must never be."""
    r = Random(seed)
    attempt(r)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with np.errstate(all="raise", under="ignore"):
        outcomes = Counter(attempt(r) for _ in range(count))
    took, growth = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    for outcome, times in sorted(outcomes.items()):
        print(f"{times:>9}  {outcome}")
    print(f"{count} values in {took:.1f} s; peak memory grew by {growth} KiB")
    assert growth < MAX_GROWTH_KIB


if __name__ == "__main__":
    typer.run(main)
