"""Files fetched before they are asked for, since whoever uses the files of a directory in order wants the next ones.

A listing of S3 carries no stored time, and no listing carries content: over a network, a program that takes one file
after the other would wait a round trip for each. Small files come whole, with their exact stat, by one request.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

from depotfs.cache import Arrived, BlockCache, Source
from depotfs.cache.readahead import WHOLE
from depotfs.cache.walk import FILES, Walk, closest, plan, renewed, step, withdrawn
from depotfs.errors import DepotError
from depotfs.types import FileEntry, FileId, FileStat
from depotfs.vfs.file import File
from depotfs.vfs.nodes import stable_ino
from depotfs.vfs.volume import Volume

STATS: Final = 256
"""Files whose stat alone is asked for ahead: more than the kernel takes of a listing at once (some 170), so that of
most it is told with their names."""
_LONGEST: Final = 200_000
"""Files of a directory that are known in order, some 20 MB; sorting them by inode number takes the event loop 0.3 s."""
_GROWN: Final = 1.25
"""The sorting is made anew when so many times as many files are listed: a few missing ones do not hide a walk."""


class Order:
    """Files of a directory in one order, and who walks through it: looking at files, or reading them.

    Attributes:
        ids, keys: of the files; the keys ascend.
    """

    def __init__(self, ids: list[FileId], keys: list[Any], key: Callable[[FileId], Any]) -> None:
        self.ids = ids
        self.keys = keys
        self._key = key
        self.looks: tuple[Walk, ...] = ()
        self.reads: tuple[Walk, ...] = ()

    def find(self, file_id: FileId) -> int | None:
        """The file's place, None where it is not known."""
        place = bisect_left(self.keys, self._key(file_id))
        return place if place < len(self.ids) and self.ids[place] == file_id else None


