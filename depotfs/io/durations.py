"""Durations as backends' options have them: seconds, or a text like "1h"."""

from __future__ import annotations

import re
from typing import Final

from depotfs.errors import ConfigurationError

LONGEST_SIGNATURE: Final = 7 * 86400.0
"""Seconds for which a URL can be signed by version 4 of AWS's signatures and of Google's, which is made like it."""

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def option_seconds(option: str, value: str | float, shortest: float, longest: float) -> float:
    """The seconds that an option's value means. ConfigurationError: it is none, or not within the limits."""
    found = _DURATION.fullmatch(str(value).strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not shortest <= seconds <= longest:
        raise ConfigurationError(f"{option} must be a time from {shortest:g} s to {longest:g} s, not {value!r}")
    return seconds
