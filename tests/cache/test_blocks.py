"""The cache with readers and fetches as trio tasks, in virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from depotfs.cache import BlockCache, Source
from depotfs.cache.readahead import BLOCK, LARGEST, PIECE, USUAL
from depotfs.cache.runs import OVERHEAD
from depotfs.cache.source import Arrived
from depotfs.errors import ContentDamaged, StorageUnavailable

KIB, MIB = 1 << 10, 1 << 20
PATTERN = bytes(range(251)) * (LARGEST // 251 + 2)


def content(offset: int, length: int) -> bytes:
    """Any content's bytes: each tells its place."""
    start = offset % 251
    return PATTERN[start : start + length]


class Storage:
    """Serves ranges after `latency` seconds, or once `gate` is set if there is one, piece by piece.

    Attributes:
        pause: seconds before each further piece; broken: pieces after which `error` is raised.
        requests: every (offset, length) asked for; brought: beginnings of the pieces that were brought.
        flying, most: requests under way, and the most there were.
    """

    def __init__(self, latency: float = 0.02) -> None:
        self.latency = latency
        self.gate: trio.Event | None = None
        self.error: Exception | None = None
        self.missing = 0
        self.pause = 0.0
        self.broken = 0
        self.requests: list[tuple[int, int]] = []
        self.brought: list[int] = []
        self.flying = 0
        self.most = 0

    async def fetch(self, offset: int, length: int, arrived: Arrived) -> None:
        self.requests.append((offset, length))
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            if self.gate is not None:
                await self.gate.wait()
            else:
                await trio.sleep(self.latency)
            for number, start in enumerate(range(offset, offset + length, PIECE)):
                if self.error is not None and number >= self.broken:
                    raise self.error
                if number:
                    await trio.sleep(self.pause)
                self.brought.append(start)
                arrived(content(start, min(PIECE, offset + length - start) - self.missing))
        finally:
            self.flying -= 1


def run(test: Callable[[trio.Nursery, Storage], Awaitable[None]]) -> None:
    """The test with a nursery for the cache, which is cancelled at its end; whoever waits for ever fails it."""

    async def main() -> None:
        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                await test(nursery, Storage())
                nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def started(nursery: trio.Nursery, capacity: int = 128 * MIB) -> BlockCache:
    cache = BlockCache(capacity)
    cache.start(nursery)
    return cache


async def read_through(cache: BlockCache, source: Source, begin: int, end: int, size: int = MIB) -> None:
    for offset in range(begin, end, size):
        data = await cache.read(source, offset, size)
        assert bytes(data) == content(offset, min(size, source.size - offset))


def test_a_gibibyte_in_order_keeps_eight_requests_in_flight_within_the_capacity() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        storage.latency = 0.1
        cache, source = started(nursery), Source("k", 1 << 30, storage.fetch)
        begun = trio.current_time()
        await read_through(cache, source, 0, source.size)
        statistics = cache.statistics()
        # 128 requests of 8 MiB, 8 at a time, are 16 round trips; some more while the window grows.
        assert trio.current_time() - begun < 0.1 * 26
        assert storage.most == 8
        assert statistics.total_fetched_bytes == source.size
        assert statistics.peak_bytes <= cache.capacity
        assert statistics.total_wasted_bytes == 0
        assert statistics.current_fetches == 0
        lengths = [length for _, length in storage.requests]
        assert max(lengths) == USUAL
        assert lengths.count(USUAL) >= 120

    run(test)


def test_requests_that_are_answered_quickly_become_few_and_large() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache, source = started(nursery), Source("k", 1 << 30, storage.fetch)
        await read_through(cache, source, 0, source.size)
        lengths = [length for _, length in storage.requests]
        assert max(lengths) == LARGEST
        assert len(lengths) < 50
        assert cache.statistics().total_fetched_bytes == source.size
        assert cache.statistics().peak_bytes <= cache.capacity

    run(test)


def test_pieces_are_read_while_the_rest_of_their_request_is_on_its_way() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache, source = started(nursery), Source("k", 1 << 30, storage.fetch)
        begun = trio.current_time()
        storage.pause = 10.0
        begin = 8 * MIB  # of the first request of two pieces
        await read_through(cache, source, 0, begin + PIECE)
        assert (begin, 2 * PIECE) in storage.requests
        assert trio.current_time() - begun < 1
        await read_through(cache, source, begin + PIECE, begin + 2 * PIECE)
        assert trio.current_time() - begun > 9

    run(test)


