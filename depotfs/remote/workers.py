"""Worker threads: calls that block are made there, so that the event loop goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple, Unpack

import trio
from trio.to_thread import run_sync

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def in_thread(
    call: Callable[[Unpack[Ts]], T],
    *args: *Ts,
    limiter: trio.CapacityLimiter | None = None,
    abandon: bool = False,
) -> T:
    """What `call(*args)` gives or raises in a worker thread.

    A simulation without threads puts something else in the place of this module's `run_sync`.

    Args:
        limiter: of the threads at work at once; None: trio's own, of 40.
        abandon: a cancellation ends the waiting at once, whatever becomes of the call; else it has to end first.
    """
    return await run_sync(call, *args, abandon_on_cancel=abandon, limiter=limiter)
