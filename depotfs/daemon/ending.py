"""Ending: how a mount comes to its end, by requests that wait for it and by signals that do not."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.mountpoint import InUse

_log = logging.getLogger(__name__)

Message = dict[str, Any]


class _Outcome:
    """What became of an end, once it is `done`."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.message: Message = {}

    def tell(self, message: Message) -> None:
        self.message = message
        self.done.set()


class Ending:
    """The end of one mount: everything is stored, then the tree is unmounted, then nothing is served any more.

    Args:
        drain: stores what is not stored yet, while the tree still answers.
        unmount: the tree is unmounted; raises InUse or CommandFailed. In a thread: the kernel may ask meanwhile.
        stop: nothing is served any more; a tree that is still mounted is detached.
    """

    def __init__(
        self, drain: Callable[[], Awaitable[None]], unmount: Callable[[], None], stop: Callable[[], None]
    ) -> None:
        self._drain = drain
        self._unmount = unmount
        self._stop = stop
        self._outcome = _Outcome()
        self._under_way = False
        self._forced = False

    def begin(self, nursery: trio.Nursery, *, forced: bool = False) -> None:
        """The end is under way, if it was not already. `forced`: the mount ends even if it is in use."""
        self._forced |= forced
        if not self._under_way:
            self._under_way = True
            nursery.start_soon(self._run)

    async def wait(self) -> Message:
        """What becomes of the end that is under way, or of the next one."""
        outcome = self._outcome
        await outcome.done.wait()
        return outcome.message

    def conclude(self, message: Message) -> None:
        """The mount has ended; whoever waits hears this."""
        self._outcome.tell(message)

    async def _run(self) -> None:
        await self._drain()
        refusal = None if self._forced else await self._refusal()
        if refusal is None or self._forced:  # perhaps only since the kernel was asked
            self._stop()
        else:
            self._go_on(refusal)

    async def _refusal(self) -> InUse | CommandFailed | OSError | None:
        """Why the tree cannot be unmounted; None once it is."""
        try:
            await trio.to_thread.run_sync(self._unmount)
        except (InUse, CommandFailed, OSError) as error:  # the last one where descriptors or processes are used up
            return error
        return None

    def _go_on(self, refusal: InUse | CommandFailed | OSError) -> None:
        """The mount serves as before, and can be asked to end again."""
        _log.warning("%s; it goes on serving", refusal)
        outcome, self._outcome, self._under_way = self._outcome, _Outcome(), False
        outcome.tell({"code": _code(refusal), "reason": str(refusal)})


def _code(refusal: InUse | CommandFailed | OSError) -> Exit:
    if isinstance(refusal, CommandFailed):
        return refusal.code
    return Exit.IN_USE if isinstance(refusal, InUse) else Exit.UNEXPECTED
