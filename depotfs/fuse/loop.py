"""Shorter ways through pyfuse3's session loop.

pyfuse3 3.5 guards its reads of /dev/fuse by a trio lock and waits for the descriptor through trio's scheduler: two
task switches and two epoll calls a request, which is more than the request itself costs. Here the lock is taken
without a switch while it is free, a request that is there already is read without waiting, and one that comes soon
is waited for in place while trio has nothing else to do. Measured on two cores: from 41 to 20 µs of CPU a request;
waiting in place makes `cp -r` of small files faster by a third, and their removal by half.
"""

from __future__ import annotations

import collections
import logging
import select
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

import pyfuse3
import trio

_log = logging.getLogger(__name__)

TESTED: Final = ("3.4", "3.5")
"""Versions of pyfuse3 that use just what is replaced here."""
SPINS: Final = 200
"""Times that the descriptor is looked at before anybody waits for it: about 0.1 ms, what cp takes between two
requests. Waking up costs as much again: 2,000 small files are copied in 1.06 s instead of 1.43 s with 20 looks."""
_SOON_MS: Final = 2
"""Time that a request is waited for in place: longer than most clients need between two."""
IN_A_ROW: Final = 64
"""Requests read without giving trio's other tasks a turn, at most."""


class _Done(Awaitable[None]):
    """Awaiting it does not even yield."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


_DONE: Final = _Done()


class _Lock:
    """A lock that whoever comes first takes; waiters are woken in order but may find it taken again."""

    __slots__ = ("_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._waiting: collections.deque[trio.lowlevel.Task] = collections.deque()

    def __aenter__(self) -> Awaitable[None]:
        if self._held:
            return self._wait()
        self._held = True
        return _DONE

    async def _wait(self) -> None:
        while self._held:
            task = trio.lowlevel.current_task()
            self._waiting.append(task)

            def abort(_raise: object, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                if task in self._waiting:
                    self._waiting.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        self._held = True

    def __aexit__(self, *_: object) -> Awaitable[None]:
        self._held = False
        if self._waiting:
            trio.lowlevel.reschedule(self._waiting.popleft())
        return _DONE


class _Waiter:
    """`wait_readable` that looks before it waits."""

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self._is_busy = is_busy
        self._poll: select.poll | None = None
        self._either: select.poll | None = None
        self._in_a_row = 0

    def wait_readable(self, fd: int) -> Awaitable[None]:
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
            self._either = _both(fd, _trios_descriptor())
        looks = 1 if self._is_busy() else SPINS
        if self._in_a_row < IN_A_ROW and (self._is_there(self._poll, looks) or self._comes_soon(fd)):
            self._in_a_row += 1
            return _DONE
        self._in_a_row = 0
        return trio.lowlevel.wait_readable(fd)  # noqa: ASYNC105 - whoever called awaits it

    @staticmethod
    def _is_there(poll: select.poll, looks: int) -> bool:
        look = poll.poll
        for _ in range(looks):  # noqa: SIM110 - any() of a generator is half as fast
            if look(0):
                return True
        return False

    def _comes_soon(self, fd: int) -> bool:
        """Waits while no task could run, no deadline passes, and nothing that trio waits for happens."""
        if self._either is None or self._is_busy():
            return False
        trios = trio.lowlevel.current_statistics()
        if trios.tasks_runnable or trios.seconds_to_next_deadline * 1000 <= _SOON_MS:
            return False
        return any(ready == fd for ready, _ in self._either.poll(_SOON_MS))


def _both(fd: int, other: int | None) -> select.poll | None:
    if other is None:
        return None
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(other, select.POLLIN)
    return poll


def _trios_descriptor() -> int | None:
    """The descriptor that is readable when anything happens that trio waits for; None for a trio that hides it."""
    try:
        return int(trio._core._run.GLOBAL_RUN_CONTEXT.runner.io_manager._epoll.fileno())
    except AttributeError:
        return None


def install(is_busy: Callable[[], bool]) -> bool:
    """pyfuse3 takes the shorter ways from now on; False (and nothing changed) for a version that was not tested.

    Args:
        is_busy: whether other tasks have, or will soon have, something to do: then nothing is waited for in place,
            which was seen to hold them up by the whole wait. (Those that are about to run in this very turn of
            trio's are in none of its statistics.)
    """
    version = ".".join(pyfuse3.__version__.split(".")[:2])
    if version not in TESTED:
        _log.info("pyfuse3 %s is not one of %s: its own session loop is used", pyfuse3.__version__, TESTED)
        return False
    pyfuse3.trio = types.SimpleNamespace(  # type: ignore[attr-defined]
        Lock=_Lock,
        lowlevel=types.SimpleNamespace(
            current_task=trio.lowlevel.current_task,
            current_trio_token=trio.lowlevel.current_trio_token,
            notify_closing=trio.lowlevel.notify_closing,
            wait_readable=_Waiter(is_busy).wait_readable,
        ),
        open_nursery=trio.open_nursery,
        ClosedResourceError=trio.ClosedResourceError,
    )
    return True
