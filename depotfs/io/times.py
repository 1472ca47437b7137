"""Times as filedepot stores them: `YYYY-MM-DD HH:MM:SS`, UTC, whole seconds."""

from __future__ import annotations

import re
from calendar import timegm
from datetime import UTC, datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1)
_STORED = re.compile(r"(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)", re.ASCII)


def to_datetime(seconds: int) -> datetime:
    """Naive datetime, UTC, of seconds since the epoch; clipped to the years 1 to 9999."""
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(microsecond=0) if seconds > 0 else datetime.min


def from_datetime(moment: datetime) -> int:
    """Whole seconds since the epoch of a datetime; a naive one is taken as UTC."""
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return timegm(moment.timetuple())


def format_stored(seconds: int) -> str:
    """The string that is stored for that time."""
    moment = to_datetime(seconds)
    return f"{moment.year:04}-{moment.month:02}-{moment.day:02} {moment.hour:02}:{moment.minute:02}:{moment.second:02}"


def parse_stored(text: Any) -> int | None:
    """Seconds since the epoch of a stored string, None if it is not one."""
    found = _STORED.fullmatch(text) if isinstance(text, str) else None
    if not found:
        return None
    try:
        return from_datetime(datetime(*map(int, found.groups())))  # type: ignore[arg-type]  # six ints
    except ValueError:
        return None
