"""The contract's fifth part: moves, also those whose steps fail or whose replies are lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from depotfs.errors import (
    AccessDenied,
    AlreadyStored,
    DepotError,
    FileNotStored,
    SourceLeft,
    StorageUnavailable,
    VersionChanged,
)
from depotfs.io.ids import new_uuid
from depotfs.io.interfaces import FileStorage
from depotfs.types import ABSENT, ANY, PRESENT, FileId, FileMetadata, FileStat
from tests.io.contract_sources import ABSENT_IDS, METADATA, OLD, PNG, content_of, noise, put, unchanged

OTHER = FileMetadata("другое имя.png", PNG, OLD + 1)
SOURCE, TARGET = ABSENT_IDS
Step = Callable[..., Any]


def _then_fails(step: Step) -> Step:
    """Done, but its reply is lost."""

    def wrapped(*arguments: Any, **options: Any) -> Any:
        step(*arguments, **options)
        raise StorageUnavailable("The reply was lost")

    return wrapped


def _raises(error: Exception) -> Step:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        raise error

    return wrapped


def _outcome(call: Callable[[], FileStat]) -> FileStat | DepotError:
    try:
        return call()
    except DepotError as error:
        return error


class MovesContract:
    """move. A storage that does not move by `copy` and `remove` is not touched by faults in these, and moves."""

    def test_move(self, storage: FileStorage) -> None:
        data = noise(600_000)
        for source_id, target in (ABSENT_IDS, reversed(ABSENT_IDS)):
            source = put(storage, data, source_id)
            moved = storage.move(source, target, OTHER)
            assert (moved.file_id, moved.size, moved.metadata) == (target, len(data), OTHER)
            assert storage.list() == [target]
            assert storage.stat(target) == moved
            assert content_of(storage, moved) == data
            assert not storage.exists(source_id)
            storage.remove(target)

    def test_move_of_nothing_and_of_much(self, storage: FileStorage) -> None:
        for size in (0, 17 * 1024 * 1024):
            moved = storage.move(put(storage, noise(size), SOURCE), TARGET, OTHER)
            assert content_of(storage, moved) == noise(size)
            assert storage.list() == [TARGET]

    def test_move_over_another_file(self, storage: FileStorage) -> None:
        for expect in ("its version", PRESENT, None):
            old = put(storage, b"old", TARGET)
            source = put(storage, b"source", SOURCE)
            moved = storage.move(source, TARGET, OTHER, expect=old.version if expect == "its version" else expect)
            assert moved.version != old.version
            assert (storage.stat(TARGET), content_of(storage, moved)) == (moved, b"source")
            assert storage.list() == [TARGET]

    def test_move_expecting(self, storage: FileStorage) -> None:
        source = put(storage, b"source", SOURCE)
        with unchanged(storage):
            for expect, absence in ((PRESENT, FileNotStored), ("no such version", VersionChanged)):
                with pytest.raises(absence):
                    storage.move(source, TARGET, OTHER, expect=expect)
        old = put(storage, b"old", TARGET)
        newer = put(storage, b"newer", TARGET)
        with unchanged(storage):
            for expect, error in ((ABSENT, AlreadyStored), (old.version, VersionChanged)):
                with pytest.raises(error):
                    storage.move(source, TARGET, OTHER, expect=expect)
        assert storage.move(source, TARGET, OTHER, expect=newer.version).metadata == OTHER

    def test_move_of_a_version_that_is_gone(self, storage: FileStorage) -> None:
        source = put(storage, b"source", SOURCE)
        put(storage, b"newer source", SOURCE)
        with unchanged(storage), pytest.raises(VersionChanged):
            storage.move(source, TARGET, OTHER)
        storage.remove(SOURCE)
        put(storage, b"target", TARGET)
        with unchanged(storage), pytest.raises((VersionChanged, FileNotStored)):
            storage.move(source, TARGET, OTHER)

    def test_move_there_and_back(self, storage: FileStorage) -> None:
        first = put(storage, b"data", SOURCE)
        back = storage.move(storage.move(first, TARGET, OTHER), SOURCE, METADATA)
        assert (storage.list(), content_of(storage, back), back.metadata) == ([SOURCE], b"data", METADATA)

    def test_move_to_its_own_id(self, storage: FileStorage) -> None:
        source = put(storage, b"data", SOURCE)
        with unchanged(storage):
            for expect, error in ((ABSENT, AlreadyStored), ("no such version", VersionChanged)):
                with pytest.raises(error):
                    storage.move(source, SOURCE, OTHER, expect=expect)
        for number in range(3):
            metadata = FileMetadata(f"{number}.png", PNG, OLD + number)
            source = storage.move(source, SOURCE, metadata, expect=(source.version, PRESENT, ANY)[number])
            assert source.metadata == metadata
            assert (storage.stat(SOURCE), content_of(storage, source)) == (source, b"data")
        put(storage, b"newer", SOURCE)
        with unchanged(storage), pytest.raises(VersionChanged):
            storage.move(source, SOURCE, OTHER)

    def test_commit_id_of_a_move_is_kept(self, storage: FileStorage) -> None:
        moved = storage.move(put(storage, b"x", SOURCE, commit="commit-1"), TARGET, OTHER, commit="commit-2")
        assert (moved.commit, storage.stat(TARGET).commit) == ("commit-2", "commit-2")

    @pytest.mark.parametrize("over", [False, True], ids=["", "over another"])
    @pytest.mark.parametrize("step", ["copy", "remove"])
    def test_move_whose_reply_is_lost(
        self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch, step: str, over: bool
    ) -> None:
        source, expect = put(storage, b"source", SOURCE), ABSENT
        if over:
            expect = put(storage, b"old", TARGET).version
        with monkeypatch.context() as patch:
            patch.setattr(storage, step, _then_fails(getattr(storage, step)))
            moved = storage.move(source, TARGET, OTHER, expect=expect, commit="commit-1")
        assert (storage.list(), storage.stat(TARGET)) == ([TARGET], moved)
        assert (content_of(storage, moved), moved.metadata) == (b"source", OTHER)

    @pytest.mark.parametrize("step", ["copy", "remove"])
    @pytest.mark.parametrize("error", [AccessDenied("not allowed"), StorageUnavailable("not reached")], ids=repr)
    @pytest.mark.parametrize("over", [False, True], ids=["", "over another"])
    def test_move_of_which_a_step_fails(
        self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch, step: str, error: DepotError, over: bool
    ) -> None:
        source, expect = put(storage, b"source", SOURCE), ABSENT
        if over:
            expect = put(storage, b"old", TARGET).version
        before = sorted(storage.list())
        refuse = _raises(error)
        step_of_storage: Step = getattr(storage, step)

        def refused(file: FileId | FileStat, *arguments: Any, **options: Any) -> Any:
            of_source = (file if isinstance(file, str) else file.file_id) == SOURCE
            return (refuse if of_source else step_of_storage)(file, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(storage, step, refused)
            outcome = _outcome(lambda: storage.move(source, TARGET, OTHER, expect=expect))
        if isinstance(outcome, FileStat):
            assert (storage.list(), content_of(storage, outcome)) == ([TARGET], b"source")
            return
        assert (storage.stat(SOURCE).version, content_of(storage, SOURCE)) == (source.version, b"source")
        if isinstance(outcome, SourceLeft):
            assert step == "remove"
            assert over or error.transient
            assert (storage.stat(TARGET), content_of(storage, TARGET)) == (outcome.stat, b"source")
            return
        assert outcome is error
        assert sorted(storage.list()) == before
        assert not over or content_of(storage, TARGET) == b"old"

    def test_move_that_cannot_even_look_undoes_nothing(
        self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = put(storage, b"source", SOURCE)
        gone = _raises(StorageUnavailable("gone"))

        def silent_from_now_on(*arguments: Any, **options: Any) -> None:
            patch.setattr(storage, "stat", gone)
            patch.setattr(storage, "remove", gone)
            raise StorageUnavailable("gone")

        with monkeypatch.context() as patch:
            patch.setattr(storage, "remove", silent_from_now_on)
            outcome = _outcome(lambda: storage.move(source, TARGET, OTHER, expect=ABSENT))
        assert isinstance(outcome, FileStat | SourceLeft)
        assert content_of(storage, TARGET) == b"source"
        assert {SOURCE, TARGET} >= set(storage.list())

    def test_what_comes_to_the_source_meanwhile_stays(
        self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = put(storage, b"source", SOURCE)
        remove = storage.remove

        def late(*arguments: Any, **options: Any) -> None:
            put(storage, b"of another", SOURCE)
            remove(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "remove", late)
            moved = storage.move(source, TARGET, OTHER)
        assert content_of(storage, moved) == b"source"
        if len(storage.list()) > 1:
            assert content_of(storage, SOURCE) == b"of another"

    def test_what_comes_to_the_target_meanwhile_is_not_undone(
        self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = put(storage, b"source", SOURCE)
        remove = storage.remove

        def late(file_id: FileId, **options: Any) -> None:
            if file_id == SOURCE:
                put(storage, b"of another", TARGET)
                raise AccessDenied("not allowed")
            remove(file_id, **options)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "remove", late)
            outcome = _outcome(lambda: storage.move(source, TARGET, OTHER, expect=ABSENT))
        if isinstance(outcome, FileStat):
            assert (storage.list(), content_of(storage, TARGET)) == ([TARGET], b"source")
        else:
            assert isinstance(outcome, AccessDenied)
            assert [content_of(storage, i) for i in ABSENT_IDS] == [b"source", b"of another"]

    def test_readers_of_a_target_see_whole_files(self, storage: FileStorage) -> None:
        """Content number n is n bytes of value n, and named so: any mix shows."""
        done = threading.Event()

        def moved(number: int) -> None:
            metadata = FileMetadata(f"name-{number}", PNG, OLD)
            storage.move(put(storage, bytes([number]) * number * 20_000), TARGET, metadata)

        def read() -> int:
            reads = 0
            while not done.is_set() or not reads:
                reader = storage.open_content(TARGET)
                try:
                    data = reader.pread(0, reader.stat.size)
                except VersionChanged:
                    continue
                finally:
                    reader.close()
                assert data == bytes([data[0]]) * data[0] * 20_000
                assert reader.stat.metadata.filename == f"name-{data[0]}"
                reads += 1
            return reads

        moved(1)
        with ThreadPoolExecutor(1) as pool:
            reader = pool.submit(read)
            try:
                for number in range(2, 12):
                    moved(number)
            finally:
                done.set()
            assert reader.result()
        assert storage.list() == [TARGET]

    def test_files_that_move_at_once_are_all_there(self, storage: FileStorage) -> None:
        moves = {new_uuid(): new_uuid() for _ in range(8)}
        stats = {file_id: put(storage, file_id.encode(), file_id) for file_id in moves}
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: storage.move(stats[i], moves[i], OTHER, expect=ABSENT), moves))
        assert {i: content_of(storage, FileId(i)) for i in storage.list()} == {
            target: source.encode() for source, target in moves.items()
        }
