"""Editing: changes of one file's content and time, and what a close owes after them."""

from __future__ import annotations

from depotfs.errors import FileNotStored, Stale, VersionChanged
from depotfs.io.times import from_datetime, to_datetime
from depotfs.vfs import lookup
from depotfs.vfs.committing import Committer
from depotfs.vfs.draft import Draft
from depotfs.vfs.drafts import Drafts
from depotfs.vfs.file import File, Life
from depotfs.vfs.names import Kind
from depotfs.vfs.place import called
from depotfs.vfs.volume import Volume


class Editing:
    """Makes files writable and changes them; commits them as their storage is configured."""

    def __init__(self, drafts: Drafts, committer: Committer) -> None:
        self._drafts = drafts
        self._committer = committer

    def make(self, volume: Volume, raw: bytes) -> File:
        """Makes a file that no storage has yet: under the id of one that moved from there, else the storage's own form.

        Raises: SpoolFull, OSError of the disk.
        """
        name = volume.rules.parse(raw)
        file_id = next((i for i in name.ids if volume.directory.find_moved(i) is not None), name.ids[0])
        file = volume.add(file_id, raw if name.kind is Kind.SCRATCH else None)
        try:
            self._drafts.create(file, volume.directory.stored_at_free(file_id), called(name))
        except BaseException:
            volume.end(file, Life.UNLINKED)
            volume.settle(file)
            raise
        volume.knowledge.note_changed(file_id)
        volume.note_names_changed()
        return file

    async def truncate(self, file: File, size: int, *, commit: bool) -> None:
        """The file has that size, and if `commit`, the storage has it too, as a close would see to. TooLarge, Stale."""
        file.volume.check_size(size)
        if file.live:
            await self._committer.verify(file)
            await lookup.refresh(file)
        elif file.life is Life.CHANGED_ELSEWHERE or not file.handles:
            raise Stale(f"{file.volume.name}/{file.file_id} was {file.life.value}")
        draft = await self.writable(file, keep=min(size, file.size))
        if draft.file.size != size or not draft.changed:
            draft.truncate(size)
        if commit:
            await self.commit_as_configured(file)

    async def touch(self, file: File, modified: int) -> None:
        """It was last modified then (seconds since the epoch): in the storage, or with the commit to come. Stale …"""
        modified = from_datetime(to_datetime(modified))  # what can be stored, so that it shows no other time later
        async with file.lock:
            if file.draft is not None or not file.live:
                self._touch_draft(file, modified)
            else:
                await self._touch_stored(file, modified)

    def _touch_draft(self, file: File, modified: int) -> None:
        draft = file.draft
        if draft is None:
            return
        if not (draft.changed and file.live):
            draft.modified = modified
            return
        draft.touch(modified)
        if self._committer.queue.is_scheduled(file) and draft.due:
            self._committer.seal(file)

    async def _touch_stored(self, file: File, modified: int) -> None:
        volume = file.volume
        if file.stat is None or not volume.remote.inline:
            await lookup.refresh_locked(file)
        stat = file.stat
        assert stat is not None
        if stat.metadata.modified == modified:
            return
        with volume.knowledge.changing(stat.file_id):
            try:
                volume.know(file, await volume.remote.update(stat, modified=modified))
            except (VersionChanged, FileNotStored) as error:
                volume.end(file, Life.CHANGED_ELSEWHERE)
                raise Stale(str(error)) from error

    async def writable(self, file: File, keep: int | None) -> Draft:
        """The file's draft, with no commit of it under way. It may be longer than `keep` (None: all of it)."""
        while True:
            draft = file.draft
            if file.leaving or (draft is not None and draft.storing):
                async with file.lock:
                    pass
            elif draft is None:
                await self._drafts.begin(file, keep)
            elif not draft.writable:
                await self._drafts.renew(file, keep)
            else:
                return draft

    async def commit_as_configured(self, file: File) -> None:
        """What a close owes: a commit now, or a promise of one that survives a crash."""
        draft = file.draft
        if draft is None or not draft.changed or not file.live:
            return
        if file.scratch is None and not file.volume.options.background:
            await self._committer.commit(file)
        else:
            await self._promise(file, draft, durable=file.scratch is None)

    async def promise(self, file: File) -> None:
        """The bytes are in the journal: a crash of the daemon does not undo them. Nothing is committed yet."""
        draft = file.draft
        if draft is None or not draft.changed or not draft.writable or not file.live:
            return
        await self._committer.make_way(file, file.file_id)
        async with file.lock:
            if file.draft is draft and file.live and draft.writable:
                self._committer.seal(file)

    async def _promise(self, file: File, draft: Draft, *, durable: bool) -> None:
        await self._committer.prepare(file)  # a crash would store it over a moved file's only copy
        async with file.lock:
            if file.draft is not draft or not file.live:
                return
            try:
                if durable:
                    await self._committer.seal_durably(file)
                    self._committer.queue.schedule(file, 0)
                else:
                    self._committer.defer(file)
            except Exception as error:
                self._committer.failed(file, draft, error)
                raise

    async def sync(self, file: File) -> None:
        """The storage has the bytes, durably; of a scratch name: the spool has them, durably. As `Committer.commit`."""
        if file.life is Life.CHANGED_ELSEWHERE and file.draft is not None:
            raise changed_elsewhere(file)
        if not file.live:
            return
        if file.scratch is not None:
            async with file.lock:
                if file.draft is not None and file.draft.changed and file.live and file.scratch is not None:
                    await self._committer.seal_durably(file)
            return
        await self._committer.commit(file)
        if file.volume.remote.inline and file.stat is not None and not file.moved and file.live:
            await file.volume.remote.sync(file.file_id)


def changed_elsewhere(file: File) -> Stale:
    """What to raise about a file whose bytes cannot become what the storage has."""
    return Stale(f"{file.volume.name}/{file.file_id} was replaced by somebody else, or could not be stored")
