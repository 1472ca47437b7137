"""What the operations of a case do: programs that make system calls, another writer, the weather, a daemon's end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from depotfs.types import FileId, FileMetadata
from tests.simulation.content import Sparse, of_bytes
from tests.simulation.inodes import Opened, Refused, place_of, stored_as
from tests.simulation.model import Mutation, Outside
from tests.simulation.plan import Operation
from tests.simulation.system_calls import SystemCalls
from tests.simulation.world import World, actor

Action = Callable[..., Awaitable[None]]

_OUTSIDE: Final = 5_000_000
"""Above the largest process id of Linux: the thread ids of programs, which have no process group here."""


class Program:
    """One program: its open files, and its operations one after the other."""

    def __init__(self, world: World, kernel: SystemCalls, number: int) -> None:
        self.world = world
        self.kernel = kernel
        self.pid = _OUTSIDE + number
        self.opened: dict[int, Opened] = {}

    async def do(self, operation: Operation) -> None:
        """One operation was made, whatever it was answered."""
        await trio.sleep(operation.wait)
        actor.set(str(operation.number))
        self.world.say(str(operation))
        action: Action = getattr(self, f"_{operation.do}")
        try:
            await action(operation, **operation.with_)
        except Refused as refused:
            self.world.say(f"= {refused}")
        else:
            self.world.say("= done")

    async def close_all(self) -> None:
        """Nothing is open any more."""
        for handle in list(self.opened):
            opened = self.opened.pop(handle)
            while opened.descriptors:
                try:
                    await self.kernel.close(opened)
                except Refused as refused:
                    self.world.say(f"close = {refused}")

    # --- files -------------------------------------------------------------------------------------------------------

    async def _open(self, _: Operation, name: str, handle: int, flags: int, alias: bool) -> None:
        if handle in self.opened:
            await self._close(_, handle)
        self.opened[handle] = await self.kernel.open(name, alias, flags, self.pid)

    async def _read(self, _: Operation, handle: int, offset: int, size: int) -> None:
        opened = self.opened.get(handle)
        if opened is not None and opened.reads:
            await self.kernel.read(opened, max(0, offset - size // 2), size)

    async def _readall(self, _: Operation, handle: int) -> None:
        opened = self.opened.get(handle)
        if opened is not None and opened.reads:
            await self.kernel.read(opened, 0, 64 << 20)

    async def _write(self, operation: Operation, handle: int, offset: int, size: int) -> None:
        opened = self.opened.get(handle)
        if opened is not None and opened.writes:
            await self.kernel.write(opened, max(0, offset - size // 2), pattern(operation.number, size))

    async def _ftruncate(self, _: Operation, handle: int, size: int) -> None:
        opened = self.opened.get(handle)
        if opened is not None and opened.writes:
            await self.kernel.ftruncate(opened, size)

    async def _dup(self, _: Operation, handle: int) -> None:
        """A second descriptor, closed at once: what a shell makes of `>`."""
        opened = self.opened.get(handle)
        if opened is not None:
            opened.descriptors += 1
            await self.kernel.close(opened)

    async def _close(self, _: Operation, handle: int) -> None:
        opened = self.opened.pop(handle, None)
        if opened is not None:
            await self.kernel.close(opened)

    async def _fsync(self, _: Operation, handle: int) -> None:
        opened = self.opened.get(handle)
        if opened is not None:
            await self.kernel.fsync(opened)

    # --- names -------------------------------------------------------------------------------------------------------

    async def _truncate(self, _: Operation, name: str, size: int, alias: bool) -> None:
        await self.kernel.truncate(name, alias, size)

    async def _unlink(self, _: Operation, name: str, alias: bool) -> None:
        await self.kernel.unlink(name, alias)

    async def _rename(self, _: Operation, name: str, to: str, noreplace: bool, alias: bool) -> None:
        await self.kernel.rename(name, to, alias, noreplace=noreplace)

    async def _touch(self, _: Operation, name: str, time: int, alias: bool) -> None:
        await self.kernel.touch(name, alias, time)

    async def _stat(self, _: Operation, name: str, alias: bool) -> None:
        await self.kernel.stat(name, alias)

    async def _list(self, _: Operation, alias: bool) -> None:
        await self.kernel.list_names(alias)

    async def _fsyncdir(self, _: Operation, alias: bool) -> None:
        await self.kernel.fsyncdir(alias)

    async def _reclaim(self, _: Operation, **__: Any) -> None:
        self.kernel.reclaim()

    # --- what happens to all -----------------------------------------------------------------------------------------

    async def _outside(self, operation: Operation, act: str, name: str, size: int) -> None:
        """Another writer changes the storage, which this mount hears of when it asks."""
        model, storage = self.kernel.model, self.kernel.storage
        place = place_of(name)
        file_id = stored_as(place)
        self.world.allow_others()
        if act == "touch":
            for file in model.at(place):
                if file is not None:
                    file.modified = None
            storage.touch_outside(file_id, operation.number)
        elif act == "remove":
            if storage.stored(file_id) is not None:
                self._unsettled(Outside(next(model.numbers), place, None))
            storage.remove_outside(file_id)
        else:
            content = of_bytes(pattern(operation.number, min(size, 300)))
            content = content if size <= 300 else Sparse(size, content.extents)
            file = model.file(content, outside=True)
            file.acknowledge(0, durable=self.world.settings.kind != "local")
            self._unsettled(Outside(next(model.numbers), place, file))
            metadata = FileMetadata("outside", "text/plain", operation.number)
            storage.put_outside(FileId(file_id), content, metadata)

    def _unsettled(self, mutation: Mutation) -> None:
        mutation.late = mutation.goes_on = True  # it may be hidden by what this mount has not stored yet
        self.kernel.model.begin(mutation)

    async def _weather(self, _: Operation, kind: str, seconds: float) -> None:
        self.world.weather.add(kind)
        try:
            await trio.sleep(seconds)
        finally:
            self.world.weather.discard(kind)

    async def _crash(self, _: Operation, **__: Any) -> None:
        self.world.die()

    async def _restart(self, _: Operation, **__: Any) -> None:
        self.world.restarting = True


def pattern(number: int, size: int) -> bytes:
    """Bytes that tell which operation wrote them; none is zero."""
    mark = b"<%d>" % number
    return (mark * (size // len(mark) + 1))[:size]
