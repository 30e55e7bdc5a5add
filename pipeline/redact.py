"""Keeps camera passwords out of everything that people, logs and metrics see."""

import re

# Greedy up to the LAST @ of the word: a password may itself hold '@', ':' or '/'. Hiding too much is safe.
_LOGIN = re.compile(r"\b(?!file:)([a-z][a-z0-9+.-]*)://\S*@", re.IGNORECASE)
# ?user=x&pwd=y, and the user=x_password=y_channel=1 paths of many recorders.
_PARAMETER = re.compile(r"((?:pass(?:word|wd|phrase)?|pwd|pw|token|secret|api_?key|auth)=)[^&\s\"'<>]+", re.IGNORECASE)


def redact(text: str) -> str:
    """The text, a URI or a message that holds some, with every login and secret parameter replaced by ***."""
    return _PARAMETER.sub(r"\1***", _LOGIN.sub(r"\1://***@", text))
