"""Encryption of values at rest: AES-256-GCM, bound to the name that a value is kept under."""

import hashlib
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.core import LongwatchError
from storage.errors import BadReason, BadValue

MAGIC = b"LWSE"
VERSION = 1
KEY_BYTES = 32
KEY_ID_BYTES = 8
NONCE_BYTES = 12
TAG_BYTES = 16
HEADER = struct.Struct(f"<4sH{KEY_ID_BYTES}s{NONCE_BYTES}s")  # magic, version, key id, nonce
OVERHEAD = HEADER.size + TAG_BYTES
MAX_BYTES = (16 << 20) + OVERHEAD


class BadKeyFile(LongwatchError):
    """A key file that must not or cannot be used; the text says why and what to do."""


class Seal:
    """Seals values under the first key, and opens those of any. Safe to share between threads and processes.

    Without keys values stay as they are, and sealed ones are refused. With keys only sealed ones are believed: who can write
    to the store but has no key cannot make anything up.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}

    @classmethod
    def from_files(cls, paths: Sequence[Path]) -> "Seal":
        """Of key files: each 32 random bytes that others may not read. Raises BadKeyFile."""
        return cls([_read_key(path) for path in paths])

    @property
    def overhead(self) -> int:
        """Bytes that sealing adds to a value; 0 without keys."""
        return OVERHEAD if self._ciphers else 0

    def seal(self, value: bytes, name: str) -> bytes:
        """The value as it is kept under `name`. Sealed twice it differs: the nonce is random."""
        if not self._ciphers:
            return value
        key_id, cipher = next(iter(self._ciphers.items()))
        header = HEADER.pack(MAGIC, VERSION, key_id, os.urandom(NONCE_BYTES))
        return header + cipher.encrypt(header[-NONCE_BYTES:], value, _bound(header, name))

    def open(self, sealed: bytes, name: str) -> bytes:
        """The value that was sealed for exactly this name. Raises BadValue for anything else."""
        if not sealed.startswith(MAGIC):
            if self._ciphers:
                raise BadValue(BadReason.UNSEALED)
            return sealed
        if not OVERHEAD <= len(sealed) <= MAX_BYTES:
            raise BadValue(BadReason.LENGTH)
        _, version, key_id, nonce = HEADER.unpack_from(sealed)
        if version != VERSION:
            raise BadValue(BadReason.VERSION)
        if key_id not in self._ciphers:
            raise BadValue(BadReason.SEALED)
        try:
            return self._ciphers[key_id].decrypt(nonce, sealed[HEADER.size :], _bound(sealed[: HEADER.size], name))
        except InvalidTag:
            raise BadValue(BadReason.SEAL) from None


def _bound(header: bytes, name: str) -> bytes:
    """What is authenticated beside the value: a carrier's name holds its camera, model and time."""
    return header + name.encode()


def _key_id(key: bytes) -> bytes:
    """Tells keys apart and nothing about them: a digest of 256 random bits cannot be turned back."""
    return hashlib.sha256(b"longwatch key id" + key).digest()[:KEY_ID_BYTES]


def _read_key(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # opening a FIFO would wait for ever
        raise BadKeyFile(f"{path}: is not a file")
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise BadKeyFile(f"{path}: cannot be read: {error.strerror}") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise BadKeyFile(f"{path}: everybody on this machine may read or write it: chmod o-rw {path}")
    if len(key) != KEY_BYTES:
        make = f"(umask 077; head -c {KEY_BYTES} /dev/urandom > {path})"
        raise BadKeyFile(f"{path}: must hold exactly {KEY_BYTES} random bytes: {make}")
    return key
