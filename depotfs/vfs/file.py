"""A `File` is one life of one stored file.

A life begins when the mount first hears of a file and ends when its content is replaced by something other than a
write through it: by a rename over it, by an unlink, by a change in the storage. The kernel's page cache hangs on the
node id, so that cached pages never outlive the content they belong to.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import trio

from depotfs.types import FileEntry, FileId, FileStat, InodeNo

if TYPE_CHECKING:
    from depotfs.vfs.content import OpenContent
    from depotfs.vfs.draft import Draft
    from depotfs.vfs.volume import Volume

_USE_COUNTS: Final = 3600.0
"""Seconds for which the use of a plain name keeps its process group from unlinking the file by its id."""


class Life(enum.Enum):
    """What became of a file."""

    LIVE = "live"
    UNLINKED = "unlinked"
    RENAMED_OVER = "renamed over"
    """By this mount: its handles go on as after an unlink."""
    CHANGED_ELSEWHERE = "changed elsewhere"
    """Replaced or deleted in the storage by somebody else, or its bytes can never become what is stored."""


class FileLock:
    """trio's lock, but free it is taken without giving other tasks a turn: most requests never share a file.

    It is there while it is held only: 400 bytes for each of 100,000 listed files were a quarter of what they take.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock: trio.Lock | None = None

    async def __aenter__(self) -> None:
        if self._lock is None:
            self._lock = trio.Lock()
            self._lock.acquire_nowait()
        else:
            await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        assert self._lock is not None
        self._lock.release()
        if not self._lock.locked():  # else it is the next waiter's
            self._lock = None

    def locked(self) -> bool:
        """Whether anybody has it."""
        return self._lock is not None


class File:
    """One life of a stored file, or of one that is still to be stored.

    Attributes:
        node_id: what the kernel calls it and what stat(2) shows as its inode number; never changes.
        file_id: where this mount shows it. The tables of names are the `Directory`'s: it alone sets this.
        scratch: the scratch name by which it is listed until it is stored under `file_id`, None for all others.
        stat: what the storage has of it, as far as known, and where (`stat.file_id`); None for a file that is not
            stored, or of which `entry` alone is known.
        over: what else is stored under `file_id`, and will be replaced by this file: None for nothing.
        entry: what a listing told, where it did not tell all.
        fresh_until: trio time up to which `stat` need not be asked for again.
        draft: bytes that the storage does not have yet.
        content: the open content of `stat`, while handles are open.
        leaving: an unlink or a rename over it is under way: who wants to open it waits for its end.
        lookups: the kernel's references; handles: open files; pins: calls that are at work with it.
        names: the (directory, name) pairs under which the kernel may have cached it.
        lock: taken by whoever changes what the storage has of this file; see `depotfs.vfs.volume` for the order.
    """

    __slots__ = (
        "_uses", "content", "draft", "entry", "file_id", "fresh_until", "handles", "leaving", "life", "lock", "lookups",
        "names", "node_id", "over", "pins", "scratch", "stat", "volume",
    )  # fmt: skip

    def __init__(self, volume: Volume, file_id: FileId, scratch: bytes | None = None) -> None:
        self.volume = volume
        self.node_id = InodeNo(0)
        self.file_id = file_id
        self.scratch = scratch
        self.stat: FileStat | None = None
        self.over: FileStat | None = None
        self.entry: FileEntry | None = None
        self.fresh_until = -1.0
        self.draft: Draft | None = None
        self.content: OpenContent | None = None
        self.life = Life.LIVE
        self.leaving = False
        self.lookups = 0
        self.handles = 0
        self.pins = 0
        self.names: set[tuple[InodeNo, bytes]] = set()
        self.lock = FileLock()
        self._uses: dict[int, float] | None = None

    @property
    def live(self) -> bool:
        """Whether its id still leads to it."""
        return self.life is Life.LIVE

    @property
    def size(self) -> int:
        """Bytes, of what readers of this mount see."""
        if self.draft is not None:
            return self.draft.file.size
        if self.stat is not None:
            return self.stat.size
        return (self.entry.size if self.entry else None) or 0

    @property
    def stored(self) -> bool:
        """Whether the storage has a file of it, as far as this mount knows."""
        return self.stat is not None or self.entry is not None

    @property
    def moved(self) -> bool:
        """Whether the storage still has its content under another id than the one where it is shown."""
        return self.stat is not None and self.stat.file_id != self.file_id

    @property
    def is_ours(self) -> bool:
        """Whether this mount is changing it: what the storage answers about it counts for nothing meanwhile."""
        return self.draft is not None or self.scratch is not None or self.lock.locked()

    @property
    def base(self) -> FileStat | None:
        """What is stored under the id where it is shown, as far as known: what other content would replace there."""
        return self.over if self.stat is None or self.moved else self.stat

    @property
    def owes(self) -> bool:
        """Whether the storage does not yet have all that this mount shows of it."""
        return self.live and (self.moved or (self.draft is not None and self.draft.changed))

    @property
    def idle(self) -> bool:
        """Whether nobody needs this object: it can be made anew from the storage."""
        return not (self.lookups or self.handles or self.pins or self.draft or self.scratch)

    def note_use(self, group: int) -> None:
        """A process group used it by its plain name."""
        now = trio.current_time()
        uses = self._uses or {}
        self._uses = {**{other: at for other, at in uses.items() if at + _USE_COUNTS > now}, group: now}

    def was_used_by(self, group: int) -> bool:
        """Whether that process group used it by its plain name within the last hour."""
        return self._uses is not None and self._uses.get(group, -_USE_COUNTS) + _USE_COUNTS > trio.current_time()

    def forget_uses(self) -> None:
        """Its plain name leads elsewhere now."""
        self._uses = None

    def __repr__(self) -> str:
        state = f"{self.draft!r}" if self.draft else "clean"
        return f"<File {self.volume.name}/{self.file_id} {self.life.value} {state} handles={self.handles}>"
