"""The block cache: content in memory, single flight, bounded in bytes; for trio."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from depotfs.cache.readahead import BLOCK, USUAL, observe, paced, plan, span, withdrawn
from depotfs.cache.runs import Request, Run, Store
from depotfs.cache.source import Arrived, Source
from depotfs.errors import ContentDamaged, DepotError, StorageUnavailable

_AHEAD_SHARE: Final = 0.8
"""Of the capacity, for all that is ahead of readers; the rest is for what they come back to."""
_IDLE_AFTER: Final = 1024
"""Reads by others after which a reader counts as idle, and what is ahead of it as free to go."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """What a cache did.

    Attributes:
        total_hits: reads answered at once; total_misses: reads that waited.
        current_bytes: bytes of memory held, those being fetched included; peak_bytes: the most there ever were.
        current_fetches: requests under way.
        total_fetched_bytes: bytes that arrived; total_wasted_bytes: those of them that left unread.
    """

    total_hits: int
    total_misses: int
    current_bytes: int
    current_fetches: int
    peak_bytes: int
    total_fetched_bytes: int
    total_wasted_bytes: int


class BlockCache:
    """Content of many sources in at most `capacity` bytes.

    Every change of the tables is a plain call between two awaits; a fetch is a task of the nursery, so that no
    reader's cancellation ends it.

    Args:
        capacity: bytes of memory, held and being fetched; exceeded only by what readers are waiting for.
        requests: read-ahead requests in flight per source.
    """

    def __init__(self, capacity: int, requests: int = 8) -> None:
        self.capacity = capacity
        self.requests = requests
        self._store = Store(capacity)
        self._nursery: trio.Nursery | None = None
        self._streams: OrderedDict[Source, None] = OrderedDict()  # those with read-ahead, idle ones first
        self._hits = 0
        self._misses = 0
        self._fetches = 0
        self._fetched = 0

    def start(self, nursery: trio.Nursery) -> None:
        """From here on fetches run as tasks of `nursery`; cancelling it fails whoever waits for one."""
        self._nursery = nursery

    async def read(self, source: Source, offset: int, size: int) -> bytes | memoryview:
        """The bytes from `offset`, fewer than `size` only at the end of the content; often without a copy.

        No checkpoint if they are here. Cancelling a reader ends no fetch.

        Raises:
            ContentDamaged: a fetch brought fewer or more bytes than it was asked for.
            Exception: whatever `source.fetch` raised; nothing is kept of it, the next read asks again.
        """
        end = min(offset + size, source.size)
        if end <= offset:
            return b""
        runs = self._fill(source, *span(offset, end - offset, source.size), ahead=False)
        runs = [run for run in runs if run.offset < end and run.end > offset]
        await self._wait(source, offset, end, [run for run in runs if run.data is None])
        passing = source.stream.sequential
        for run in runs:
            self._store.read(run, passed=passing and end >= run.end)
        if len(runs) == 1:
            return _slice(runs[0], offset, end)
        return b"".join(_slice(run, offset, end) for run in runs)

    def holds(self, key: Hashable) -> bool:
        """Whether the beginning of that content is here or on its way."""
        return self._store.find(key, 0) is not None

    def insert(self, key: Hashable, content: bytes) -> None:
        """That whole content, fetched elsewhere, is here, if nothing of it was and there is room beside read-ahead."""
        if self._store.runs(key) or not self._store.has_room_ahead(len(content)):
            return
        request = Request(Source(key, len(content), _never), 0, len(content), ahead=False)
        for run in request.pending:
            self._store.begin(run)
        self._arrive(request, content)

    def release(self, source: Source) -> None:
        """Its reader is gone: read-ahead that nobody waits for ends; blocks stay, unread ones go first."""
        self._streams.pop(source, None)
        source.stream = withdrawn(source.stream, 0)
        for run in list(source.unread):
            self._leave(run)
        source.unread.clear()

    def forget(self, key: Hashable) -> None:
        """Nothing is held of that content; who waits for a fetch still gets it. May be called again."""
        for run in self._store.runs(key):
            self._store.drop(run)
            run.request.give_up()

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(
            total_hits=self._hits,
            total_misses=self._misses,
            current_bytes=self._store.current,
            current_fetches=self._fetches,
            peak_bytes=self._store.peak,
            total_fetched_bytes=self._fetched,
            total_wasted_bytes=self._store.wasted,
        )

    def _fill(self, source: Source, first: int, last: int, *, ahead: bool) -> list[Run]:
        """The runs that have, or will have, all of the range, in order; one fetch is begun for each gap."""
        runs: list[Run] = []
        position = gap = first
        while position < last:
            run = self._store.find(source.key, position // BLOCK)
            if run is None:
                position = min(position + BLOCK, last)
                continue
            if gap < position:
                runs += self._begin(source, gap, position, ahead=ahead)
            runs.append(run)
            position = gap = run.end
        if gap < last:
            runs += self._begin(source, gap, last, ahead=ahead)
        return runs

    async def _wait(self, source: Source, offset: int, end: int, pending: list[Run]) -> None:
        """All of them have their data; raises the error of the first that has one."""
        # Before read-ahead moves on: what is waited for must not be given up.
        for run in pending:
            run.waiters += 1
        try:
            self._observe(source, offset, end - offset)
            if not pending:
                self._hits += 1
                return
            self._misses += 1
            for run in pending:
                await run.settled.wait()
                if run.error is not None:
                    raise run.error.with_traceback(None)
        finally:
            for run in pending:
                run.waiters -= 1
                run.request.give_up()

    def _begin(self, source: Source, offset: int, end: int, *, ahead: bool) -> list[Run]:
        if self._nursery is None:
            raise RuntimeError("the cache has no nursery yet")
        request = Request(source, offset, end, ahead=ahead)
        runs = list(request.pending)
        self._nursery.start_soon(self._fetch, request)
        for run in runs:
            self._store.begin(run)
        self._fetches += 1
        if ahead:
            source.requests += 1
            source.unread.update(runs)
        return runs

    async def _fetch(self, request: Request) -> None:
        """The request's runs are all settled when this ends, however it ends."""
        source = request.source
        error: Exception | None = None
        try:
            with request.scope:
                await source.fetch(request.offset, request.end - request.offset, partial(self._arrive, request))
                if request.pending:
                    request.damage = request.damage or _cut_off(request)
            error = request.damage
        except Exception as raised:
            error = raised
        finally:
            self._fetches -= 1
            if request.ahead:
                source.requests -= 1
            self._fail(request, error)
        if error is None and source in self._streams:
            source.stream = paced(source.stream, request.end - request.offset, trio.current_time() - request.begun)
            self._read_ahead(source)

    def _arrive(self, request: Request, data: bytes | memoryview) -> None:
        """More of the request's bytes are here, unless something was wrong before."""
        if request.damage is not None or not request.pending:
            return  # a thread that was given up may still bring something
        for run in request.fill(data):
            self._fetched += run.size
            self._store.arrived(run)
            run.settled.set()

    def _fail(self, request: Request, error: Exception | None) -> None:
        """What has not arrived will not come."""
        if not request.pending:
            return
        error = error or StorageUnavailable("the fetch was given up: its content was forgotten or we stop")
        if request.ahead and any(run.stored for run in request.pending):
            request.source.stream = withdrawn(request.source.stream, request.pending[0].offset)
            if not any(run.waiters for run in request.pending):
                _report(request, error)
        while request.pending:
            run = request.pending.popleft()
            run.error = error
            self._store.drop(run)
            run.settled.set()

    def _observe(self, source: Source, offset: int, size: int) -> None:
        before, stream = source.stream, observe(source.stream, offset, size)
        source.stream = stream
        source.last_read = self._hits + self._misses
        if stream.reads < before.reads:
            # It went elsewhere; what was fetched ahead of its old place is nobody's.
            self.release(source)
        elif stream.front >= source.size:
            self._streams.pop(source, None)
        elif stream.sequential:
            self._streams[source] = None
            self._streams.move_to_end(source)
            self._end_idle_streams()
            self._read_ahead(source)

    def _end_idle_streams(self) -> None:
        horizon = self._hits + self._misses - _IDLE_AFTER
        while self._streams and (idle := next(iter(self._streams))).last_read < horizon:
            self.release(idle)

    def _read_ahead(self, source: Source) -> None:
        """As many requests ahead of the reader as its share of the capacity allows are under way."""
        share = int(self.capacity * _AHEAD_SHARE) // len(self._streams)
        # Half as much again as is in flight: one slow request then does not keep the others from going on.
        window = min(share, self.requests * USUAL * 3 // 2)
        stream, requests = plan(source.stream, source.size, window, self.requests - source.requests)
        for offset, length in requests:
            if not self._store.has_room_ahead(length):
                return
            self._fill(source, offset, offset + length, ahead=True)
        source.stream = stream

    def _leave(self, run: Run) -> None:
        if run.data is None and not run.waiters:
            # Out of the tables at once, so that nobody comes to wait for what is being cancelled.
            self._store.drop(run)
            run.request.give_up()
        else:
            self._store.leave(run)


def _cut_off(request: Request) -> ContentDamaged:
    at = request.pending[0].offset + request.pending[0].arrived
    return ContentDamaged(f"the bytes from {at} to {request.end} of {request.source.key} did not arrive")


async def _never(offset: int, length: int, arrived: Arrived) -> None:
    raise AssertionError(f"{length} bytes at {offset} are here already")


def _slice(run: Run, offset: int, end: int) -> memoryview:
    assert run.data is not None
    return run.data[max(offset, run.offset) - run.offset : min(end, run.end) - run.offset]


def _report(request: Request, error: Exception) -> None:
    """Read-ahead that nobody waits for fails in silence, unless it is our own mistake."""
    if isinstance(error, DepotError | OSError):
        _logger.debug("read-ahead at %d failed: %s", request.offset, error)
    else:
        _logger.error("read-ahead at %d failed", request.offset, exc_info=error)
