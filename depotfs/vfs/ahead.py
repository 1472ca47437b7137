"""Files fetched before they are asked for, since whoever uses the files of a directory in order wants the next ones.

A listing of S3 carries no stored time, and no listing carries content: over a network, a program that takes one file
after the other would wait a round trip for each. Small files come whole, with their exact stat, by one request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from depotfs.cache import Arrived, BlockCache, Source
from depotfs.cache.readahead import WHOLE
from depotfs.cache.walk import FILES, Walk, plan, step
from depotfs.errors import DepotError
from depotfs.types import FileId, FileStat
from depotfs.vfs.file import File
from depotfs.vfs.nodes import stable_ino
from depotfs.vfs.volume import Volume

STATS: Final = 128
"""Files whose stat alone is asked for ahead: at 20 ms a request, enough for some 5,000 stats a second."""
_LONGEST_SORTED: Final = 200_000
"""Files of a directory that are sorted by inode number, some 0.3 s on the event loop."""
_GROWN: Final = 1.25
"""The sorting is made anew when so many times as many files are listed: a few missing ones do not hide a walk."""


class Order:
    """The files of a directory in one order, and who walks through it: looking at files, or reading them."""

    def __init__(self) -> None:
        self.ids: list[FileId] = []
        self.places: dict[FileId, int] = {}
        self.looks = Walk()
        self.reads = Walk()

    def extend(self, file_ids: Iterable[FileId]) -> None:
        for file_id in file_ids:
            self.places[file_id] = len(self.ids)
            self.ids.append(file_id)


class Ahead:
    """Follows who uses the files of one storage.

    Attributes:
        total_stats, total_contents: files whose stat, or whose content, was asked for ahead so far.
    """

    def __init__(self, volume: Volume, cache: BlockCache, nursery: trio.Nursery) -> None:
        self._volume = volume
        self._cache = cache
        self._nursery = nursery
        self._far = not volume.remote.inline
        self._ranged = self._far and volume.remote.storage.ranged
        self._listed = Order()
        self._numbered: Order | None = None
        self.total_stats = 0
        self.total_contents = 0

    def expect(self, file_ids: list[FileId]) -> None:
        """These files were listed, in this order."""
        if not self._far or not file_ids:
            return
        if file_ids[0] in self._listed.places:
            self._listed, self._numbered = Order(), None
        self._listed.extend(file_ids)

    def looked(self, file: File) -> None:
        """Somebody asks for its attributes: those of the next files are on their way when this returns."""
        for order, place in self._orders(file, reading=False):
            before = order.looks
            order.looks = step(before, place)
            reader = order.reads.steps > 0 and order.reads.place == before.place
            if order.looks is not before and not reader:  # else nothing is new, or the files come whole
                order.looks, wanted = plan(order.looks, len(order.ids), lambda _: 0, STATS)
                self._start(order, wanted, self._fetch_stat)

    def read(self, file: File) -> None:
        """Somebody reads its first bytes: the next files, if small, are on their way when this returns."""
        for order, place in self._orders(file, reading=True):
            order.reads = step(order.reads, place)
            order.reads, wanted = plan(order.reads, len(order.ids), self._sizes(order), FILES)
            self._start(order, wanted, self._fetch_whole)

    async def load(self, file: File) -> None:
        """If the file is small, clean and known from a listing only, its exact stat and its content are here."""
        if self._ranged and file.stat is None and file.draft is None and 0 < file.size <= WHOLE:
            await self._load(file.file_id)

    def _orders(self, file: File, *, reading: bool) -> list[tuple[Order, int]]:
        """The orders in which somebody may be walking, with the file's place."""
        place = self._listed.places.get(file.file_id)
        if place is None:
            return []
        orders = [self._listed]
        walk = self._listed.reads if reading else self._listed.looks
        if not step(walk, place).steps and len(self._listed.ids) <= _LONGEST_SORTED:
            self._number()
        if self._numbered is not None:
            orders.append(self._numbered)
        return [(order, order.places[file.file_id]) for order in orders if file.file_id in order.places]

    def _number(self) -> None:
        if self._numbered is None or len(self._listed.ids) > _GROWN * len(self._numbered.ids):
            name = self._volume.name
            self._numbered = Order()
            self._numbered.extend(sorted(self._listed.ids, key=lambda file_id: stable_ino(name, file_id)))

    def _sizes(self, order: Order) -> Callable[[int], int]:
        directory = self._volume.directory

        def size(place: int) -> int:
            file = directory.find(order.ids[place])
            return file.size if file is not None and file.size <= WHOLE else 0

        return size

    def _start(self, order: Order, places: range, fetch: Callable[[File], Awaitable[None]]) -> None:
        for place in places:
            file = self._volume.directory.find(order.ids[place])
            if file is not None and not file.is_ours:
                self._nursery.start_soon(self._quietly, fetch, file)

    @staticmethod
    async def _quietly(fetch: Callable[[File], Awaitable[None]], file: File) -> None:
        try:
            await fetch(file)
        except (DepotError, OSError):
            return  # whoever really asks is told

    async def _fetch_stat(self, file: File) -> None:
        believed = self._volume.options.attr_timeout > 0  # else whoever asks for it asks the storage again
        if believed and not self._volume.is_fresh(file):
            self.total_stats += 1
            self._adopt(await self._volume.knowledge.ask(file.file_id))

    async def _fetch_whole(self, file: File) -> None:
        if not self._ranged or not 0 < file.size <= WHOLE:
            if file.stat is None:
                await self._fetch_stat(file)
        elif file.stat is None or not self._volume.is_fresh(file):
            self.total_contents += 1
            await self._load(file.file_id)
        elif not self._cache.holds(key := self._key(file.stat)):
            self.total_contents += 1
            stat, remote = file.stat, self._volume.remote

            async def fetch(offset: int, length: int, arrived: Arrived) -> None:
                arrived(await remote.pread(await remote.open_content(stat), offset, length))

            await self._cache.read(Source(key, stat.size, fetch), 0, 1)

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
        if stat is None:
            return
        file = self._volume.directory.find(stat.file_id)
        if file is not None and not file.is_ours:
            self._volume.adopt(stat)
