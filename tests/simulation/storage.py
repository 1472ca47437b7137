"""The storage of a simulation: the contract as a server would fulfil it, and everything that can go wrong beside it."""

from __future__ import annotations

import errno
import hashlib
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from depotfs.errors import (
    AccessDenied,
    AlreadyStored,
    ContentDamaged,
    FileNotStored,
    QuotaExceeded,
    StorageFull,
    StorageMissing,
    StorageUnavailable,
    VersionChanged,
)
from depotfs.io.content import CHUNK, BytesContent, Content, FileContent
from depotfs.io.interfaces import PAGE
from depotfs.io.local import LocalFileStorage
from depotfs.io.native import NativeStorage
from depotfs.io.reader import ContentReader
from depotfs.types import ABSENT, ANY, PRESENT, Expected, FileEntry, FileId, FileMetadata, FileStat
from tests.simulation.content import Sparse, of_bytes, of_file
from tests.simulation.world import EPOCH, World

T = TypeVar("T")

_ERRORS: Final[dict[str, tuple[int, Callable[[], Exception]]]] = {
    "unavailable": (errno.EIO, lambda: StorageUnavailable("simulated: away")),
    "lost": (errno.EIO, lambda: StorageUnavailable("simulated: the reply was lost")),
    "odd": (errno.EIO, lambda: RuntimeError("simulated: what no storage should raise")),
    "disk": (errno.EIO, lambda: OSError(errno.EIO, "simulated: a disk")),
    "full": (errno.ENOSPC, lambda: StorageFull("simulated: full")),
    "quota": (errno.EDQUOT, lambda: QuotaExceeded("simulated: quota")),
    "denied": (errno.EACCES, lambda: AccessDenied("simulated: denied")),
    "missing": (errno.EIO, lambda: StorageMissing("simulated: no such bucket")),
    "damaged": (errno.EIO, lambda: ContentDamaged("simulated: cut short")),
}
"""Kind of fault -> errno that a caller is told, and what the storage raises."""
_ALWAYS: Final = ("unavailable", "odd", "disk", "denied", "missing")
_CHANGES: Final = (*_ALWAYS, "full", "quota")


@dataclass(frozen=True, slots=True)
class Record:
    """One stored file."""

    content: Sparse
    stat: FileStat


class Watched(NativeStorage):
    """A storage of which the simulation knows what it has, and that others may change.

    Attributes:
        world: what happens to it.
    """

    world: World

    @abstractmethod
    def stored(self, file_id: FileId) -> Sparse | None:
        """What is stored under that id, None for nothing."""

    @abstractmethod
    def stored_ids(self) -> set[FileId]:
        """All ids under which something is stored."""

    @abstractmethod
    def surviving(self) -> Watched:
        """The storage as the next daemon finds it, when this one dies now."""

    @abstractmethod
    def put_outside(self, file_id: FileId, content: Sparse, metadata: FileMetadata) -> None:
        """Somebody else stores that, whatever was there."""

    @abstractmethod
    def remove_outside(self, file_id: FileId) -> None:
        """Somebody else removes the file."""

    @abstractmethod
    def touch_outside(self, file_id: FileId, modified: int) -> None:
        """Somebody else sets its time."""


