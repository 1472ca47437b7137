"""Committing: what this mount shows of a file becomes what the storage has."""

from __future__ import annotations

import logging
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from depotfs.errors import (
    AlreadyStored,
    DepotError,
    FileNotStored,
    SpoolDamaged,
    Stale,
    VersionChanged,
    mark_reported,
)
from depotfs.io.content import FileContent
from depotfs.remote.workers import in_thread
from depotfs.spool import Spool, State, Target
from depotfs.types import ABSENT, FileId, FileMetadata, FileStat
from depotfs.vfs.commit_queue import CommitQueue, Owing
from depotfs.vfs.content import OpenContent
from depotfs.vfs.draft import Draft, SpoolReader
from depotfs.vfs.drafts import Drafts
from depotfs.vfs.file import File, Life
from depotfs.vfs.landed import find_landed
from depotfs.vfs.leftovers import Leftovers
from depotfs.vfs.missing import RETRY_DELAY, Missing
from depotfs.vfs.place import Place, own_place
from depotfs.vfs.volume import Volume

_log = logging.getLogger(__name__)

_SMALL: Final = 1 << 20
"""Bytes whose copying takes no longer than handing it to a thread."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a commit that the storage took.

    Attributes:
        stat: what it has now.
        doubt: why that may not outlast a loss of power; it is told to whoever waits for the commit.
    """

    stat: FileStat
    doubt: Exception | None = None


