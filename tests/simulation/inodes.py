"""What the kernel keeps: nodes, cached names, open files, the lock of a directory; and what names of a case mean."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from depotfs.types import FileId
from depotfs.vfs.names import derive
from tests.simulation.model import File, Place
from tests.simulation.plan import IDS, OWN_ID
from tests.simulation.storage import SimulatedStorage


class Refused(Exception):
    """A system call was answered with an errno."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode.get(code, str(code)))
        self.code = code

    @property
    def goes_on(self) -> bool:
        """Whether what was to be done is still under way."""
        return "it goes on" in str(self.__cause__)


@dataclass(eq=False)
class Inode:
    """What the kernel knows of a node.

    Attributes:
        file: what the model knows it as, None: one of several.
        lookups: references to give back; opens: open files; busy: calls that use it.
        version: grows with each change of the size, so that answers from before are not believed.
    """

    node_id: int
    file: File | None = None
    size: int = 0
    version: int = 0
    lookups: int = 0
    opens: int = 0
    busy: int = 0
    dentries: set[tuple[int, bytes]] = field(default_factory=set)
    lock: trio.Lock = field(default_factory=trio.Lock)


@dataclass(eq=False)
class Dentry:
    """A cached name, believed until that time."""

    inode: Inode
    until: float


@dataclass(eq=False)
class Opened:
    """An open file description; `descriptors` are the descriptors that share it.

    Attributes:
        wrote: the first content with all that was written through it since it last was closed or synced; its close
            owes that. truncated: the same of a change of the size alone, which its close need not store.
    """

    fh: int
    inode: Inode
    flags: int
    wrote: int | None = None
    truncated: int | None = None
    descriptors: int = 1

    @property
    def reads(self) -> bool:
        """Whether it may be read."""
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def writes(self) -> bool:
        """Whether it may be written."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY and self.inode.file is not None


class Directory:
    """A directory's lock: many look names up at once, one changes them."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id
        self._lock = trio.Lock()
        self._readers = 0
        self._none = trio.Condition(self._lock)

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """While inside, nobody changes it."""
        async with self._lock:
            self._readers += 1
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                async with self._lock:
                    self._readers -= 1
                    self._none.notify_all()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """While inside, nobody else is."""
        async with self._lock:
            while self._readers:
                await self._none.wait()
            yield


def place_of(name: str) -> Place:
    """What a name of a case leads to."""
    return name.removeprefix(OWN_ID)


def raw_name(name: str) -> bytes:
    """What the kernel calls a name of a case."""
    own = name.removeprefix(OWN_ID)
    return (name if own == name else derive(own, SimulatedStorage.id_form)[0]).encode()


def stored_as(place: Place) -> FileId:
    """The id under which a storage has what is at the place."""
    return FileId(place) if place in IDS else derive(place, SimulatedStorage.id_form)[0]
