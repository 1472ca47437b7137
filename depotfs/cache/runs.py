"""A run is neighbouring blocks that came, or are coming, together; a store holds runs within its capacity."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Final

import trio

from depotfs.cache.readahead import BLOCK, pieces
from depotfs.cache.source import Source
from depotfs.errors import ContentDamaged

OVERHEAD: Final = 3 << 10
"""Bytes of memory that a run takes beside its content (measured: 2.6 KiB); of tiny files it is nearly all."""


class Request:
    """One request to a source, which brings its bytes in order, in pieces of any size: they fill one run after another.

    Attributes:
        source: whose `fetch` brings them.
        offset, end: of all of it.
        ahead: no reader had asked for it when it was begun.
        pending: the runs that are not settled, in order: the others it must not hold.
        damage: more bytes came than were asked for: nothing more is taken.
        scope: cancels the fetch.
        begun: trio's time of its beginning.
    """

    __slots__ = ("ahead", "begun", "damage", "end", "offset", "pending", "scope", "source")

    def __init__(self, source: Source, offset: int, end: int, *, ahead: bool) -> None:
        self.source = source
        self.offset = offset
        self.end = end
        self.ahead = ahead
        self.pending = deque(Run(self, begin, stop) for begin, stop in pieces(offset, end))
        self.damage: ContentDamaged | None = None
        self.scope = trio.CancelScope()
        self.begun = trio.current_time()

    def fill(self, data: bytes | memoryview) -> list[Run]:
        """The runs that are whole now that these bytes have come, behind those that came before."""
        missing = sum(run.size - run.arrived for run in self.pending)
        if len(data) > missing:
            self.damage = ContentDamaged(f"{len(data)} bytes arrived where {missing} were left of {self.source.key}")
            return []
        whole: list[Run] = []
        rest = memoryview(data)
        while rest:
            run = self.pending[0]
            rest = run.fill(rest)
            if run.data is not None:
                whole.append(self.pending.popleft())
        return whole

    def give_up(self) -> None:
        """Ends the fetch if nobody wants any of what it still has to bring."""
        if self.pending and not any(run.stored or run.waiters for run in self.pending):
            self.scope.cancel()


class Run:
    """Blocks of one content from `offset` (a block boundary) to `end` (another, or the content's end).

    Attributes:
        request: what brings it.
        data: its bytes, None until all are here; arrived: how many are.
        error: why they will not come; set, like `data`, before `settled` is.
        waiters: readers who wait for it now.
        was_read: some reader got bytes of it.
        unwanted: the reader that it was fetched ahead for is gone.
        shelf: where the store has it, None while it is fetched or after it was dropped.
        stored: the store still counts it.
    """

    __slots__ = (
        "_part",
        "arrived",
        "data",
        "end",
        "error",
        "offset",
        "request",
        "settled",
        "shelf",
        "stored",
        "unwanted",
        "waiters",
        "was_read",
    )

    def __init__(self, request: Request, offset: int, end: int) -> None:
        self.request = request
        self.offset = offset
        self.end = end
        self.data: memoryview | None = None
        self.arrived = 0
        self._part: bytearray | None = None
        self.error: Exception | None = None
        self.settled = trio.Event()
        self.waiters = 0
        self.was_read = False
        self.unwanted = False
        self.shelf: OrderedDict[Run, None] | None = None
        self.stored = False

    def __repr__(self) -> str:
        state = "failed" if self.error else "fetching" if self.data is None else "here"
        return f"<Run {self.offset}..{self.end} {state}>"

    def fill(self, piece: memoryview) -> memoryview:
        """What is left of a piece when the run has taken what it lacks.

        A piece of just the run's bytes is kept as it is. Of any other one, which may be a small part of what it keeps
        in memory, they are copied.
        """
        missing = self.size - self.arrived
        taken, rest = piece[:missing], piece[missing:]
        if len(piece) == self.size == missing:
            self.data = piece
        else:
            self._part = self._part or bytearray(self.size)
            self._part[self.arrived : self.arrived + len(taken)] = taken
            if len(taken) == missing:
                self.data, self._part = memoryview(self._part).toreadonly(), None
        self.arrived += len(taken)
        return rest

    @property
    def source(self) -> Source:
        return self.request.source

    @property
    def ahead(self) -> bool:
        return self.request.ahead

    @property
    def size(self) -> int:
        return self.end - self.offset

    @property
    def cost(self) -> int:
        """Bytes of memory that it takes, or will."""
        return self.size + OVERHEAD

    @property
    def blocks(self) -> range:
        return range(self.offset // BLOCK, -(-self.end // BLOCK))


class Store:
    """Runs by content and block; knows which of them go first. Plain calls only, so every step is atomic for trio.

    What goes first: what its reader has passed or left, then what was read longest ago, and only for a reader
    who waits, what was fetched ahead and not yet read. What is being fetched never goes.

    Attributes:
        current, peak: bytes of memory of runs here and on their way.
        wasted: bytes that were fetched and left unread.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.current = 0
        self.peak = 0
        self.wasted = 0
        self._contents: dict[Hashable, dict[int, Run]] = {}
        self._passed: OrderedDict[Run, None] = OrderedDict()
        self._recent: OrderedDict[Run, None] = OrderedDict()
        self._unread: OrderedDict[Run, None] = OrderedDict()
        self._free_to_go = 0

    def find(self, key: Hashable, block: int) -> Run | None:
        content = self._contents.get(key)
        return None if content is None else content.get(block)

    def runs(self, key: Hashable) -> list[Run]:
        """All runs of a content, here or on their way."""
        return list(dict.fromkeys(self._contents.get(key, {}).values()))

    def has_room_ahead(self, size: int) -> bool:
        """Whether so many bytes fit without dropping what was fetched ahead and is not yet read."""
        return self.current - self._free_to_go + size <= self.capacity

    def begin(self, run: Run) -> None:
        """The run's blocks are on their way, and room is made for them as far as there is any."""
        self._evict(self.capacity - run.cost)
        content = self._contents.setdefault(run.source.key, {})
        for block in run.blocks:
            content[block] = run
        run.stored = True
        self.current += run.cost
        self.peak = max(self.peak, self.current)

    def arrived(self, run: Run) -> None:
        """The run has its data; it is kept, unless it was dropped meanwhile."""
        if run.stored:
            self._shelve(run, self._passed if run.unwanted else self._unread if run.ahead else self._recent)
            # Readers who waited made it exceed the capacity.
            self._evict(self.capacity)
        elif not run.waiters:
            self.wasted += run.size

    def read(self, run: Run, *, passed: bool) -> None:
        """A reader got bytes of the run; `passed`: up to its end, in order, so that it will hardly come back."""
        run.was_read = True
        run.source.unread.discard(run)
        if run.shelf is not None:
            if passed:
                self._shelve(run, self._passed)
            elif run.shelf is not self._passed:
                self._shelve(run, self._recent)

    def leave(self, run: Run) -> None:
        """The reader that it was fetched ahead for is gone: if unread, it is among the first to go."""
        run.unwanted = True
        if run.shelf is self._unread:
            self._shelve(run, self._passed)

    def drop(self, run: Run) -> None:
        """Nothing is held of the run; who waits for it still gets it."""
        if not run.stored:
            return
        run.stored = False
        run.source.unread.discard(run)
        self._unshelve(run)
        self.current -= run.cost
        if run.data is not None and not run.was_read:
            self.wasted += run.size
        content = self._contents[run.source.key]
        for block in run.blocks:
            del content[block]
        if not content:
            del self._contents[run.source.key]

    def _shelve(self, run: Run, shelf: OrderedDict[Run, None]) -> None:
        self._unshelve(run)
        shelf[run] = None
        run.shelf = shelf
        if shelf is not self._unread:
            self._free_to_go += run.cost

    def _unshelve(self, run: Run) -> None:
        if run.shelf is not None:
            del run.shelf[run]
            if run.shelf is not self._unread:
                self._free_to_go -= run.cost
            run.shelf = None

    def _evict(self, limit: int) -> None:
        while self.current > limit and (oldest := next(self._in_order(), None)) is not None:
            self.drop(oldest)

    def _in_order(self) -> Iterator[Run]:
        for shelf in (self._passed, self._recent, self._unread):
            yield from shelf
