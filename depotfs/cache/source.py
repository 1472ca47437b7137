"""A source is one opened version of a stored file, as the cache reads it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING

from depotfs.cache.readahead import Stream

if TYPE_CHECKING:
    from depotfs.cache.runs import Run

Arrived = Callable[[bytes | memoryview], None]
"""Takes bytes that follow those of its earlier calls, any number of them."""
Fetch = Callable[[int, int, Arrived], Awaitable[None]]


class Source:
    """Where the blocks of one content come from, and how one reader goes through it.

    A source per handle is best: sources of equal keys share blocks and fetches, but each follows its own reader.

    Attributes:
        key: identity of the content; equal keys mean equal bytes.
        size: bytes of the content.
        fetch: `await fetch(offset, length, arrived)` brings exactly that range, with one request, and calls
            `arrived` with its bytes, in order, as soon as some are here: in pieces of whatever size they come, though
            those of `PIECE`, counted from `offset`, are not copied; `length` > 0, within `size`. It is called from
            tasks of the cache's nursery. What it raises reaches every reader who waits.
        stream: where its reader is; the cache's business, like `requests` (read-ahead requests in flight),
            `unread` (what was fetched ahead of it and no reader got) and `last_read` (number of its latest read).
    """

    __slots__ = ("fetch", "key", "last_read", "requests", "size", "stream", "unread")

    def __init__(self, key: Hashable, size: int, fetch: Fetch) -> None:
        self.key = key
        self.size = size
        self.fetch = fetch
        self.stream = Stream()
        self.requests = 0
        self.unread: set[Run] = set()
        self.last_read = 0
