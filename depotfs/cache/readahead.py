"""Read-ahead within a file: what to ask for beyond the reader, decided from where it read so far.

The kernel splits a program's reading into requests of at most 1 MiB and has several of them in
flight, so they come slightly out of order; that is still one sequential stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

BLOCK: Final = 128 << 10
"""What the kernel asks for at least when it reads ahead itself; smaller blocks would only be more requests."""
WHOLE: Final = 1 << 20
"""A content of at most this size is fetched with one request: its bytes take less time than another round trip."""
FIRST: Final = 1 << 20
USUAL: Final = 8 << 20
LARGEST: Final = 32 << 20
"""Sizes of the first request ahead, of what it grows to in any case (at 20 ms a request and 1 GB/s, 8 of 8 MiB are
under way), and of the largest, where requests are answered quickly: each costs a millisecond of CPU on both sides."""
PIECE: Final = 4 << 20
"""A request's bytes are there for readers, and leave again, in pieces of this size."""
QUICK: Final = 0.05
SLOW: Final = 0.2
"""Seconds: after a quicker request of the largest size so far the next are twice as large, after a slower one half:
many small ones at once are then faster, since a connection brings only so much."""
PATIENCE: Final = 2
"""Sequential reads before anything is fetched ahead: one may be a look at a header."""
_MORE_THAN_A_HEADER: Final = 256 << 10
"""A first read of so much is no look at a header: the kernel doubles what cp asks for first, 128 KiB."""
_AHEAD_PER_READ: Final = 4
"""Bytes ahead per byte that was read in order: whoever stops early wastes at most that much."""
_OVERTAKING: Final = 4
_LATE: Final = 8
"""How many reads may be between one and the front of its stream: the kernel's requests in flight."""


@dataclass(frozen=True, slots=True)
class Stream:
    """How one reader went through a content so far.

    Attributes:
        begin: where it began to read in order.
        front: end of the furthest read since.
        reads: sequential reads since, not counting the one that began it elsewhere than at 0.
        ahead: everything from `front` to here was asked for.
        request: size of the next request ahead.
        largest: size that requests grow to.
    """

    begin: int = 0
    front: int = 0
    reads: int = 0
    ahead: int = 0
    request: int = FIRST
    largest: int = USUAL

    @property
    def sequential(self) -> bool:
        return self.reads >= PATIENCE


def up(offset: int) -> int:
    """The block boundary at or after `offset`."""
    return -(-offset // BLOCK) * BLOCK


def down(offset: int) -> int:
    """The block boundary at or before `offset`."""
    return offset // BLOCK * BLOCK


def span(offset: int, size: int, content_size: int) -> tuple[int, int]:
    """Begin and end of what is fetched, if nothing of it is there, to answer a read; never beyond the content."""
    if content_size <= WHOLE:
        return 0, content_size
    return down(offset), min(up(offset + size), content_size)


def observe(stream: Stream, offset: int, size: int) -> Stream:
    """The stream after a read: in order, overtaken or overtaking (still the same stream), or elsewhere (a new one)."""
    end = offset + size
    reach = max(size, BLOCK)
    gap = offset - stream.front
    if 0 <= gap <= reach:
        count = PATIENCE if not offset and size >= _MORE_THAN_A_HEADER else 1
        return replace(stream, front=end, reads=stream.reads + count)
    if -_LATE * reach <= gap <= _OVERTAKING * reach:
        return replace(stream, front=max(stream.front, end))
    return Stream(begin=offset, front=end, ahead=end, largest=stream.largest)


def plan(stream: Stream, content_size: int, window: int, free: int) -> tuple[Stream, list[tuple[int, int]]]:
    """The stream with the requests (offset, length) that are to be made for it now.

    They grow from `FIRST` to the stream's largest, do not overlap and begin at block boundaries.

    Args:
        window: bytes that may be ahead of the reader, fetched or not.
        free: how many more requests may be in flight.
    """
    requests: list[tuple[int, int]] = []
    if not stream.sequential:
        return stream, requests
    allowed = min(window, max(FIRST, _AHEAD_PER_READ * (stream.front - stream.begin)))
    ahead, request = up(max(stream.ahead, stream.front)), stream.request
    # At least two in a small window, so that one is under way while another is read.
    largest = down(min(stream.largest, window // 2))
    while len(requests) < free and ahead < content_size:
        length = min(request, largest, content_size - ahead)
        if length <= 0 or ahead + length - stream.front > allowed:
            break
        requests.append((ahead, length))
        ahead += length
        request = min(2 * request, stream.largest)
    return replace(stream, ahead=ahead, request=request), requests


def paced(stream: Stream, length: int, seconds: float) -> Stream:
    """The stream after a request ahead of that length was answered in that time."""
    if length < stream.largest:
        return stream
    if seconds < QUICK:
        return replace(stream, largest=min(2 * stream.largest, LARGEST))
    return replace(stream, largest=max(stream.largest // 2, USUAL)) if seconds > SLOW else stream


def pieces(offset: int, end: int) -> list[tuple[int, int]]:
    """The pieces (begin and end) of a request."""
    return [(begin, min(begin + PIECE, end)) for begin in range(offset, end, PIECE)]


def withdrawn(stream: Stream, offset: int) -> Stream:
    """The stream when what was asked for ahead, from `offset` on, is not coming: asked for again, beginning small."""
    return replace(stream, ahead=min(stream.ahead, max(offset, stream.front)), request=FIRST)
