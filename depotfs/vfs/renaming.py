"""Renaming: rename(2), the matrix of what a name is and what it becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from depotfs.errors import AlreadyStored, FileNotStored, InvalidName, VersionChanged
from depotfs.types import FileId, FileStat
from depotfs.vfs import lookup
from depotfs.vfs.committing import Committer, Outcome
from depotfs.vfs.draft import Draft
from depotfs.vfs.drafts import Drafts
from depotfs.vfs.file import File
from depotfs.vfs.names import Kind, Name
from depotfs.vfs.place import Place, called, own_place
from depotfs.vfs.removing import Removing
from depotfs.vfs.volume import Volume

_RACES = 3
"""How often a target that others change is replaced as it is then, which is what rename(2) means."""


class Renaming:
    """Renames within one storage.

    Every method leaves everything as it was when it raises; but where the target was replaced already and the old
    name cannot be removed, both are there.
    """

    def __init__(self, drafts: Drafts, committer: Committer, removing: Removing) -> None:
        self._drafts = drafts
        self._committer = committer
        self._removing = removing

    async def rename(self, volume: Volume, old: bytes, new: bytes, *, replace: bool) -> tuple[File, File | None]:
        """`new` leads to what `old` led to. Returns the moved file and the one it replaced, if any.

        Args:
            replace: an existing `new` is replaced; else AlreadyStored.
        Raises: FileNotStored, InvalidName, and what commits, moves and removals raise.
        """
        async with volume.renaming:
            source = await lookup.find(volume, old)
            if source is None:
                raise FileNotStored(f"{volume.name}/{old!r} does not exist")
            with volume.pinned(source):
                await self._committer.verify(source)
                return source, await self._rename(source, new, replace=replace)

    async def _rename(self, source: File, new: bytes, *, replace: bool) -> File | None:
        volume = source.volume
        name = volume.rules.parse(new)
        if not name.ids:
            raise InvalidName(f"{name.text} is an id in another spelling than it is stored")
        target = await lookup.find(volume, new)
        if target is source:
            return None
        if target is not None and not replace:
            volume.settle(target)
            raise AlreadyStored(f"{volume.name}/{name.text} exists")
        with volume.pinned(target):
            if target is not None:
                await lookup.refresh(target)
            if name.kind is Kind.SCRATCH and not (target is not None and target.scratch is None):
                await self._to_scratch(source, new, name, target)
            else:
                await self._to_stored(source, name, target, replace=replace)
        return target

    @asynccontextmanager
    async def _leaving(self, target: File | None) -> AsyncIterator[None]:
        """While inside the target's lock is held and nobody opens it; its open handles keep its content."""
        if target is None:
            yield
            return
        target.leaving = True
        try:
            async with target.lock:
                await self._drafts.preserve(target)
                try:
                    yield
                except BaseException:
                    self._drafts.give_back(target)
                    target.fresh_until = -1.0  # it may have been replaced all the same
                    raise
        finally:
            target.leaving = False

    # --- to a scratch name -----------------------------------------------------------------------------------------

    async def _to_scratch(self, source: File, raw: bytes, name: Name, target: File | None) -> None:
        """Nothing changes in the storage yet: a stored file is moved when its delay ends, or the mount."""
        volume, file_id = source.volume, name.ids[0]
        place = Place(file_id, _stored_at(volume, target, file_id), name.text)
        await self._committer.make_way(source, file_id)
        async with self._leaving(target), source.lock:  # commits to where they were have ended
            if target is not None:
                place = Place(file_id, target.base, name.text)
            await self._end_made_meanwhile(source, target, file_id)
            if source.draft is not None:
                self._promise_scratch(source, source.draft, place)
            volume.knowledge.note_changed(source.file_id)
            self._take_place(source, target, place, raw)
            if source.draft is None and source.moved:
                self._committer.queue.schedule(source, volume.options.scratch_delay)
        await self._committer.sweep(volume)

    def _promise_scratch(self, source: File, draft: Draft, place: Place) -> None:
        """What is not stored yet is journalled under its new name. SpoolFull, OSError: nothing has changed."""
        queue = self._committer.queue
        if source.handles and not queue.is_scheduled(source):
            self._committer.retarget(source, place)
        else:
            self._committer.seal(source, place)
            queue.schedule(source, source.volume.options.scratch_delay)

    # --- to an id or a plain name ----------------------------------------------------------------------------------

    async def _to_stored(self, source: File, name: Name, target: File | None, *, replace: bool) -> None:
        """Takes the target's lock, then the source's; before them, and alone, that of a moved file in the way."""
        volume = source.volume
        moved = None
        if target is None:
            moved = next((found for i in name.ids if (found := volume.directory.find_moved(i)) is not None), None)
        place = _place_of(name, target, moved)
        await self._committer.make_way(source, place.file_id)
        async with self._leaving(target):
            if target is not None:
                place = _place_of(name, target, None)  # a commit of it may have ended meanwhile
            await self._replace(source, target, place, replace=replace)
        await self._committer.sweep(volume)

    async def _replace(self, source: File, target: File | None, place: Place, *, replace: bool) -> None:
        volume = source.volume
        async with source.lock:
            own = source.stat is not None and source.stat.file_id == place.file_id
            if source.moved and own and source.draft is None:
                self._committer.queue.cancel(source)  # it gets its own id back: nothing ever happened in the storage
                self._take_place(source, target, place)
            elif volume.options.background and source.draft is not None and not source.stored:
                await self._promise_replacing(source, target, place)
            else:
                await self._store_replacing(source, target, place, replace=replace)

    async def _end_made_meanwhile(self, source: File, target: File | None, file_id: FileId) -> None:
        """What was made there during the rename, by an alias or after a late answer, is replaced like the rest."""
        directory = source.volume.directory
        while (meanwhile := directory.find(file_id)) not in (None, target, source):
            assert meanwhile is not None
            async with meanwhile.lock:
                if directory.find(file_id) is meanwhile:
                    self._removing.replace(meanwhile)

    async def _promise_replacing(self, source: File, target: File | None, place: Place) -> None:
        """In the background: the promise to replace the target is in the journal, its commit is to come."""
        draft = source.draft
        assert draft is not None
        await self._committer.seal_durably(source, place)
        await self._end_made_meanwhile(source, target, place.file_id)
        if target is not None and target.draft is not None:
            draft.supersede(target.draft)
        self._take_place(source, target, place)
        self._committer.queue.schedule(source, 0)

    async def _store_replacing(self, source: File, target: File | None, place: Place, *, replace: bool) -> None:
        doubt: Exception | None = None
        races = _RACES if replace else 1
        while True:
            try:
                if source.draft is not None and source.draft.changed:
                    doubt = (await self._store(source, source.draft, place)).doubt
                else:
                    await lookup.refresh_locked(source)
                    await self._committer.move(source, place)
                break
            except (AlreadyStored, VersionChanged):
                races -= 1
                if not races:
                    raise
                place = dataclasses.replace(place, base=await source.volume.remote.find(place.file_id))
        await self._end_made_meanwhile(source, target, place.file_id)
        self._take_place(source, target, place)
        if doubt is not None:
            raise doubt

    async def _store(self, source: File, draft: Draft, place: Place) -> Outcome:
        """As the committer does; if it fails, the draft goes where it would have gone before."""
        earlier, scheduled = own_place(source, draft), self._committer.queue.is_scheduled(source)
        places = set(draft.places)
        try:
            return await self._committer.store(source, draft, place, look=True)
        except BaseException:
            draft.places = places  # what landed all the same took the place of another file, and stays
            self._committer.put_back(source, earlier, scheduled=scheduled)
            raise

    def _take_place(self, source: File, target: File | None, place: Place, scratch: bytes | None = None) -> None:
        """The source is the file of that place, and nothing of it is left elsewhere once leftovers are swept."""
        volume, file_id = source.volume, place.file_id
        if source.draft is not None:
            self._committer.abandon_attempts(source, source.draft, file_id)
        if source.over is not None and source.file_id != file_id:
            self._committer.abandon(source, source.over)
        if target is not None:
            self._removing.replace(target)
        volume.directory.move(source, file_id, scratch, place.base)
        source.forget_uses()


def _stored_at(volume: Volume, target: File | None, file_id: FileId) -> FileStat | None:
    """What is stored under an id that is `target`'s, or under which nothing is shown."""
    return target.base if target is not None else volume.directory.stored_at_free(file_id)


def _place_of(name: Name, target: File | None, moved: File | None) -> Place:
    """Where a content goes that gets this name, now that of `target`, or free since a file `moved` from there."""
    if target is not None:
        return Place(target.file_id, target.base, called(name), target.draft)
    if moved is not None and moved.stat is not None:
        return Place(moved.stat.file_id, moved.stat, called(name))
    return Place(name.ids[0], None, called(name))
