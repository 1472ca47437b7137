"""Worker threads in virtual time: what is asked in one is done after a while, and no thread is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from depotfs.remote import workers

T = TypeVar("T")


def run_virtually(monkeypatch: pytest.MonkeyPatch, main: Callable[[], Awaitable[T]], *, seconds: float = 0.02) -> T:
    """What `main` gives in virtual time, where each call in a thread takes so many seconds."""

    async def run_sync(
        call: Callable[..., Any], *args: Any, limiter: trio.CapacityLimiter | None = None, **_: Any
    ) -> Any:
        async with limiter or trio.CapacityLimiter(1):
            await trio.sleep(seconds)
            return call(*args)

    monkeypatch.setattr(workers, "run_sync", run_sync)
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