def test_a_request_ends_with_the_last_piece_that_is_wanted() -> None:
    """Somebody still waits for one when the reader that they were all fetched for is gone."""

    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache, source = started(nursery), Source("k", 1 << 30, storage.fetch)
        await read_through(cache, source, 0, 200 * MIB)
        await trio.sleep(1)
        storage.pause = 10.0
        storage.requests.clear()
        position = 200 * MIB
        while not storage.requests:
            await cache.read(source, position, MIB)
            position += MIB
        first, length = storage.requests[0]
        assert length > 2 * PIECE
        other = Source("k", 1 << 30, storage.fetch)
        nursery.start_soon(cache.read, other, first + PIECE, KIB)
        await trio.sleep(1)
        cache.release(source)
        await trio.sleep(1000 / 2)
        assert first + PIECE in storage.brought
        assert first + 2 * PIECE not in storage.brought
        assert cache.statistics().current_fetches == 0

    run(test)


def test_a_request_that_breaks_leaves_the_pieces_that_it_brought() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache, source = started(nursery), Source("k", 1 << 30, storage.fetch)
        await read_through(cache, source, 0, 200 * MIB)
        await trio.sleep(1)
        storage.error, storage.broken = StorageUnavailable("down"), 1
        begin = storage.requests[-1][0] + storage.requests[-1][1]
        await read_through(cache, source, 200 * MIB, begin + PIECE)
        await trio.sleep(1)
        storage.error = None
        await read_through(cache, source, begin + PIECE, begin + 100 * MIB)
        assert len(set(storage.brought)) == len(storage.brought)

    run(test)


def test_a_hit_is_a_view_of_the_run_and_asks_for_nothing() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache, source = started(nursery), Source("k", MIB, storage.fetch)
        assert await cache.read(source, 10, 5) == content(10, 5)
        assert storage.requests == [(0, MIB)]
        view = await cache.read(Source("k", MIB, storage.fetch), 300 * KIB, MIB)
        assert isinstance(view, memoryview)
        assert view == content(300 * KIB, 724 * KIB)
        assert await cache.read(source, MIB, 5) == b""
        assert storage.requests == [(0, MIB)]
        assert (cache.statistics().total_hits, cache.statistics().total_misses) == (1, 1)

    run(test)


def test_random_reads_fetch_the_blocks_they_touch_and_only_gaps() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache, source = started(nursery), Source("k", 1 << 30, storage.fetch)
        await cache.read(source, 500 * MIB + 1, 10)
        await cache.read(source, 900 * MIB - 5, 10)
        assert storage.requests == [(500 * MIB, BLOCK), (900 * MIB - BLOCK, 2 * BLOCK)]
        # A block on both sides of one that is here: two requests, at once, and one answer.
        data = await cache.read(source, 500 * MIB - BLOCK, 3 * BLOCK)
        assert data == content(500 * MIB - BLOCK, 3 * BLOCK)
        assert sorted(storage.requests[2:]) == [(500 * MIB - BLOCK, BLOCK), (500 * MIB + BLOCK, BLOCK)]
        assert storage.most == 2

    run(test)


def test_readers_of_one_block_share_a_fetch_and_outlive_each_others_cancellation() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache = started(nursery)
        storage.gate = trio.Event()
        got: list[bytes] = []

        async def reader(scope: trio.CancelScope) -> None:
            with scope:
                got.append(bytes(await cache.read(Source("k", 10 * MIB, storage.fetch), 0, 100)))

        scopes = [trio.CancelScope() for _ in range(5)]
        async with trio.open_nursery() as readers:
            for scope in scopes:
                readers.start_soon(reader, scope)
            await wait_all_tasks_blocked()
            scopes[0].cancel()
            scopes[3].cancel()
            await wait_all_tasks_blocked()
            storage.gate.set()
        assert got == [content(0, 100)] * 3
        assert storage.requests == [(0, BLOCK)]

    run(test)


def test_a_fetch_that_all_readers_left_is_kept() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache, source = started(nursery), Source("k", 10 * MIB, storage.fetch)
        with trio.move_on_after(0.01):
            await cache.read(source, 0, 100)
        await trio.sleep(1)
        assert await cache.read(source, 0, 100) == content(0, 100)
        assert storage.requests == [(0, BLOCK)]

    run(test)


def test_a_failed_fetch_reaches_all_who_wait_and_leaves_nothing() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache, source = started(nursery), Source("k", 10 * MIB, storage.fetch)
        storage.error = StorageUnavailable("down")
        caught: list[Exception] = []

        async def reader() -> None:
            try:
                await cache.read(source, 0, 100)
            except StorageUnavailable as error:
                caught.append(error)

        async with trio.open_nursery() as readers:
            for _ in range(3):
                readers.start_soon(reader)
        assert caught == [storage.error] * 3
        assert len(storage.requests) == 1
        assert cache.statistics().current_bytes == 0
        storage.error = None
        assert await cache.read(source, 0, 100) == content(0, 100)

    run(test)


