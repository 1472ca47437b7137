"""Whatever is read, released, forgotten or fails, in whatever order: the bytes are right and the books balance."""

from __future__ import annotations

import random

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from depotfs.cache import PIECE, Arrived, BlockCache, Source
from depotfs.errors import StorageUnavailable
from tests.cache.test_blocks import KIB, MIB, content

SIZES = (1, 130 * KIB, MIB, MIB + 1, 9 * MIB + 77)
STEPS = st.one_of(
    st.tuples(st.just("read"), st.integers(0, 7), st.floats(0, 1), st.integers(1, MIB)),
    st.tuples(st.just("stream"), st.integers(0, 7), st.floats(0, 1), st.integers(1, 20)),
    st.tuples(st.just("forget"), st.integers(0, 7), st.just(0.0), st.just(0)),
    st.tuples(st.just("release"), st.integers(0, 7), st.just(0.0), st.just(0)),
    st.tuples(st.just("insert"), st.integers(0, 7), st.just(0.0), st.just(0)),
    st.tuples(st.just("leave"), st.integers(0, 7), st.floats(0, 1), st.integers(1, MIB)),
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(STEPS, max_size=30), capacity=st.integers(0, 24), seed=st.integers(0, 1000))
def test_against_the_content(steps: list[tuple[str, int, float, int]], capacity: int, seed: int) -> None:
    chance = random.Random(seed)

    async def fetch(offset: int, length: int, arrived: Arrived) -> None:
        assert length > 0
        for start in range(offset, offset + length, PIECE):
            await trio.sleep(chance.random())
            if chance.random() < 0.05:
                raise StorageUnavailable("down")
            arrived(content(start, min(PIECE, offset + length - start)))

    async def step(cache: BlockCache, source: Source, kind: str, place: float, size: int) -> None:
        offset = int(place * source.size)
        count, length = (size, 128 * KIB) if kind == "stream" else (1, size)
        with trio.move_on_after(chance.random() if kind == "leave" else 1000):
            for _ in range(count):
                try:
                    data = await cache.read(source, offset, length)
                except StorageUnavailable:
                    continue
                assert bytes(data) == content(offset, min(length, max(0, source.size - offset)))
                offset += length

    async def main() -> None:
        # Eight readers of five contents: some share one.
        sources = [Source(index % 5, SIZES[index % 5], fetch) for index in range(8)]
        cache = BlockCache(capacity * MIB)
        async with trio.open_nursery() as nursery:
            cache.start(nursery)
            async with trio.open_nursery() as readers:
                for kind, who, place, size in steps:
                    source = sources[who]
                    if kind == "forget":
                        cache.forget(source.key)
                    elif kind == "release":
                        cache.release(source)
                    elif kind == "insert":
                        cache.insert(source.key, content(0, source.size))
                    else:
                        readers.start_soon(step, cache, source, kind, place, size)
                    await trio.sleep(chance.random() / 2)
            for source in sources:
                cache.release(source)
        statistics = cache.statistics()
        assert statistics.current_fetches == 0
        assert statistics.current_bytes <= cache.capacity
        assert all(source.requests == 0 and not source.unread for source in sources)
        for source in sources:
            cache.forget(source.key)
        assert cache.statistics().current_bytes == 0
        assert cache._store._free_to_go == 0
        assert not cache._store._contents

    trio.run(main, clock=MockClock(autojump_threshold=0))
