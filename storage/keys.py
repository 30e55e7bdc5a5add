"""Every key that Longwatch has in Redis. The braces are literal: they keep one camera's keys in one Cluster slot."""

from pipeline.core import CAMERA_ID, BadCamera, CarrierKey

CAMERAS = "lw:cameras"  # hash: camera id -> JSON
RULES = "lw:rules"  # hash: rule id -> JSON
ALERTS = "lw:alerts"  # sorted set of JSON, score at_ms: one that is added again by a retry stays one
REPORTING = "lw:reporting"  # set: cameras that a status was ever reported for


def carrier(key: CarrierKey, fingerprint: str) -> str:
    """One carrier's envelope."""
    return f"{_of(key.camera_id)}kv:{fingerprint}:{key.at_ms}"


def index(camera_id: str, fingerprint: str) -> str:
    """Sorted set of the times of a camera's carriers: member at_ms as text, score at_ms."""
    return f"{_of(camera_id)}ix:{fingerprint}"


def live(camera_id: str, fingerprint: str) -> str:
    """Msgpack list of the at_ms in a camera's live memory."""
    return f"{_of(camera_id)}live:{fingerprint}"


def picture(camera_id: str, at_ms: int) -> str:
    """One JPEG, whatever model looked at it."""
    return f"{_of(camera_id)}pic:{at_ms}"


def seen(camera_id: str) -> str:
    """Sorted set of one: the time of a camera's newest picture."""
    return f"{_of(camera_id)}seen"


def status(camera_id: str) -> str:
    """What was last reported of a camera, as JSON."""
    return f"lw:status:{_checked(camera_id)}"


def forgotten(camera_id: str) -> str:
    """Stands for a while after a camera was forgotten, so that a write under way is undone; outside of everything_of."""
    return f"lw:forgotten:{{{_checked(camera_id)}}}"


def everything_of(camera_id: str) -> str:
    """Pattern of all that is remembered of a camera; ids hold no wildcard."""
    return f"{_of(camera_id)}*"


def _of(camera_id: str) -> str:
    return f"lw:{{{_checked(camera_id)}}}:"


def _checked(camera_id: str) -> str:
    if not CAMERA_ID.fullmatch(camera_id):
        raise BadCamera(f"not a camera id: {camera_id!r}")
    return camera_id
