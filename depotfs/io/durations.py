"""Durations as configurations and backends' options have them: a number of seconds, or a text like "1h"."""

from __future__ import annotations

import re
from typing import Final

from depotfs.errors import ConfigurationError

LONGEST_SIGNATURE: Final = 7 * 86400.0
"""Seconds for which a URL can be signed by version 4 of AWS's signatures and of Google's, which is made like it."""

_DURATION: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([a-z]*)", re.ASCII)
_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds: `250ms`, `1s`, `5m`, `2h`, `1d`, `1.5`. ValueError: what was expected."""
    found = _DURATION.fullmatch(text.strip())
    if not found or found[2] not in _SECONDS:
        raise ValueError("a duration like 1s or 5m")
    return float(found[1]) * _SECONDS[found[2]]


def option_seconds(option: str, value: str | float, shortest: float, longest: float) -> float:
    """The seconds that an option's value means. ConfigurationError: it is none, or not within the limits."""
    try:
        seconds = parse_duration(value) if isinstance(value, str) else float(value)
    except ValueError:
        seconds = -1.0
    if not shortest <= seconds <= longest:
        raise ConfigurationError(f"{option} must be a time from {shortest:g} s to {longest:g} s, not {value!r}")
    return seconds
