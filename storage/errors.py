"""Why a stored value was refused: each reason is counted on its own, as a miss."""

from enum import StrEnum

from pipeline.core import LongwatchError


class BadReason(StrEnum):
    """Why a value cannot be taken for what was asked for."""

    VERSION = "version"
    LENGTH = "length"
    CHECKSUM = "checksum"
    KEY = "key"
    FINGERPRINT = "fingerprint"
    SHAPE = "shape"
    DTYPE = "dtype"
    NUMBERS = "numbers"  # infinite or none at all, where a form has no place for them
    MALFORMED = "malformed"
    SEALED = "sealed"  # by a key that is not here
    UNSEALED = "unsealed"  # where only sealed values are believed
    SEAL = "seal"  # it does not open: changed, or sealed as another value


class BadValue(LongwatchError):
    """A value that is not what was asked for, or that cannot be kept."""

    def __init__(self, reason: BadReason) -> None:
        super().__init__(f"bad value: {reason}")
        self.reason = reason


class BadCarrier(BadValue):
    """A value that is not the carrier asked for, or a carrier that cannot be kept."""
