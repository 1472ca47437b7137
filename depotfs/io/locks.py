"""Locks that a fork cannot leave held: another thread's, which the child does not have, would never let go of it."""

from __future__ import annotations

import os
import threading
from types import TracebackType


class Lock:
    """As `threading.Lock`, a new one in each process."""

    __slots__ = ("_lock", "_pid")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __enter__(self) -> None:
        if self._pid != os.getpid():  # the child of a fork has one thread when it comes here first
            self._lock, self._pid = threading.Lock(), os.getpid()
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.release()
