"""A server's clock, as far as its replies tell it."""

from __future__ import annotations

import math
from typing import Final

from depotfs.io.locks import Lock

_FORGET: Final = 60.0
"""Seconds after which what was learned is dropped: clocks drift and are set."""


class ServerClock:
    """Knows how far the server's clock is at least ahead of ours, from `Date` headers, which tell whole seconds.

    For what S3 does not tell in its reply to PUT: the second of LastModified. It is that of the reply's Date if the
    request was sent after that second had begun. The bound gets better with each reply, so that of many requests in
    a row few leave this open.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._ahead = -math.inf
        self._since = -math.inf

    def learn(self, received: float, date: int) -> None:
        """A reply that arrived at this monotonic time was written in that second of the server."""
        with self._lock:
            if received - self._since > _FORGET:
                self._ahead, self._since = -math.inf, received
            self._ahead = max(self._ahead, date - received)

    def was_within(self, sent: float, date: int) -> bool:
        """Whether that second of the server had surely begun at this monotonic time."""
        with self._lock:
            return sent + self._ahead >= date