class SimulatedStorage(Watched):
    """Sparse contents in memory.

    Attributes:
        files: what is stored.
    """

    def __init__(self, world: World, files: dict[FileId, Record] | None = None) -> None:
        self.world = world
        self.files: dict[FileId, Record] = dict(files or {})
        self._number = 0

    def stored(self, file_id: FileId) -> Sparse | None:
        record = self.files.get(file_id)
        return None if record is None else record.content

    def stored_ids(self) -> set[FileId]:
        return set(self.files)

    def surviving(self) -> SimulatedStorage:
        other = type(self)(self.world, self.files)
        other._number = self._number
        return other

    def identity(self) -> str:
        return "simulated:docs"

    # --- faults ------------------------------------------------------------------------------------------------------

    def _meet(self, method: str, file_id: str, kinds: Sequence[str]) -> str:
        """The name of the call. Raises what strikes it before anything happened."""
        call = self.world.name(f"{method} {file_id[:8]}")
        for kind in kinds:
            if kind == "odd" and self.inline:
                continue  # only classes of ours are inline
            if self.world.strikes(kind, call):
                self._fail(kind, call)
        self.world.point(call)
        return call

    def _fail(self, kind: str, call: str) -> None:
        code, error = _ERRORS[kind]
        self.world.errnos.add(code)
        self.world.say(f"storage: {call} fails: {kind}")
        raise error()

    def _reply(self, call: str, expect: Expected, answer: T) -> T:
        """The answer to a change, unless it is lost on its way."""
        self.world.point(call + "/done")
        if self.world.strikes("lost", call):
            self._fail("lost", call)
        if expect is not ANY and expect != PRESENT and self.world.strikes("conflict", call):
            # A client library that lost the reply made the call again.
            self.world.errnos.add(errno.ESTALE)
            self.world.errnos.add(errno.EEXIST)
            self.world.say(f"storage: {call} conflicts with itself")
            raise AlreadyStored("simulated: there") if expect == ABSENT else VersionChanged("simulated: replaced")
        return answer

    # --- the contract ------------------------------------------------------------------------------------------------

    def stat(self, file_id: FileId) -> FileStat:
        self._meet("stat", file_id, _ALWAYS)
        return self._record(file_id).stat

    def pages(self, after: str = "") -> Iterator[Sequence[FileEntry]]:
        while True:
            self._meet("pages", after, _ALWAYS)
            ids = sorted(self.files)
            start = bisect_right(ids, after)
            page = [self._entry(self.files[file_id].stat) for file_id in ids[start : start + self.page]]
            if not page:
                return
            after = page[-1].file_id
            yield page

    page = PAGE

    def _entry(self, stat: FileStat) -> FileEntry:
        return FileEntry(stat.file_id, stat.size, stat.revision, stat.changed_ns, stat)

    def open_content(self, file: FileId | FileStat) -> ContentReader:
        if isinstance(file, FileStat) and self.ranged and not self.inline and file.size:
            return SimulatedReader(self, file)  # asks nothing
        file_id = file if isinstance(file, str) else file.file_id
        self._meet("open_content", file_id, _ALWAYS)
        record = self._record(file_id)
        if isinstance(file, FileStat) and file.version != record.stat.version:
            raise VersionChanged(f"{file_id} was replaced")
        return SimulatedReader(self, record.stat, record.content if self.inline else None)

    def put(
        self, content: Content, metadata: FileMetadata, *, file_id: FileId, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        call = self._meet("put", file_id, _CHANGES)
        stored = self._content_of(content)
        self._check(file_id, expect)
        stat = self._keep(file_id, stored, metadata, commit)
        self.world.say(f"storage: put {file_id[:8]} {stored}")
        return self._reply(call, expect, stat)

    def _content_of(self, content: Content) -> Sparse:
        if isinstance(content, FileContent):
            stored = of_file(content.fd, content.size)
            self.world.sent.append((content.fd, stored))
            return stored
        return of_bytes(b"".join(iter(lambda: content.read(CHUNK), b"")))

    def copy(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        call = self._meet("copy", target, _CHANGES)
        record = self._record(source.file_id)
        if record.stat.version != source.version:
            raise VersionChanged(f"{source.file_id} was replaced")
        self._check(target, expect)
        stat = self._keep(target, record.content, metadata, commit)
        self.world.say(f"storage: copy {source.file_id[:8]} to {target[:8]} {record.content}")
        return self._reply(call, expect, stat)

    def move(
        self, source: FileStat, target: FileId, metadata: FileMetadata, *, expect: Expected = ANY, commit: str = ""
    ) -> FileStat:
        if not self.world.settings.moves:
            return super().move(source, target, metadata, expect=expect, commit=commit)
        call = self._meet("move", target, _CHANGES)
        record = self._record(source.file_id)
        if record.stat.version != source.version:
            raise VersionChanged(f"{source.file_id} was replaced")
        self._check(target, expect)
        stat = self._keep(target, record.content, metadata, commit)
        self.files.pop(source.file_id)
        self.world.say(f"storage: move {source.file_id[:8]} to {target[:8]} {record.content}")
        return self._reply(call, expect, stat)

    def update(
        self,
        file: FileStat,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        modified: int | None = None,
    ) -> FileStat:
        call = self._meet("update", file.file_id, _CHANGES)
        self._check(file.file_id, file.version)
        record = self._record(file.file_id)
        stat = replace(
            record.stat,
            metadata=record.stat.metadata.changed(filename, content_type, modified),
            revision=self._next("r"),
            changed_ns=self._now(),
        )
        self.files[file.file_id] = Record(record.content, stat)
        self.world.say(f"storage: update {file.file_id[:8]} modified={modified}")
        return self._reply(call, ANY, stat)

    def remove(self, file_id: FileId, *, expect: Expected = ANY) -> None:
        call = self._meet("remove", file_id, _CHANGES[:5])
        if file_id in self.files:
            self._check(file_id, expect)
            del self.files[file_id]
            self.world.say(f"storage: remove {file_id[:8]}")
        self._reply(call, ANY, None)

    # --- what all of these are made of -------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self.world.now() * 10**9) + EPOCH * 10**9

    def _next(self, prefix: str) -> str:
        self._number += 1
        return f"{prefix}{self._number}"

    def _record(self, file_id: FileId) -> Record:
        record = self.files.get(file_id)
        if record is None:
            raise FileNotStored(f"{file_id} does not exist")
        return record

    def _check(self, file_id: FileId, expect: Expected) -> None:
        record = self.files.get(file_id)
        if expect is ANY:
            return
        if expect == ABSENT:
            if record is not None:
                raise AlreadyStored(f"{file_id} is there already")
        elif expect == PRESENT:
            self._record(file_id)
        elif record is None or record.stat.version != expect:
            raise VersionChanged(f"{file_id} was replaced or deleted")

    def _keep(self, file_id: FileId, content: Sparse, metadata: FileMetadata, commit: str = "") -> FileStat:
        """The content is stored, whatever was there."""
        version = self._next("v")
        if self.world.settings.same_version:
            version = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
        stat = FileStat(file_id, content.size, version, self._next("r"), metadata, self._now(), commit)
        self.files[file_id] = Record(content, stat)
        return stat

    # --- another writer ----------------------------------------------------------------------------------------------

    def put_outside(self, file_id: FileId, content: Sparse, metadata: FileMetadata) -> None:
        self._keep(file_id, content, metadata)

    def remove_outside(self, file_id: FileId) -> None:
        self.files.pop(file_id, None)

    def touch_outside(self, file_id: FileId, modified: int) -> None:
        record = self.files.get(file_id)
        if record is not None:
            metadata = record.stat.metadata.changed(None, None, modified)
            stat = replace(record.stat, metadata=metadata, revision=self._next("r"), changed_ns=self._now())
            self.files[file_id] = Record(record.content, stat)


class SimulatedReader(ContentReader):
    """Reads one version: from memory where it is held, else as ranged requests that are conditional on it."""

    def __init__(self, storage: SimulatedStorage, stat: FileStat, held: Sparse | None = None) -> None:
        self.stat = stat
        self._storage = storage
        self._held = held

    def pread(self, offset: int, size: int) -> bytes:
        if self._held is not None:
            return self._held.read(offset, size)
        storage, file_id = self._storage, self.stat.file_id
        storage._meet("read", file_id, (*_ALWAYS, "damaged"))
        record = storage.files.get(file_id)
        if record is None or record.stat.version != self.stat.version:
            raise VersionChanged(f"{file_id} was replaced or deleted")
        return record.content.read(offset, size)

    def close(self) -> None:
        self._held = None


class Memory(SimulatedStorage):
    """Answers at once."""

    inline = True


class Far(SimulatedStorage):
    """A server whose listing tells everything."""


class Plain(SimulatedStorage):
    """As S3: a listing tells neither filename nor time."""

    page = 2

    def _entry(self, stat: FileStat) -> FileEntry:
        return FileEntry(stat.file_id, stat.size, stat.revision, stat.changed_ns)


class Local(LocalFileStorage, Watched):
    """The real storage in a directory of the simulated disk."""

    def __init__(self, world: World, path: str) -> None:
        super().__init__(path)
        self.world = world
        self._path = path

    def stored(self, file_id: FileId) -> Sparse | None:
        try:
            with closing(self.open_content(file_id)) as reader:
                fd = reader.fileno()
                assert fd is not None
                return of_file(fd, reader.stat.size)
        except FileNotStored:
            return None

    def stored_ids(self) -> set[FileId]:
        return {FileId(file_id) for file_id in self.list()}

    def surviving(self) -> Local:
        return Local(self.world, self._path)

    def put_outside(self, file_id: FileId, content: Sparse, metadata: FileMetadata) -> None:
        with self.world.undisturbed():
            self.put(BytesContent(content.read(0, content.size)), metadata, file_id=file_id)

    def remove_outside(self, file_id: FileId) -> None:
        with self.world.undisturbed():
            self.remove(file_id)

    def touch_outside(self, file_id: FileId, modified: int) -> None:
        with self.world.undisturbed(), suppress(FileNotStored):
            self.update(self.stat(file_id), modified=modified)


def make(world: World, disk: str) -> Watched:
    """An empty storage of the kind that the settings want; a local one is in that directory."""
    kind = world.settings.kind
    if kind == "local":
        return Local(world, f"{disk}/files")
    return {"memory": Memory, "far": Far, "plain": Plain}[kind](world)
