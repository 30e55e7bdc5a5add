"""Thin Ray wrappers and the wiring. The only package that imports ray."""
