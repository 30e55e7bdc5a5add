"""Encryption at rest: what opens, what does not, and which key files are taken."""

import os
from pathlib import Path

import pytest
from fuzz_codec import FINGERPRINT, KEY

from storage.errors import BadReason, BadValue
from storage.seal import OVERHEAD, BadKeyFile, Seal

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
NAME = f"lw:{{dock}}:kv:{FINGERPRINT}:{KEY.at_ms}"
PICTURE = b"\xff\xd8 a face \xff\xd9"


def reason(seal: Seal, value: bytes, name: str = NAME) -> BadReason:
    with pytest.raises(BadValue) as caught:
        seal.open(value, name)
    return caught.value.reason


def key_file(folder: Path, key: bytes, mode: int = 0o600) -> Path:
    path = folder / "memory.key"
    path.write_bytes(key)
    path.chmod(mode)
    return path


def test_what_is_sealed_opens_and_shows_nothing() -> None:
    sealed = Seal([OLD]).seal(PICTURE, NAME)
    assert Seal([OLD]).open(sealed, NAME) == PICTURE
    assert len(sealed) == len(PICTURE) + OVERHEAD
    assert b"face" not in sealed and OLD not in sealed


def test_the_same_value_is_never_sealed_twice_alike() -> None:
    assert len({Seal([OLD]).seal(PICTURE, NAME)[14:26] for _ in range(100)}) == 100


def test_another_name_does_not_open_it() -> None:
    sealed = Seal([OLD]).seal(PICTURE, NAME)
    for name in (NAME.replace("dock", "gate"), NAME.replace(FINGERPRINT, "ffffffff"), NAME[:-1] + "4", f"lw:{{dock}}:pic:{KEY.at_ms}"):
        assert reason(Seal([OLD]), sealed, name) == "seal"


def test_no_bit_may_change() -> None:
    sealed = Seal([OLD]).seal(PICTURE, NAME)
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        assert reason(Seal([OLD]), bytes(changed)) in ("unsealed", "version", "sealed", "seal")
    assert reason(Seal([OLD]), sealed[:-1]) == "seal"
    assert reason(Seal([OLD]), sealed[:20]) == "length"


def test_with_a_key_nothing_in_the_clear_is_believed() -> None:
    assert reason(Seal([OLD]), PICTURE) == "unsealed"
    assert reason(Seal([OLD]), b"") == "unsealed"


def test_without_a_key_values_stay_as_they_are_and_sealed_ones_are_refused() -> None:
    assert Seal().seal(PICTURE, NAME) == PICTURE == Seal().open(PICTURE, NAME)
    assert reason(Seal(), Seal([OLD]).seal(PICTURE, NAME)) == "sealed"


def test_keys_are_changed_without_losing_what_the_old_one_sealed() -> None:
    both = Seal([NEW, OLD])
    assert both.open(Seal([OLD]).seal(PICTURE, NAME), NAME) == PICTURE
    sealed = both.seal(PICTURE, NAME)
    assert Seal([NEW]).open(sealed, NAME) == PICTURE
    assert reason(Seal([OLD]), sealed) == "sealed"


def test_a_key_file_of_ones_own_is_read(tmp_path: Path) -> None:
    sealed = Seal.from_files([key_file(tmp_path, OLD)]).seal(PICTURE, NAME)
    assert Seal([OLD]).open(sealed, NAME) == PICTURE


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602])
def test_a_key_file_open_to_others_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path, OLD, mode)
    with pytest.raises(BadKeyFile, match=f"chmod o-rw {path}"):
        Seal.from_files([path])


@pytest.mark.parametrize("key", [b"", OLD[:-1], OLD + b"\n", OLD.hex().encode()])
def test_a_key_file_of_another_length_is_refused_with_the_remedy(tmp_path: Path, key: bytes) -> None:
    with pytest.raises(BadKeyFile, match="exactly 32 random bytes: .*head -c 32 /dev/urandom"):
        Seal.from_files([key_file(tmp_path, key)])


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadKeyFile, match="cannot be read: No such file"):
        Seal.from_files([tmp_path / "none"])
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(BadKeyFile, match="is not a file"):
            Seal.from_files([path])