class Listed(Order):
    """The files in the order of the storage's listing, which is that of their ids, with their sizes as listed."""

    def __init__(self) -> None:
        ids: list[FileId] = []
        super().__init__(ids, ids, lambda file_id: file_id)
        self._sizes: list[int] = []

    def size(self, file_id: FileId) -> int:
        """Bytes, 0 where that is not known."""
        place = self.find(file_id)
        return 0 if place is None else self._sizes[place]

    def put(self, entries: Sequence[FileEntry], after: FileId | None) -> bool:
        """These files, and no others, are between `after` (None: the beginning) and the last of them (none: the end).

        Returns: whether the places of others are what they were.
        """
        ids = [entry.file_id for entry in entries]
        begin = 0 if after is None else bisect_right(self.ids, after)
        end = bisect_right(self.ids, ids[-1]) if ids else len(self.ids)
        sizes = [(entry.stat.size if entry.stat is not None else entry.size) or 0 for entry in entries]
        same = begin == len(self.ids) or self.ids[begin:end] == ids
        self.ids[begin:end], self._sizes[begin:end] = ids, sizes
        if len(self.ids) > _LONGEST:
            same = False
            far = slice(_LONGEST // 2, None) if begin < _LONGEST // 2 else slice(0, -(_LONGEST // 2))
            del self.ids[far], self._sizes[far]
        if not same:
            self.looks = self.reads = ()
        return same


class Ahead:
    """Follows who uses the files of one storage.

    What is asked for ahead is asked by id: the kernel takes a listing piece by piece, and has not been handed most
    of the files that a walk comes to next.

    Attributes:
        total_stats, total_contents: files whose stat, or whose content, was asked for ahead so far.
    """

    def __init__(self, volume: Volume, cache: BlockCache, nursery: trio.Nursery) -> None:
        self._volume = volume
        self._cache = cache
        self._nursery = nursery
        self._far = not volume.remote.inline
        self._ranged = self._far and volume.remote.storage.ranged
        self._listed = Listed()
        self._numbered: Order | None = None
        self._under_way: set[FileId] = set()
        self.total_stats = 0
        self.total_contents = 0

    def expect(self, entries: Sequence[FileEntry], after: FileId | None) -> None:
        """These files were listed, and no others behind `after` (None: from the beginning); none: that was the end."""
        if self._far and not self._listed.put(entries, after):
            self._numbered = None

    def looked(self, *file_ids: FileId) -> None:
        """Somebody asks for the attributes of a file: those of the next ones are on their way when this returns.

        Args:
            file_ids: one, or those that a name may lead to.
        """
        if self._volume.options.attr_timeout <= 0:
            return  # whoever asks for one asks the storage again
        orders = self._orders(file_ids, reading=False)
        late = any(not self._is_told(order.ids[place]) for order, place in orders)
        reads = any(self._is_read(order, place, late=late) for order, place in orders)
        for order, place in orders:
            old = closest(order.looks, place)
            walk = step(old or Walk(), place)
            if walk is old:
                continue
            if late and old is not None and place < old.ahead:
                walk = withdrawn(walk)
            if not reads:  # else the files come whole
                walk, wanted = plan(walk, len(order.ids), None, STATS)
                self._start(order, wanted, self._fetch_stat)
            order.looks = renewed(order.looks, old, walk)

    @staticmethod
    def _is_read(order: Order, place: int, *, late: bool) -> bool:
        """Whether somebody reads the files there one by one, looking at each before."""
        reader = closest(order.reads, place)
        if reader is None or not reader.steps:
            return False
        if late and reader.place < place < reader.ahead:
            order.reads = renewed(order.reads, reader, withdrawn(reader))
        return True

    def read(self, file: File) -> None:
        """Somebody reads its first bytes: the next files, if small, are on their way when this returns."""
        for order, place in self._orders((file.file_id,), reading=True):
            old = closest(order.reads, place)
            walk = step(old or Walk(), place, file.size)
            walk, wanted = plan(walk, len(order.ids), partial(self._small_at, order), FILES)
            self._start(order, wanted, self._fetch_whole)
            order.reads = renewed(order.reads, old, walk)

    async def load(self, file: File) -> None:
        """If the file is small, clean and known from a listing only, its exact stat and its content are here."""
        if self._ranged and file.stat is None and file.draft is None and 0 < file.size <= WHOLE:
            await self._load(file.file_id)

    def _orders(self, file_ids: tuple[FileId, ...], *, reading: bool) -> list[tuple[Order, int]]:
        """The orders in which somebody may be walking, with the file's place."""
        for file_id in file_ids:
            place = self._listed.find(file_id)
            if place is not None:
                break
        else:
            return []
        if closest(self._listed.reads if reading else self._listed.looks, place) is None:
            self._number()
        orders: list[tuple[Order, int]] = [(self._listed, place)]
        if self._numbered is not None and (number := self._numbered.find(file_id)) is not None:
            orders.append((self._numbered, number))
        return orders

    def _number(self) -> None:
        listed = self._listed.ids
        if self._numbered is None or len(listed) > _GROWN * len(self._numbered.ids):
            key = partial(stable_ino, self._volume.name)
            numbered = sorted((key(file_id), file_id) for file_id in listed)
            self._numbered = Order([file_id for _, file_id in numbered], [number for number, _ in numbered], key)

    def _small_at(self, order: Order, place: int) -> int:
        return self._small(order.ids[place])

    def _small(self, file_id: FileId) -> int:
        """Bytes of a file that is fetched whole, 0 of any other."""
        file = self._volume.directory.find(file_id)
        size = file.size if file is not None else self._listed.size(file_id)
        return size if size <= WHOLE else 0

    def _is_told(self, file_id: FileId) -> bool:
        """Whether the file's attributes can be told without asking, or are on their way."""
        return file_id in self._under_way or self._volume.is_known(file_id)

    def _start(self, order: Order, places: range, fetch: Callable[[FileId], Awaitable[None]]) -> None:
        for file_id in order.ids[places.start : places.stop]:
            if file_id not in self._under_way and not self._is_ours(file_id):
                self._under_way.add(file_id)
                self._nursery.start_soon(self._quietly, fetch, file_id)

    def _is_ours(self, file_id: FileId) -> bool:
        """Whether this mount changes what is stored there, or does not show it there."""
        file = self._volume.directory.find(file_id)
        return self._volume.is_doubtful(file_id) if file is None else file.is_ours

    async def _quietly(self, fetch: Callable[[FileId], Awaitable[None]], file_id: FileId) -> None:
        try:
            await fetch(file_id)
        except (DepotError, OSError):
            return  # whoever really asks is told
        finally:
            self._under_way.discard(file_id)

    async def _fetch_stat(self, file_id: FileId) -> None:
        if not self._volume.is_known(file_id):
            self.total_stats += 1
            self._adopt(await self._volume.knowledge.ask(file_id))

    async def _fetch_whole(self, file_id: FileId) -> None:
        size, stat = self._small(file_id), self._stat(file_id)
        if not self._ranged or not size:
            if stat is None:
                await self._fetch_stat(file_id)
        elif stat is None or not self._volume.is_known(file_id):
            self.total_contents += 1
            await self._load(file_id)
        elif not self._cache.holds(key := self._key(stat)):
            self.total_contents += 1
            remote = self._volume.remote

            async def fetch(offset: int, length: int, arrived: Arrived) -> None:
                arrived(await remote.pread(await remote.open_content(stat), offset, length))

            await self._cache.read(Source(key, stat.size, fetch), 0, 1)

    def _stat(self, file_id: FileId) -> FileStat | None:
        """What was last heard of the file."""
        file = self._volume.directory.find(file_id)
        heard = self._volume.knowledge.find_heard(file_id)
        return file.stat if file is not None else heard.stat if heard is not None else None

    async def _load(self, file_id: FileId) -> None:
        async def whole(file_id: FileId) -> FileStat | None:
            answer = await self._volume.remote.load(file_id, WHOLE)
            if answer is None:
                return None
            stat, content = answer
            if content:
                self._cache.insert(self._key(stat), content)
            return stat

        self._adopt(await self._volume.knowledge.ask(file_id, whole))

    def _key(self, stat: FileStat) -> tuple[str, FileId, str]:
        return self._volume.remote.identity, stat.file_id, stat.version

    def _adopt(self, stat: FileStat | None) -> None:
        """What was answered is known, unless this mount is about to change the file."""
        if stat is None or self._is_ours(stat.file_id):
            return
        if self._volume.directory.find(stat.file_id) is not None:
            self._volume.adopt(stat)
        else:
            self._volume.knowledge.hear(stat)
