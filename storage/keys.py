"""Every key that Longwatch has in Redis. The braces are literal: they keep one camera's keys, and the site's, in one Cluster slot."""

import re

from pipeline.core import CAMERA_ID, BadCamera, CarrierKey

# What the registry keeps; no camera id has capitals.
CAMERAS = "lw:{SITE}:cameras"  # hash: camera id -> JSON
RULES = "lw:{SITE}:rules"  # hash: rule id -> JSON
ALERTS = "lw:{SITE}:alerts"  # sorted set of JSON, score at_ms: one that is added again by a retry stays one
REPORTING = "lw:{SITE}:reporting"  # set: cameras that a status was ever reported for
TERM = "lw:{SITE}:term"  # number: where the grants of the latest ingest begin

MOMENT = re.compile(rb"lw:\{[^}]*\}:(?:kv:[0-9a-f]+|pic):([0-9]+)")
PACKED = re.compile(rb"lw:\{[^}]*\}:vec:[0-9a-f]+:[0-9a-f]+:([1-9][0-9]+):([0-9]+)")


def carrier(key: CarrierKey, fingerprint: str) -> str:
    """One carrier's envelope."""
    return f"{carriers(key.camera_id, fingerprint)}{key.at_ms}"


def carriers(camera_id: str, fingerprint: str) -> str:
    """What the names of a camera's carriers begin with; their at_ms follows."""
    return f"{_of(camera_id)}kv:{fingerprint}:"


def index(camera_id: str, fingerprint: str) -> str:
    """Sorted set of the times of a camera's carriers: member at_ms as text, score at_ms."""
    return f"{_of(camera_id)}ix:{fingerprint}"


def live(camera_id: str, fingerprint: str) -> str:
    """Msgpack list of the at_ms in a camera's live memory."""
    return f"{_of(camera_id)}live:{fingerprint}"


def picture(camera_id: str, at_ms: int) -> str:
    """One JPEG, whatever model looked at it."""
    return f"{_of(camera_id)}pic:{at_ms}"


def pictures(camera_id: str) -> str:
    """Sorted set of the times of a camera's pictures, as `index`."""
    return f"{_of(camera_id)}pictures"


def vectors(camera_id: str, fingerprint: str, head: str, stride: int, hour: int) -> str:
    """Records of `storage.vectors`, each of `stride` bytes: the vectors of one hour (counted from 1970) by the head of that digest."""
    return f"{_of(camera_id)}vec:{fingerprint}:{head}:{stride}:{hour}"


def lost(camera_id: str) -> str:
    """Sorted set of JSON [start_ms, end_ms, reason], score start_ms: what was seen and could not be kept."""
    return f"{_of(camera_id)}lost"


def status(camera_id: str) -> str:
    """What was last reported of a camera, as JSON."""
    return f"lw:{{SITE}}:status:{_checked(camera_id)}"


def guard(camera_id: str) -> str:
    """Hash of `storage.guard`; it must outlive what it guards for a while, and so is outside of everything_of."""
    return f"lw:guard:{{{_checked(camera_id)}}}"


def everything_of(camera_id: str) -> str:
    """Pattern of all that is remembered of a camera; ids hold no wildcard."""
    return f"{_of(camera_id)}*"


def moment(name: bytes) -> int | None:
    """The at_ms in the key of a carrier or picture; None for any other key."""
    found = MOMENT.fullmatch(name)
    return int(found[1]) if found else None


def packed(name: bytes) -> tuple[int, int] | None:
    """Bytes of a record, and the hour, in the key of vectors; None for any other key."""
    found = PACKED.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


def _of(camera_id: str) -> str:
    return f"lw:{{{_checked(camera_id)}}}:"


def _checked(camera_id: str) -> str:
    if not CAMERA_ID.fullmatch(camera_id):
        raise BadCamera(f"not a camera id: {camera_id!r}")
    return camera_id
