"""Secrets: the texts of a configuration that no message may show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final
from urllib.parse import unquote

from depotfs.daemon.settings import Settings

_SHORTEST: Final = 6
"""Characters: whatever is shorter is in too many other texts by chance."""
_SECRET_KEY: Final = re.compile(r"secret|passw|token|credential|private", re.IGNORECASE)
_PASSWORD: Final = re.compile(r"://[^/\s]*?:([^/\s]+)@")


def find_secrets(settings: Settings) -> frozenset[str]:
    """What stands under keys that tell of a secret, and passwords in URIs; a text of several lines line by line."""
    found = (text for storage in settings.storages for text in _within(storage.options, secret=False))
    return frozenset(line.strip() for text in found for line in text.splitlines() if len(line.strip()) >= _SHORTEST)


def _within(value: object, *, secret: bool) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _within(inner, secret=bool(_SECRET_KEY.search(str(key))))
    elif isinstance(value, list):
        for inner in value:
            yield from _within(inner, secret=secret)
    elif isinstance(value, str):
        yield from _of_text(value, secret=secret)


def _of_text(text: str, *, secret: bool) -> Iterator[str]:
    for password in _PASSWORD.findall(text):
        yield password
        yield unquote(password)
    if not secret or text.startswith("/"):  # a path is no secret
        return
    yield text
    with suppress(ValueError):
        yield from _within(json.loads(text), secret=False)