@pytest.mark.parametrize("missing", [1, -1])
def test_another_number_of_bytes_than_asked_for_is_damage(missing: int) -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache, source = started(nursery), Source("k", 10 * MIB, storage.fetch)
        storage.missing = missing
        with pytest.raises(ContentDamaged):
            await cache.read(source, 0, 100)
        assert cache.statistics().current_bytes == 0

    run(test)


def test_read_ahead_that_fails_is_silent_and_asked_for_again_by_the_reader() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache, source = started(nursery), Source("k", 100 * MIB, storage.fetch)
        storage.latency = 0.1
        await read_through(cache, source, 0, 128 * KIB, 128 * KIB)
        await cache.read(source, 0, 100)
        storage.error = StorageUnavailable("down")
        with pytest.raises(StorageUnavailable):
            await cache.read(source, 128 * KIB, 128 * KIB)
        await trio.sleep(1)
        asked = len(storage.requests)
        await trio.sleep(1)
        assert len(storage.requests) == asked
        storage.error = None
        await read_through(cache, source, 128 * KIB, source.size)
        assert storage.most == 8

    run(test)


def test_forgetting_drops_everything_and_disturbs_nobody_who_waits() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache, source = started(nursery), Source("k", 100 * MIB, storage.fetch)
        other = Source("other", 100, storage.fetch)
        await cache.read(other, 0, 100)
        await read_through(cache, source, 0, 4 * MIB)
        got: list[Any] = []

        async def reader() -> None:
            # Three runs: one is here, the others are on their way.
            got.append(await cache.read(source, 90 * MIB, MIB))

        await cache.read(source, 90 * MIB + 256 * KIB, 100)
        async with trio.open_nursery() as readers:
            readers.start_soon(reader)
            await wait_all_tasks_blocked(0.001)
            cache.forget("k")
            cache.forget("k")
            assert cache.statistics().current_bytes == 100 + OVERHEAD
        assert got == [content(90 * MIB, MIB)]
        assert cache.statistics().current_bytes == 100 + OVERHEAD
        assert cache.statistics().current_fetches == 0

    run(test)


def test_a_released_reader_ends_its_read_ahead_and_the_next_one_finds_no_ruins() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache, source = started(nursery), Source("k", 1 << 30, storage.fetch)
        await read_through(cache, source, 0, 40 * MIB)
        await trio.sleep(1)
        storage.gate = trio.Event()
        await read_through(cache, source, 40 * MIB, 56 * MIB)
        await wait_all_tasks_blocked()
        assert storage.flying > 0
        cache.release(source)
        await wait_all_tasks_blocked()
        assert storage.flying == 0
        storage.gate = None
        await read_through(cache, Source("k", 1 << 30, storage.fetch), 40 * MIB, 140 * MIB)
        assert storage.most <= 9  # eight ahead, and one that is waited for

    run(test)


def test_two_readers_share_the_capacity_and_an_idle_one_gives_its_share_back() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache = started(nursery, 64 * MIB)
        sources = [Source(name, 400 * MIB, storage.fetch) for name in "abc"]
        for offset in range(0, 200 * MIB, MIB):
            for source in sources:
                assert await cache.read(source, offset, MIB) == content(offset, MIB)
        statistics = cache.statistics()
        assert statistics.peak_bytes <= cache.capacity
        assert statistics.total_wasted_bytes == 0
        busy = sources[0]
        # Small reads, so that the others count as idle before the end.
        await read_through(cache, busy, 200 * MIB, 400 * MIB, 64 * KIB)
        assert cache.statistics().peak_bytes <= cache.capacity
        assert all(not source.unread for source in sources)

    run(test)


def test_what_was_read_at_random_stays_while_a_long_file_passes() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache = started(nursery, 128 * MIB)
        index = Source("index", 500 * MIB, storage.fetch)
        places = [place * 20 * MIB for place in (3, 20, 7, 15, 1)]
        for place in places:
            await cache.read(index, place, 100)
        await read_through(cache, Source("film", 1 << 30, storage.fetch), 0, 1 << 30)
        asked = len(storage.requests)
        for place in places:
            await cache.read(index, place, 100)
        assert len(storage.requests) == asked

    run(test)


def test_more_readers_than_fit_are_all_answered() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache = started(nursery, MIB)
        async with trio.open_nursery() as readers:
            for index in range(8):
                source = Source(index, 20 * MIB, storage.fetch)
                readers.start_soon(read_through, cache, source, 0, 20 * MIB)
        assert cache.statistics().current_bytes <= MIB
        # Each waits for one read; nothing else may exceed the capacity.
        assert cache.statistics().peak_bytes <= 8 * (MIB + BLOCK) + MIB

    run(test)


