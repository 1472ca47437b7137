"""What is asked for beyond the reader: the policy alone."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from depotfs.cache.readahead import (
    BLOCK,
    FIRST,
    LARGEST,
    QUICK,
    SLOW,
    USUAL,
    WHOLE,
    Stream,
    observe,
    paced,
    plan,
    span,
    withdrawn,
)

MIB = 1 << 20
LARGE = 1 << 30
WINDOW = 80 * MIB


def follow(reads: list[tuple[int, int]], content_size: int = LARGE, window: int = WINDOW) -> list[tuple[int, int]]:
    """All requests ahead of a reader who reads so, each arriving at once."""
    stream, requests = Stream(), []
    for offset, size in reads:
        stream = observe(stream, offset, size)
        stream, more = plan(stream, content_size, window, 8)
        requests += more
    return requests


def in_order(count: int, size: int = 128 << 10, begin: int = 0) -> list[tuple[int, int]]:
    return [(begin + index * size, size) for index in range(count)]


def test_one_read_asks_for_nothing_ahead_and_two_in_order_do() -> None:
    assert follow(in_order(1)) == []
    assert follow(in_order(2)) == [(256 << 10, FIRST)]


def test_a_large_read_at_the_beginning_is_the_beginning_of_a_stream() -> None:
    assert follow([(0, 256 << 10)]) == [(256 << 10, FIRST)]
    assert follow([(0, MIB)]) == [(MIB, FIRST), (2 * MIB, 2 * FIRST)]
    assert follow([(MIB, MIB)]) == []


def test_a_reader_in_the_middle_has_to_show_two_reads_in_order_first() -> None:
    assert follow(in_order(2, begin=100 * MIB)) == []
    assert follow(in_order(3, begin=100 * MIB)) == [(100 * MIB + (384 << 10), FIRST)]


def test_requests_grow_to_the_largest_and_are_never_more_ahead_than_four_times_what_was_read() -> None:
    stream, sizes = Stream(), []
    for offset, size in in_order(1000):
        stream = observe(stream, offset, size)
        stream, requests = plan(stream, LARGE, WINDOW, 8)
        sizes += [length for _, length in requests]
        assert stream.ahead - stream.front <= max(FIRST, 4 * stream.front)
    assert sizes[:4] == [MIB, 2 * MIB, 4 * MIB, 8 * MIB]
    assert set(sizes[4:]) == {USUAL}


def test_a_steady_reader_has_eight_of_the_usual_requests_ahead() -> None:
    stream = Stream(front=200 * MIB, reads=9, ahead=200 * MIB, request=USUAL)
    _, requests = plan(stream, LARGE, WINDOW, 8)
    assert requests == [(200 * MIB + index * USUAL, USUAL) for index in range(8)]
    assert plan(stream, LARGE, WINDOW, 3)[1] == requests[:3]
    assert plan(stream, LARGE, WINDOW, 0)[1] == []


def test_requests_double_while_they_are_quick_and_halve_when_they_are_slow() -> None:
    stream = Stream(front=200 * MIB, reads=9, ahead=200 * MIB, request=USUAL)
    assert paced(stream, USUAL // 2, 0.0) == stream
    assert paced(stream, USUAL, QUICK) == stream
    for size in (2 * USUAL, LARGEST, LARGEST):
        stream = paced(stream, stream.largest, QUICK / 2)
        assert stream.largest == size
    assert [length for _, length in plan(stream, LARGE, WINDOW, 8)[1]] == [USUAL, 2 * USUAL, LARGEST]
    for size in (LARGEST // 2, USUAL, USUAL):
        stream = paced(stream, stream.largest, 2 * SLOW)
        assert stream.largest == size


def test_a_small_window_gets_several_small_requests_and_a_tiny_one_none() -> None:
    stream = Stream(front=200 * MIB, reads=9, ahead=200 * MIB, request=USUAL)
    assert [length for _, length in plan(stream, LARGE, 4 * MIB, 8)[1]] == [2 * MIB] * 2
    assert plan(stream, LARGE, BLOCK, 8)[1] == []


def test_reads_out_of_order_as_the_kernel_sends_them_are_one_stream() -> None:
    random.seed(1)
    reads = in_order(400, MIB)
    for start in range(0, len(reads), 3):
        some = reads[start : start + 3]
        random.shuffle(some)
        reads[start : start + 3] = some
    requests = follow(reads)
    assert requests[0][0] <= 8 * MIB
    assert max(length for _, length in requests) == USUAL
    assert all(before[0] + before[1] == after[0] for before, after in pairwise(requests))


def test_random_reads_ask_for_nothing_ahead() -> None:
    random.seed(2)
    assert follow([(random.randrange(LARGE), 4096) for _ in range(1000)]) == []


def test_a_seek_begins_small_again() -> None:
    requests = follow(in_order(400) + in_order(4, begin=900 * MIB))
    after = [request for request in requests if request[0] > 800 * MIB]
    assert after == [(900 * MIB + (384 << 10), FIRST)]


def test_a_failed_request_is_asked_for_again_small_once_the_reader_goes_on() -> None:
    stream = Stream(front=10 * MIB, reads=9, ahead=60 * MIB, request=USUAL)
    stream = withdrawn(stream, 20 * MIB)
    assert plan(stream, LARGE, WINDOW, 8)[1][0] == (20 * MIB, FIRST)
    assert withdrawn(stream, 0).ahead == 10 * MIB


def test_what_is_small_is_fetched_whole_and_what_is_large_by_blocks() -> None:
    assert span(70_000, 10, WHOLE) == (0, WHOLE)
    assert span(0, 1, 5) == (0, 5)
    assert span(BLOCK + 1, 1, LARGE) == (BLOCK, 2 * BLOCK)
    assert span(BLOCK - 1, 2, LARGE) == (0, 2 * BLOCK)
    assert span(2 * MIB, 100, 2 * MIB + 50) == (2 * MIB, 2 * MIB + 50)


@given(
    content_size=st.integers(1, 300 * MIB),
    window=st.integers(0, 100 * MIB),
    reads=st.lists(st.tuples(st.integers(0, 300 * MIB), st.integers(1, MIB), st.integers(1, 40)), max_size=8),
)
def test_requests_are_aligned_within_the_content_and_the_window(
    content_size: int, window: int, reads: list[tuple[int, int, int]]
) -> None:
    stream = Stream()
    for begin, size, count in reads:
        for offset, length in in_order(count, size, begin):
            if offset >= content_size:
                break
            stream = observe(stream, offset, min(length, content_size - offset))
            stream, requests = plan(stream, content_size, window, 8)
            for first, wanted in requests:
                assert first % BLOCK == 0
                assert 0 < wanted <= LARGEST
                assert first >= stream.front
                assert first + wanted <= min(content_size, stream.front + window)
                assert wanted % BLOCK == 0 or first + wanted == content_size
