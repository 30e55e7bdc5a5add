"""Thin Ray wrappers and the wiring. The only package that imports ray."""

import os

os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # read as ray is imported: else a call that comes too late starts another Ray
