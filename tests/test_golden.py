"""Values written once, which must read the same for ever. A golden file is never written again: a new form or version adds its own."""

import json
from pathlib import Path

import pytest
from fuzz_codec import FINGERPRINT, GOLDEN, KEY, SEAL_KEY

from pipeline.core import Form
from storage import keys, repeats
from storage.codec import VERSION, Codec
from storage.errors import BadCarrier
from storage.quantise import DTYPES, widen
from storage.seal import Seal

READABLE = sorted(path for path in GOLDEN.glob("*.carrier") if path.with_suffix(".json").exists())


@pytest.mark.parametrize("path", READABLE, ids=lambda path: path.stem)
def test_the_bytes_are_this_carrier(path: Path) -> None:
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    codec = Codec(seal=Seal([SEAL_KEY] if path.stem.startswith("sealed") else []))
    carrier = codec.decode(path.read_bytes(), KEY, FINGERPRINT)
    assert (carrier.key.camera_id, carrier.key.at_ms, carrier.fingerprint) == (told["camera_id"], told["at_ms"], told["fingerprint"])
    assert (carrier.span.start_ms, carrier.span.end_ms) == (told["start_ms"], told["end_ms"])
    for name in ("embedding", "kv"):
        array = getattr(carrier, name)
        assert array.dtype == DTYPES[told["dtype"]]
        assert widen(array).tolist() == told[name]
    assert (carrier.patches is not None) == ("patches" in told)
    if carrier.patches:
        assert carrier.patches.kv.dtype == DTYPES[told["dtype"]]
        assert widen(carrier.patches.kv).tolist() == told["patches"]
        assert carrier.patches.places.tolist() == told["places"]


@pytest.mark.parametrize("path", [path for path in READABLE if path.stem.startswith(f"v{VERSION}")], ids=lambda path: path.stem)
def test_the_carrier_is_written_as_these_bytes(path: Path) -> None:
    """What patches brought changed no value without them."""
    carrier = Codec().decode(path.read_bytes(), KEY, FINGERPRINT)
    assert Codec(form=Form(path.stem.split("-")[-2])).encode(carrier) == path.read_bytes()


def test_every_form_of_this_version_has_its_golden_files() -> None:
    stems = {path.stem for path in READABLE}
    assert stems >= {f"v{VERSION}-{form}-{dtype}" for form in Form for dtype in DTYPES} - {f"v{VERSION}-float16-float16"}
    assert any(stem.startswith("sealed-") for stem in stems)
    assert stems >= {f"v{VERSION}-patches-exact-float32", f"v{VERSION}-patches-int8-bfloat16"}


def test_the_first_format_is_refused_by_its_version() -> None:
    with pytest.raises(BadCarrier, match="version"):
        Codec().decode((GOLDEN / "v1-float16.carrier").read_bytes(), KEY, FINGERPRINT)


def test_the_bytes_of_a_repeat_are_that_time() -> None:
    name = keys.carrier(KEY, FINGERPRINT)
    assert repeats.decode((GOLDEN / "v1-repeat.value").read_bytes(), name, KEY.at_ms) == KEY.at_ms - 8000
