"""Numbers in every form: how near they come back, and what no form pretends to hold."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline.core import BFLOAT16, Form
from storage.errors import BadCarrier, BadReason
from storage.quantise import BITS, DTYPES, LARGEST, MAX_GROUP, narrow, pack, unpack, widen

QUANTISED = [Form.INT8, Form.INT4]
ULP = {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8}  # largest relative error of rounding to it
TINY = {"float32": 2**-149, "float16": 2**-24, "bfloat16": 2**-133}


@st.composite
def arrays(draw: st.DrawFn) -> tuple[str, NDArray[np.float32]]:
    """A dtype, and finite numbers that it holds exactly, of any shape that an embedding or the KV may have."""
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(st.one_of(st.tuples(st.integers(1, 40)), st.tuples(st.integers(1, 3), st.just(2), st.integers(1, 3), st.integers(1, 40))))
    largest = draw(st.sampled_from([1e-6, 1.0, 60.0, 65504.0, LARGEST[dtype]]))
    most = float(np.float32(min(largest, LARGEST[dtype])))
    numbers = draw(hnp.arrays(np.float32, shape, elements=st.floats(-most, most, width=32)))
    return dtype, widen(narrow(numbers, dtype))


@settings(max_examples=150, deadline=None)
@given(arrays(), st.sampled_from(QUANTISED))
@example(("bfloat16", widen(narrow(np.full((1,), 1.193861e-39, np.float32), "bfloat16"))), Form.INT8)
def test_a_quantised_number_is_within_half_a_step_of_its_groups_largest(drawn: tuple[str, NDArray[np.float32]], form: Form) -> None:
    dtype, numbers = drawn
    packed = pack(narrow(numbers, dtype), form)
    back = unpack(packed)
    assert (back.shape, back.dtype, back.flags.writeable) == (numbers.shape, DTYPES[dtype], False)
    group = packed[3]
    assert isinstance(group, int) and 0 < group <= MAX_GROUP[form] and numbers.shape[-1] % group == 0
    true, got = (x.astype(np.float64).reshape(-1, group) for x in (numbers, widen(back)))
    largest = np.abs(true).max(axis=1, keepdims=True)
    top = 2 ** (BITS[form] - 1) - 1
    step = largest / top * (1 + 2**-8)  # the scale is a bfloat16
    allowed = step / 2 * (1 + 2**-20) + largest * ULP[dtype] * 2 + top * TINY["bfloat16"] + TINY[dtype]  # whose least is far above 0
    assert (np.abs(got - true) <= allowed).all()


@settings(max_examples=100, deadline=None)
@given(arrays())
def test_float16_is_the_nearest_half(drawn: tuple[str, NDArray[np.float32]]) -> None:
    dtype, numbers = drawn
    assume(np.abs(numbers).max() <= 65504)
    halves = numbers.astype(np.float16).astype(np.float32)
    back = unpack(pack(narrow(numbers, dtype), Form.FLOAT16))
    np.testing.assert_array_equal(widen(back), widen(narrow(halves, dtype)))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(DTYPES)), st.sampled_from(QUANTISED), st.integers(0, 2**32))
def test_what_was_read_and_is_kept_again_does_not_drift(dtype: str, form: Form, seed: int) -> None:
    numbers = np.random.default_rng(seed).standard_normal((2, 2, 2, 32)).astype(np.float32) * 9
    once = unpack(pack(narrow(numbers, dtype), form))
    assert unpack(pack(once, form)).tobytes() == once.tobytes()


def test_a_loud_head_does_not_drown_a_quiet_one() -> None:
    kv = np.ones((2, 2, 2, 32), np.float32)
    kv[1, 0, 1] = 1000.0
    for form in QUANTISED:
        np.testing.assert_allclose(unpack(pack(kv, form)), kv, rtol=0.01)


@pytest.mark.parametrize("form", [Form.FLOAT16, *QUANTISED])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_kept_as_computed_or_not_at_all(form: Form, odd: float) -> None:
    for dtype in ("float32", "bfloat16"):
        numbers = np.full(8, 1.0, np.float32)
        numbers[3] = odd
        array = numbers if dtype == "float32" else (numbers.view(np.uint32) >> 16).astype("<u2").view(BFLOAT16)
        with pytest.raises(BadCarrier) as caught:
            pack(array, form)
        assert caught.value.reason == BadReason.NUMBERS
        assert unpack(pack(array, Form.EXACT)).tobytes() == array.tobytes()


def test_numbers_beyond_a_half_are_refused_as_one() -> None:
    with pytest.raises(BadCarrier, match="numbers"):
        pack(np.array([70_000.0], np.float32), Form.FLOAT16)


def test_the_largest_numbers_stay_finite() -> None:
    for form in QUANTISED:
        for dtype, largest in LARGEST.items():
            numbers = narrow(np.array([largest, -largest, largest / 3, 0.0], np.float32), dtype)
            assert np.isfinite(widen(unpack(pack(numbers, form)))).all()


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even() -> None:
    numbers = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 1e-40], np.float32)
    assert widen(narrow(numbers, "bfloat16")).tolist() == [1.0, 1.0, 1 + 2**-6, 1 + 2**-7, 2**-133]


def test_int4_takes_five_bits_a_number_and_int8_about_eight() -> None:
    kv = np.ones((28, 2, 4, 128), np.float16)  # Qwen2 7B
    sizes = {form: len(pack(kv, form)[4]) for form in Form}  # type: ignore[arg-type]
    assert sizes == {Form.EXACT: 57_344, Form.FLOAT16: 57_344, Form.INT8: 28_672 + 448, Form.INT4: 14_336 + 3_584}