class Committer:
    """Commits files, at once or later, and remembers those that are still to come."""

    def __init__(self, spool: Spool, drafts: Drafts) -> None:
        self.spool = spool
        self.drafts = drafts
        self.queue = CommitQueue(self._pay)

    async def commit(self, file: File) -> None:
        """The storage has what this mount shows of the file.

        Raises:
            VersionChanged, AlreadyStored: somebody else was first; the file's life is over and the bytes are held.
            DepotError, OSError: the bytes stay in the spool, and are tried again if that can help.
        """
        if file.owes:
            await self.prepare(file)
            async with file.lock:
                await self._commit(file)

    async def prepare(self, file: File) -> None:
        """Nothing is in the way of the file's commit; if that fails, the commit has failed."""
        try:
            await self.make_way(file, file.file_id)
        except Exception as error:
            async with file.lock:
                if file.owes and file.draft is not None:
                    self.failed(file, file.draft, error)
            raise

    async def _commit(self, file: File) -> None:
        if not file.owes:
            return
        if file.draft is None or not file.draft.changed:
            await self._commit_move(file)
            return
        draft = file.draft
        try:
            await self._verify(draft)
            outcome = await self.store(file, draft, own_place(file, draft))
        except Exception as error:
            self.failed(file, draft, error)
            raise
        if outcome.doubt is not None:
            raise outcome.doubt

    async def verify(self, file: File) -> None:
        """What an earlier daemon left is what it promised; else it is held, and ContentDamaged raised."""
        if file.draft is None or not file.draft.unverified:
            return
        async with file.lock:
            draft = file.draft
            if draft is None or not draft.unverified:
                return
            try:
                await self._verify(draft)
            except DepotError as error:
                self.failed(file, draft, error)
                raise

    @staticmethod
    async def _verify(draft: Draft) -> None:
        if draft.unverified and not await in_thread(draft.file.is_intact):
            raise SpoolDamaged(f"The bytes of spool file {draft.file.number} are not those that were written")
        draft.unverified = False

    # --- storing a draft -----------------------------------------------------------------------------------------

    async def store(self, file: File, draft: Draft, place: Place, *, look: bool = False) -> Outcome:
        """Stores a draft at any place in its storage, without showing it there; the file's lock is held.

        What it was made from, if that is stored elsewhere, is gone from there, or hidden until it is.
        Args:
            look: after an error the storage is asked whether it happened all the same.
        Raises: as `commit`; nothing has changed but where the journal says the bytes go, the caller decides.
        """
        volume, earlier = file.volume, file.stat
        doubt: Exception | None = None
        self.queue.cancel(file)
        with draft.stored_from():
            if not draft.file.is_summed_up:
                await in_thread(draft.file.sum_up)
            draft.file.seal(self._target(file, draft, place), durable=False)
            if place.over is not None:
                place.over.attempts.add(draft.file.target.commit)
            draft.places.add(place.file_id)
            with volume.knowledge.changing(place.file_id):
                try:
                    stat = await self._put_or_find(volume, draft)
                except Exception as error:
                    landed = await self._look_for_landed(volume, draft, error) if look else None
                    stat = landed or await self._find_taken(file, draft, error)
                    doubt = None if landed else error
        self._note_stored(file, draft, stat)
        if earlier is not None and earlier.file_id != stat.file_id:
            self.abandon(file, earlier)
        self.abandon_attempts(file, draft, stat.file_id)
        await self.sweep(volume)
        return Outcome(stat, doubt)

    async def _look_for_landed(self, volume: Volume, draft: Draft, error: Exception) -> FileStat | None:
        if draft.file.state is State.DONE or isinstance(error, AlreadyStored | VersionChanged):
            return None
        with suppress(DepotError, OSError):
            return await self._find_landed(volume, draft)
        return None

    async def _find_taken(self, file: File, draft: Draft, error: Exception) -> FileStat:
        """What the storage has, if it had taken the spool's file itself when it failed: no other is left to try with.

        Raises: `error`, if it had not; or if it does not tell what it has: who looks the name up finds out.
        """
        if draft.file.state is not State.DONE:
            raise error
        found = None
        with suppress(Exception):
            found = await self._find_landed(file.volume, draft)
        self._report(file, draft, error, "the storage's, where a loss of power may undo it")
        if found is None:
            self._give_up(file, draft)
            raise error
        return found

    @staticmethod
    def abandon(file: File, stat: FileStat) -> None:
        """What was stored of the file there is not needed any more, but by another file: `sweep` removes it."""
        if not file.volume.directory.is_needed(stat.file_id, beside=file):
            file.volume.leftovers.add(stat.file_id, {stat.version})

    @staticmethod
    def abandon_attempts(file: File, draft: Draft, own: FileId | None) -> None:
        """What may have landed of a draft elsewhere than under `own` is not needed; `sweep` removes it."""
        for file_id in draft.places - {own}:
            file.volume.leftovers.add(file_id, draft.attempts)
            draft.places.discard(file_id)

    async def sweep(self, volume: Volume) -> None:
        """Leftovers are removed, now or as soon as the storage can be asked."""
        if len(volume.leftovers) and not await volume.leftovers.remove():
            self.queue.schedule(volume.leftovers, volume.leftovers.retry_delay)

    async def _put_or_find(self, volume: Volume, draft: Draft) -> FileStat:
        """Puts the draft, unless an earlier attempt landed though its reply was lost."""
        target = draft.file.target
        if draft.failures and (found := await self._find_landed(volume, draft)):
            await volume.remote.sync(found.file_id)  # which may be what had failed
            return found
        try:
            return await self._put(volume, draft, target)
        except (AlreadyStored, VersionChanged):
            if found := await self._find_landed(volume, draft):
                return found
            expect = await self._find_expected(volume, target.file_id, target.expect or ABSENT, draft.attempts)
            if expect is None:
                raise
        # What is there, or not any more, is this mount's own doing: the terms are those of before.
        draft.file.seal(replace(target, expect=expect), durable=False)
        return await self._put(volume, draft, draft.file.target)

    @staticmethod
    async def _find_expected(volume: Volume, file_id: FileId, expected: str, attempts: set[str]) -> str | None:
        """What a commit to there can expect, where only this mount changed what is there; None: others did."""
        found = await volume.remote.find(file_id)
        ours = attempts | volume.leftovers.marks_of(file_id)
        if found is not None and not {found.commit, found.version}.isdisjoint(ours - {""}):
            return found.version
        return volume.own_changes.find_expected(file_id, expected, found)

    async def _find_landed(self, volume: Volume, draft: Draft) -> FileStat | None:
        return await find_landed(volume.remote, draft.file, self.drafts.cache)

    async def _put(self, volume: Volume, draft: Draft, target: Target) -> FileStat:
        file = draft.file
        content = FileContent(file.path, file.fd, file.size, movable=file.staged)
        metadata = FileMetadata(target.filename, target.content_type, target.modified or draft.modified)
        draft.attempts.add(target.commit)
        volume.own_changes.note_commit(target.file_id, target.commit)
        try:
            return await volume.remote.put(
                content,
                metadata,
                file_id=target.file_id,
                expect=target.expect,
                commit=target.commit,
                # A replace flushes the new content before it gives up the old: that may take long.
                quick=target.expect == ABSENT and (file.staged or file.size <= _SMALL),
            )
        finally:
            if content.moved:
                file.committed(moved=True)

    def _note_stored(self, file: File, draft: Draft, stat: FileStat) -> None:
        """The storage has it; who has the file open goes on reading the bytes from the spool's descriptor."""
        draft.file.committed()
        draft.detach()
        file.draft = None
        if file.content is not None:
            file.content.close()
            file.content = None
        if file.handles:
            file.content = OpenContent(file.volume.remote, SpoolReader(draft.file, stat), self.drafts.cache)
        else:
            draft.file.close()
        file.volume.leftovers.forget(stat.file_id)
        file.volume.know(file, stat)
        file.volume.knowledge.remember(stat)

    def _target(self, file: File, draft: Draft, place: Place) -> Target:
        metadata = place.metadata(file.stat.metadata if file.stat else None, draft.modified)
        last = draft.file.target
        # The same bytes on the same terms are the same commit, so that a repetition finds itself.
        terms = (place.file_id, place.expect, metadata.modified)
        same = draft.file.state is State.SEALED and (last.file_id, last.expect, last.modified) == terms
        return Target(
            storage=file.volume.name,
            identity=file.volume.remote.identity,
            file_id=place.file_id,
            name=place.name,
            filename=metadata.filename,
            content_type=metadata.content_type,
            modified=metadata.modified,
            expect=place.expect,
            commit=last.commit if same and last.commit else uuid.uuid4().hex,
        )

    # --- moving what is stored -----------------------------------------------------------------------------------

    async def _commit_move(self, file: File) -> None:
        """A stored file that was renamed to a scratch name is stored under the id of that name; its lock is held."""
        assert file.stat is not None
        assert file.scratch is not None
        self.queue.cancel(file)
        place = Place(file.file_id, file.over, file.scratch.decode())
        try:
            await self._move_over_own(file, place)
        except (AlreadyStored, VersionChanged, FileNotStored) as error:
            mark_reported(error)
            _log.warning(
                "%s/%s was renamed, but is no more what was renamed: %s", file.volume.name, file.scratch, error
            )
            file.volume.end(file, Life.CHANGED_ELSEWHERE)
            raise
        except Exception as error:
            mark_reported(error)
            _log.warning("%s/%s: its rename could not be stored yet: %s", file.volume.name, file.scratch, error)
            self.queue.schedule(file, file.volume.options.scratch_delay)
            raise

    async def _move_over_own(self, file: File, place: Place) -> None:
        """As `move`, also where this mount itself changed what is stored at the place."""
        commit = uuid.uuid4().hex
        file.volume.own_changes.note_commit(file.file_id, commit)
        try:
            await self.move(file, place, commit)
        except (AlreadyStored, VersionChanged):
            expect = await self._find_expected(file.volume, file.file_id, place.expect, set())
            if expect is None:
                raise
            base = None if expect == ABSENT else await file.volume.remote.find(file.file_id)
            await self.move(file, replace(place, base=base), commit)

    async def move(self, file: File, place: Place, commit: str = "") -> FileStat:
        """The storage has the file's stored content under the place's id, and not where it was; its lock is held.

        What is stored where it was stays if another file of this mount needs it.
        Raises: as the storage's `move`: nothing has changed, or who looks the names up finds out.
        """
        volume, source = file.volume, file.stat
        assert source is not None
        commit = commit or uuid.uuid4().hex
        metadata = place.metadata(source.metadata, source.metadata.modified)
        keep = volume.directory.is_needed(source.file_id, beside=file)
        change = volume.remote.copy if keep else volume.remote.move
        with volume.knowledge.changing(source.file_id, place.file_id):
            try:
                stat = await change(source, place.file_id, metadata, expect=place.expect, commit=commit)
            except Exception as error:
                stat = await self._find_moved_there(file, place, commit, error)
        if not keep:
            volume.own_changes.note_removed(source.file_id, source.version)
        if file.content is not None and file.content.fd is None:
            file.content.close()  # the same bytes are read from where they are now
            file.content = None
        volume.leftovers.forget(stat.file_id)
        volume.know(file, stat)
        volume.knowledge.remember(stat)
        return stat

    async def _find_moved_there(self, file: File, place: Place, commit: str, error: Exception) -> FileStat:
        """What is stored at the place, if it is what was to be moved there, its reply lost. Else raises `error`.

        Where it was is looked at by whoever removes it: it may be there still.
        """
        found = None
        with suppress(DepotError, OSError):
            found = await file.volume.remote.find(place.file_id)
        if found is None or found.commit != commit:
            raise error
        assert file.stat is not None
        self.abandon(file, file.stat)
        return found

    # --- moved files in the way ----------------------------------------------------------------------------------

    async def make_way(self, file: File, file_id: FileId) -> None:
        """What the storage has under that id is about to be replaced: a moved file that needs it keeps it in the spool.

        To be called without any file's lock.
        """
        while (moved := file.volume.directory.find_moved(file_id)) not in (None, file):
            assert moved is not None
            with file.volume.pinned(moved):
                async with moved.lock:
                    if file.volume.directory.find_moved(file_id) is moved:
                        await self._detach_or_end(moved)

    async def _detach_or_end(self, moved: File) -> None:
        try:
            await self.detach_moved(moved)
        except (FileNotStored, VersionChanged, Stale):
            moved.volume.end(moved, Life.CHANGED_ELSEWHERE)

    async def detach_moved(self, moved: File) -> None:
        """A moved file has its content in the spool, durably, and needs the storage's no longer; its lock is held."""
        volume = moved.volume
        draft = moved.draft
        if draft is None:
            draft = await self.drafts.take(moved)
        draft.changed = True
        try:
            await self.seal_durably(moved, own_place(moved, draft))
        except BaseException:
            if not draft.written:
                draft.drop()
                moved.draft = None
            raise
        left = moved.stat
        volume.directory.know(moved, None)
        if left is not None and volume.directory.find(left.file_id) is None:
            volume.leftovers.add(
                left.file_id, {left.version}
            )  # not shown again if what was to replace it is not stored
        self.queue.schedule(moved, volume.options.scratch_delay)

    # --- promises ------------------------------------------------------------------------------------------------

    def seal(self, file: File, place: Place | None = None) -> None:
        """The bytes are promised to land there (None: where the file is), after a crash of the daemon too."""
        draft = file.draft
        assert draft is not None
        # What was promised durably is given up only for what is as durable.
        durable = draft.sealed_earlier is not None and draft.sealed_earlier.is_durable
        draft.file.seal(self._target(file, draft, place or own_place(file, draft)), durable=durable)
        draft.acknowledge()

    def defer(self, file: File, place: Place | None = None) -> None:
        """As `seal`; the bytes are committed after the storage's scratch delay."""
        self.seal(file, place)
        self.queue.schedule(file, file.volume.options.scratch_delay)

    async def seal_durably(self, file: File, place: Place | None = None) -> None:
        """As `seal`, after a loss of power too; the file's lock is held."""
        draft = file.draft
        assert draft is not None
        target = self._target(file, draft, place or own_place(file, draft))
        with draft.stored_from():
            await in_thread(partial(draft.file.seal, target, durable=True))
        draft.acknowledge()

    def retarget(self, file: File, place: Place) -> None:
        """A file that is open for writing goes by another id or name now: so does what a crash would leave."""
        draft = file.draft
        assert draft is not None
        target = self._target(file, draft, place)
        if draft.sealed_earlier is not None:
            draft.sealed_earlier.retarget(replace(target, commit=draft.sealed_earlier.target.commit))
        draft.file.retarget(target)  # the later state, so it has the later record

    def put_back(self, file: File, place: Place, *, scheduled: bool) -> None:
        """What was to be stored elsewhere was not: it goes where it would have gone before; its lock is held."""
        draft = file.draft
        if draft is None or draft.file.state is State.DONE:
            return
        if file.scratch is not None:
            self.defer(file, place)
            return
        if scheduled:
            self.queue.schedule(file, draft.retry_delay)
        self.retarget(file, place)

    # --- what is due -----------------------------------------------------------------------------------------------

    async def _pay(self, owing: Owing) -> bool:
        """Makes a commit, or a removal, or asks, as its time has come. False: it failed."""
        if isinstance(owing, Missing):
            answered = await owing.ask()
            if not answered:
                self.queue.schedule(owing, RETRY_DELAY)
            return answered
        if isinstance(owing, Leftovers):
            removed = await owing.remove()
            if not removed:
                self.queue.schedule(owing, owing.retry_delay)
            return removed
        try:
            with owing.volume.pinned(owing):
                await self._commit_due(owing)
        except (DepotError, OSError):
            return False
        return True

    async def _commit_due(self, file: File) -> None:
        """Commits the file, unless its bytes are being changed again."""
        if file.moved or (file.draft is not None and file.draft.due):
            await self.prepare(file)
        async with file.lock:
            if file.moved or (file.draft is not None and file.draft.due):
                await self._commit(file)

    # --- failures ------------------------------------------------------------------------------------------------

    def failed(self, file: File, draft: Draft, error: Exception) -> None:
        """A commit, or the promise of one, failed: it is made again later, or waits for a person; its lock is held.

        Where the storage took the file, there is nothing to make again. Whatever time, new credentials or a person at
        the server can cure is tried again, and until then this mount shows the bytes.
        """
        if draft.file.state is State.DONE:
            return
        if isinstance(error, DepotError) and not error.curable:
            self._hold(file, draft, error)
            return
        draft.failures += 1
        draft.file.delay(str(error))
        delay = draft.retry_delay if file.scratch is None else file.volume.options.scratch_delay
        self._report(file, draft, error, f"kept in the spool and tried again in {delay:g} s")
        self.queue.schedule(file, delay)

    def retry(self, volume: Volume) -> None:
        """The storage can be reached again: what failed meanwhile is made at once."""

        def failed(owing: Owing) -> bool:
            if isinstance(owing, File):
                return owing.volume is volume and owing.draft is not None and owing.draft.failures > 0
            return owing.remote is volume.remote

        self.queue.hurry(failed)

    def _hold(self, file: File, draft: Draft, error: DepotError) -> None:
        """Trying again cannot help, as where somebody else was first: readers see theirs, ours wait for a person."""
        draft.file.hold(str(error))
        self._report(file, draft, error, "kept in the spool")
        self._give_up(file, draft)

    @staticmethod
    def _give_up(file: File, draft: Draft) -> None:
        draft.detach()
        file.draft = None
        if file.handles:
            # Handles go on reading what they wrote; nothing of it is committed any more.
            file.draft = draft
        else:
            draft.file.close()
        file.volume.end(file, Life.CHANGED_ELSEWHERE)
        file.volume.settle(file)

    @staticmethod
    def _report(file: File, draft: Draft, error: Exception, what_now: str) -> None:
        mark_reported(error)
        _log.warning(
            "commit of %s/%s (%s, %d bytes) failed: %s; spool file %d is %s",
            file.volume.name, file.file_id, draft.file.target.filename, draft.file.size, error,
            draft.file.number, what_now,
        )  # fmt: skip