def test_readers_are_told_when_the_cache_ends() -> None:
    async def main() -> None:
        cache = BlockCache(MIB)
        source = Source("k", 10 * MIB, Storage().fetch)
        with pytest.raises(RuntimeError, match="nursery"):
            await cache.read(source, 0, 1)
        async with trio.open_nursery() as readers:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    cache.start(nursery)

                    async def reader() -> None:
                        with pytest.raises(StorageUnavailable):
                            await cache.read(source, 0, 1)

                    readers.start_soon(reader)
                    await wait_all_tasks_blocked(0.001)
                    scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_what_tiny_contents_take_beside_their_bytes_counts() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache = started(nursery, MIB)
        for number in range(2000):
            await cache.read(Source(number, 5, storage.fetch), 0, 5)
        assert sum(map(cache.holds, range(2000))) <= MIB // OVERHEAD

    run(test)


def test_content_fetched_elsewhere_is_here_and_goes_like_any_other() -> None:
    async def test(nursery: trio.Nursery, storage: Storage) -> None:
        cache = started(nursery, capacity=3 * (300 * KIB + OVERHEAD))
        for number in range(4):
            cache.insert(number, content(0, 300 * KIB))
        cache.insert(3, b"never looked at: equal keys mean equal bytes")
        assert [cache.holds(number) for number in range(4)] == [False, True, True, True]
        assert cache.statistics().current_bytes == cache.capacity
        assert await cache.read(Source(3, 300 * KIB, storage.fetch), 1, 10) == content(1, 10)
        assert storage.requests == []
        await cache.read(Source(0, 300 * KIB, storage.fetch), 0, 10)
        assert storage.requests == [(0, 300 * KIB)]
        assert not cache.holds(1)
        assert cache.statistics().total_wasted_bytes == 600 * KIB

    run(test)


# --- pieces of any size ----------------------------------------------------------------------------------------------

EDGES = [0, 1, BLOCK, PIECE, USUAL, 4 * PIECE, 8 * PIECE]


@settings(max_examples=60, deadline=None)
@given(
    size=st.builds(lambda edge, more: max(0, edge + more), st.sampled_from(EDGES), st.integers(-1, 1)),
    read=st.sampled_from([1 << 14, BLOCK - 1, BLOCK, MIB, PIECE, USUAL, USUAL + 1, LARGEST + MIB]),
    pieces=st.lists(st.sampled_from([1, 4097, BLOCK, MIB - 1, PIECE, PIECE + 1, USUAL, LARGEST]), min_size=1),
    begin=st.integers(0, 9 * PIECE),
)
def test_a_content_of_any_size_arrives_in_pieces_of_any_size(
    size: int, read: int, pieces: list[int], begin: int
) -> None:
    async def fetch(offset: int, length: int, arrived: Arrived) -> None:
        sizes, end = itertools.cycle(pieces), offset + length
        for _ in range(100):
            await trio.sleep(0.001)
            piece = min(next(sizes), end - offset)
            arrived(content(offset, piece))
            offset += piece
        arrived(content(offset, end - offset))  # all that pieces of a byte have left

    async def test(nursery: trio.Nursery, _: Storage) -> None:
        cache, source = started(nursery), Source("k", size, fetch)
        await read_through(cache, source, begin % (size + 1), size, read)
        cache.release(source)
        cache.insert("other", content(0, size))
        for run in cache._store.runs("other") + cache._store.runs("k"):
            assert run.data is None or run.data == content(run.offset, run.size)
        cache.forget("k")
        cache.forget("other")
        assert cache.statistics().current_bytes == 0

    run(test)


@pytest.mark.parametrize(
    ("piece", "missing"), [(BLOCK, 1), (PIECE, 1), (PIECE + 1, 1), (USUAL, 1), (PIECE + 1, -1), (USUAL + 1, -1)]
)
def test_a_byte_more_or_less_is_damage_whatever_the_pieces_are(piece: int, missing: int) -> None:
    async def fetch(offset: int, length: int, arrived: Arrived) -> None:
        await trio.sleep(0.001)
        end = offset + length - missing
        for start in range(offset, end, piece):
            arrived(content(start, min(piece, end - start)))

    async def test(nursery: trio.Nursery, _: Storage) -> None:
        cache, source = started(nursery), Source("k", USUAL, fetch)
        with pytest.raises(ContentDamaged):
            await cache.read(source, 0, USUAL)

    run(test)
