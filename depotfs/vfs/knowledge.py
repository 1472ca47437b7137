"""What is known of a storage: what it was asked, what this mount is changing meanwhile, what it has not."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from depotfs.catalog import Catalog
from depotfs.errors import InvalidMetadata
from depotfs.remote.remote import Remote
from depotfs.types import OCTET_STREAM, PRESENT, UNNAMED, FileId, FileMetadata, FileStat

_log = logging.getLogger(__name__)
_MOST_ABSENT: Final = 10_000
"""Ids remembered as absent: what a copy of many files leaves behind within a second."""
_MOST_HEARD: Final = 4096
"""Answers kept for files that are not shown yet, some 4 MB: several times what all walks have ahead of them."""


@dataclass(eq=False)
class Asking:
    """Something that was asked of the storage and is not answered yet.

    Attributes:
        changed: file ids that this mount changed after the question was asked: the answer on these is worth nothing.
    """

    changed: set[FileId] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Heard:
    """What the storage answered about a file that nobody was shown yet, and trio's time of it."""

    stat: FileStat
    at: float


class Knowledge:
    """Keeps answers that this mount's own changes overtook from being believed.

    Attributes:
        catalog: remembers over restarts what the storage answered; None: nothing does.
    """

    def __init__(self, remote: Remote, attr_timeout: float) -> None:
        self.catalog: Catalog | None = None
        self._remote = remote
        self._attr_timeout = attr_timeout
        self._askings: set[Asking] = set()
        self._requests: dict[FileId, _StatRequest] = {}
        self._absent: dict[FileId, float] = {}
        self._heard: OrderedDict[FileId, Heard] = OrderedDict()
        self._damaged: set[FileId] = set()

    @contextmanager
    def asking(self) -> Iterator[Asking]:
        """While inside, changes by this mount are noted."""
        asking = Asking()
        self._askings.add(asking)
        try:
            yield asking
        finally:
            self._askings.discard(asking)

    @contextmanager
    def changing(self, *file_ids: FileId) -> Iterator[None]:
        """While inside, the storage may show these files before or after a change of this mount."""
        self.note_changed(*file_ids)
        try:
            yield
        finally:
            self.note_changed(*file_ids)

    def note_changed(self, *file_ids: FileId) -> None:
        """What was answered of these so far is worth nothing."""
        for file_id in file_ids:
            self._absent.pop(file_id, None)
            self._heard.pop(file_id, None)
        for asking in self._askings:
            asking.changed.update(file_ids)

    async def ask(
        self, file_id: FileId, request: Callable[[FileId], Awaitable[FileStat | None]] | None = None
    ) -> FileStat | None:
        """What the storage has under that id, None for nothing; one request, shared by all who ask meanwhile.

        An answer that a change of this mount overtook is asked for again. A file whose metadata is damaged is
        answered as `unreadable`: it can be removed and replaced.

        Args:
            request: makes the request if none is under way; the remote's `find` by default.
        """
        if self._remote.inline:
            return await self._answer(file_id, None)  # at once: nothing can overtake it
        while True:
            with self.asking() as asking:
                current = self._requests.get(file_id)
                if current is None:
                    current = self._requests[file_id] = _StatRequest()
                    try:
                        current.answer = await self._answer(file_id, request)
                        current.valid = file_id not in asking.changed
                        if current.valid:
                            self.remember(current.answer)
                    finally:
                        del self._requests[file_id]
                        current.done.set()
                else:
                    await current.done.wait()
            # Who only waited hears of the answer later than who asked.
            if current.valid and file_id not in asking.changed:
                return current.answer

    async def _answer(
        self, file_id: FileId, request: Callable[[FileId], Awaitable[FileStat | None]] | None
    ) -> FileStat | None:
        try:
            return await (request or self._remote.find)(file_id)
        except InvalidMetadata as error:
            if file_id not in self._damaged:
                self._damaged.add(file_id)
                _log.warning("%s; the file can be removed or replaced", error)
            return unreadable(file_id)

    def remember(self, stat: FileStat | None) -> None:
        """The catalog knows this, over restarts too."""
        if stat is not None and self.catalog is not None and stat.version != PRESENT:
            self.catalog.remember(self._remote.identity, [stat])

    def hear(self, stat: FileStat) -> None:
        """The storage answered this just now about a file that is not shown yet."""
        self._heard[stat.file_id] = Heard(stat, trio.current_time())
        if len(self._heard) > _MOST_HEARD:
            self._heard.popitem(last=False)

    def find_heard(self, file_id: FileId) -> Heard | None:
        """What was heard of it within attr_timeout."""
        heard = self._heard.get(file_id)
        if heard is not None and heard.at + self._attr_timeout <= trio.current_time():
            del self._heard[file_id]
            return None
        return heard

    def note_absent(self, file_ids: Iterable[FileId]) -> None:
        """The storage was just seen to have none of these: within attr_timeout nobody needs to ask again."""
        if len(self._absent) > _MOST_ABSENT:
            self._absent.clear()
        until = trio.current_time() + self._attr_timeout
        self._absent.update(dict.fromkeys(file_ids, until))

    def note_present(self, file_id: FileId) -> None:
        """There is such a file, and it knows more of itself, whatever was seen or heard before."""
        self._absent.pop(file_id, None)
        self._heard.pop(file_id, None)

    def is_absent(self, file_id: FileId) -> bool:
        """Whether the storage was seen to have none of that id within attr_timeout."""
        return self._absent.get(file_id, -1.0) > trio.current_time()

    def was_ever_seen(self, file_id: FileId) -> bool:
        """Whether the catalog has heard of such a file."""
        return self.catalog is not None and self.catalog.knows(self._remote.identity, file_id)


def unreadable(file_id: FileId) -> FileStat:
    """The stat of a file that is stored but cannot be understood: its version says no more than that it is there."""
    return FileStat(file_id, 0, PRESENT, "", FileMetadata(UNNAMED, OCTET_STREAM, 0), 0)


class _StatRequest:
    """One `stat` under way."""

    __slots__ = ("answer", "done", "valid")

    def __init__(self) -> None:
        self.answer: FileStat | None = None
        self.valid = False
        self.done = trio.Event()
