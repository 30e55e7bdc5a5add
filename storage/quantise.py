"""How the numbers of a carrier become bytes and back: as computed, as float16, or as integers that share a scale."""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core import BFLOAT16, MAX_NUMBERS, Form
from storage.errors import BadCarrier, BadReason

DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4"), "bfloat16": BFLOAT16}
LARGEST = {"float16": 65504.0, "float32": float(np.finfo(np.float32).max), "bfloat16": float.fromhex("0x1.fep127")}
BITS = {"int8": 8, "int4": 4}
MAX_GROUP = {"int8": 128, "int4": 16}  # numbers that share a scale at most; chosen with bench.quantise
MODEST = bytes(range(0x7C))  # upper byte of a bfloat16 from 0 to below 2^121
PARTS = [str, str, list, int, bytes]  # dtype, coding, shape, group, raw

Numbers = NDArray[np.float32]


def pack(array: NDArray[Any], form: Form) -> list[object]:
    """The array as [dtype, coding, shape, group, raw], laid out as docs/format.md says.

    Raises BadCarrier for a dtype that is not kept, and for numbers that the form cannot hold: EXACT holds any.
    """
    dtype = _dtype_name(array)
    if array.size > MAX_NUMBERS:
        raise BadCarrier(BadReason.LENGTH)
    coding = dtype if form is Form.EXACT else form.value
    shape = list(array.shape)
    if coding == dtype:
        return [dtype, coding, shape, 0, array.astype(DTYPES[dtype], copy=False).tobytes()]
    numbers = widen(array)
    if not (np.abs(numbers) <= LARGEST["float16" if coding == "float16" else dtype]).all():  # nor NaN
        raise BadCarrier(BadReason.NUMBERS)
    if coding == "float16":
        return [dtype, coding, shape, 0, narrow(numbers, "float16").tobytes()]
    group = _group(shape[-1], MAX_GROUP[coding])
    return [dtype, coding, shape, group, quantise(numbers.reshape(-1, group), BITS[coding])]


def unpack(packed: list[Any]) -> NDArray[Any]:
    """The array, of the dtype that it was computed in, read-only. Raises BadCarrier for anything that `pack` never writes."""
    if [type(part) for part in packed] != PARTS:
        raise BadCarrier(BadReason.MALFORMED)
    dtype, coding, shape, group, raw = packed
    if dtype not in DTYPES or coding not in {dtype, "float16", *BITS}:
        raise BadCarrier(BadReason.DTYPE)
    if not all(type(size) is int and 0 < size <= MAX_NUMBERS for size in shape) or not shape or prod(shape) > MAX_NUMBERS:
        raise BadCarrier(BadReason.SHAPE)
    if len(raw) != _raw_bytes(coding, shape, group):
        raise BadCarrier(BadReason.SHAPE)
    if coding == dtype:
        return np.frombuffer(raw, DTYPES[dtype]).reshape(shape)
    if coding == "float16":
        array = narrow(_finite(widen(np.frombuffer(raw, "<f2"))), dtype).reshape(shape)
    else:
        array = restore(raw, prod(shape), group, BITS[coding], dtype).reshape(shape)
    array.flags.writeable = False
    return array


def widen(array: NDArray[Any]) -> Numbers:
    """The same numbers in float32."""
    if array.dtype == BFLOAT16:
        return (array["bfloat16"].astype("<u4") << 16).view(np.float32)
    return array.astype(np.float32, order="C")


def narrow(numbers: Numbers, dtype: str) -> NDArray[Any]:
    """The nearest numbers of a dtype, ties to even; those beyond its largest become its largest."""
    held = np.clip(numbers, -LARGEST[dtype], LARGEST[dtype])
    if dtype != "bfloat16":
        return held.astype(DTYPES[dtype], copy=False)
    bits = held.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").view(BFLOAT16)


def quantise(groups: Numbers, bits: int) -> bytes:
    """Scales, then codes, of [groups, group] numbers: each number is its code times its group's scale, to half a scale."""
    top = (1 << (bits - 1)) - 1
    # bfloat16 has the range of float32, and is fine enough that the largest number always gets the top code. So what was
    # read and is kept again gets the same scales and codes, and does not drift.
    scales = narrow(np.abs(groups).max(axis=1) / np.float32(top), "bfloat16")
    steps = widen(scales)[:, None]
    codes = np.clip(np.rint(groups / np.where(steps > 0, steps, 1)), -top, top).astype(np.int8).reshape(-1)
    if bits == 4:
        even = np.append(codes, np.zeros(codes.size % 2, np.int8))
        codes = (even[0::2] & 15) | (even[1::2] << 4)
    return b"".join((scales.tobytes(), codes.tobytes()))


def restore(raw: bytes | memoryview, count: int, group: int, bits: int, dtype: str) -> NDArray[Any]:
    """`count` numbers, in a dtype, of what `quantise` made. Raises BadCarrier for a scale that is not finite."""
    groups = count // group
    steps = widen(np.frombuffer(raw, BFLOAT16, groups))
    codes = np.frombuffer(raw, np.uint8, offset=2 * groups)
    signed = codes.view(np.int8) if bits == 8 else _nibbles(codes)[:count]
    if dtype == "float32" and modest(bytes(raw[: 2 * groups])):  # then nothing is beyond the largest
        return (signed.reshape(groups, group) * steps[:, None]).reshape(-1)
    with np.errstate(over="ignore"):  # `narrow` brings it back
        return narrow((signed.reshape(groups, group) * _finite(steps)[:, None]).reshape(-1), dtype)


def modest(scales: bytes) -> bool:
    """Whether all scales are plainly finite, and so small that none times a code is beyond float32: 0 to 2^121. No: it may be so still."""
    return not scales[1::2].translate(None, MODEST)  # the sign and all of the exponent but its last bit


def _nibbles(codes: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Two signed numbers of each byte, the low one first."""
    pairs = np.empty((codes.size, 2), np.int8)
    pairs[:, 0] = (codes << 4).view(np.int8) >> 4
    pairs[:, 1] = codes.view(np.int8) >> 4
    return pairs.reshape(-1)


def _finite(numbers: Numbers) -> Numbers:
    if not np.isfinite(numbers).all():
        raise BadCarrier(BadReason.NUMBERS)
    return numbers


def _raw_bytes(coding: str, shape: list[int], group: int) -> int:
    """How long `raw` must be; -1 where no length would be right."""
    count = prod(shape)
    if coding in DTYPES:
        return count * DTYPES[coding].itemsize if group == 0 else -1
    return 2 * (count // group) + (count * BITS[coding] + 7) // 8 if group > 0 and shape[-1] % group == 0 else -1


def _group(size: int, most: int) -> int:
    """The largest group of at most `most` that divides `size`: it never spans two heads, layers, or K and V."""
    return next(group for group in range(min(size, most), 0, -1) if size % group == 0)


def _dtype_name(array: NDArray[Any]) -> str:
    name = "bfloat16" if array.dtype == BFLOAT16 else array.dtype.name
    if name not in DTYPES:
        raise BadCarrier(BadReason.DTYPE)
    return name
