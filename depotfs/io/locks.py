"""Locks that a fork leaves free: another thread's, which the child does not have, would never let go of it there."""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType


class Lock:
    """As `threading.Lock`, and a new one in the child of a fork.

    What it guards is to be whole between any two statements that change it: the child sees it as the fork found it.
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = self._new()
        _locks.add(self)

    def _new(self) -> threading.Lock | threading.RLock:
        return threading.Lock()

    def renew(self) -> None:
        """It is free, unless this very thread has it and may take it again."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = self._new()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lock.release()


class ReentrantLock(Lock):
    """As `threading.RLock`, likewise."""

    __slots__ = ()

    def _new(self) -> threading.RLock:
        return threading.RLock()


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _renew_all() -> None:
    for lock in list(_locks):
        lock.renew()


os.register_at_fork(after_in_child=_renew_all)
