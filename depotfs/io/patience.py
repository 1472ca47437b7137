"""How long a call to a server may go on without progress, whatever it consists of."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Patience:
    """Of one storage; each thread's call has its own time.

    Attributes:
        seconds: that a call may take without progress, None for no limit.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._thread = threading.local()

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call; one that is made inside of another belongs to that one."""
        begun: float | None = getattr(self._thread, "begun", None)
        if begun is None:
            self._thread.begun = time.monotonic()
        try:
            yield
        finally:
            if begun is None:
                self._thread.begun = None

    def progressed(self) -> None:
        """Something of what the call is for is done: its time begins anew."""
        if getattr(self._thread, "begun", None) is not None:
            self._thread.begun = time.monotonic()

    def left(self) -> float:
        """Seconds that the thread's call may still take without progress; 0 or less if it should end."""
        begun: float | None = getattr(self._thread, "begun", None)
        if self.seconds is None or begun is None:
            return math.inf
        return begun + self.seconds - time.monotonic()
