"""Errors of the ingest that its parts share, kept apart so that catching one does not load GStreamer."""

from pipeline.core import LongwatchError


class CameraLost(LongwatchError):
    """A camera gives no more pictures for now; the text says why and what to do, and holds no password."""
