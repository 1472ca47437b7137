"""When a failed call is made again: a pure decision."""

from __future__ import annotations

from typing import Final

FIRST_DELAY: Final = 0.1
LARGEST_DELAY: Final = 5.0
ATTEMPTS: Final = 4
"""The SDKs repeat by themselves; what comes through is repeated only this often, so that delays do not multiply."""


def retry_delay(failures: int, retry_after: float | None, remaining: float, draw: float) -> float | None:
    """Seconds to wait before the next attempt, None to give up.

    Args:
        failures: attempts made so far, at least 1.
        retry_after: what the server asked for, if it did: never waited for less.
        remaining: seconds until the deadline of the whole call.
        draw: a random number in [0, 1): the jitter, so that many callers do not come back at once.
    """
    if failures >= ATTEMPTS:
        return None
    ceiling = min(LARGEST_DELAY, FIRST_DELAY * 4 ** (failures - 1))
    delay = max(retry_after or 0.0, ceiling * (0.5 + draw / 2))
    return delay if delay < remaining else None
