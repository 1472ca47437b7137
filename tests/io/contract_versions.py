"""The contract's third part: versions, expectations, listings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from depotfs.errors import AlreadyStored, FileNotStored, VersionChanged
from depotfs.io.content import StreamContent
from depotfs.io.ids import new_uuid
from depotfs.io.interfaces import FileStorage
from depotfs.types import ABSENT, ANY, PRESENT, FileEntry, FileId, FileMetadata
from tests.io.contract_sources import (
    ABSENT_IDS,
    METADATA,
    OLD,
    PNG,
    OneWay,
    content_of,
    noise,
    put,
    unchanged,
)

OTHER = FileMetadata("другое имя.png", PNG, OLD + 1)
REFUSALS: list[Any] = [
    (ABSENT, AlreadyStored),
    ("no such version", VersionChanged),
]


class VersionsContract:
    """stat, pages, open_content, put, update, copy, remove."""

    def test_stat_is_exact(self, storage: FileStorage) -> None:
        for size in (0, 1, 300_000):
            stat = put(storage, noise(size))
            assert (stat.size, stat.metadata) == (size, METADATA)
            assert stat.version not in ("", "*")
            assert stat.revision
            assert abs(stat.changed_ns - time.time_ns()) < 300 * 10**9
            assert storage.stat(stat.file_id) == stat

    def test_put_takes_streams(self, storage: FileStorage) -> None:
        data = noise(300_000)
        stat = storage.put(StreamContent(OneWay(data)), METADATA, file_id=new_uuid())
        assert stat.size == len(data)
        assert content_of(storage, stat.file_id) == data

    def test_version_tells_contents_apart(self, storage: FileStorage) -> None:
        file_id = new_uuid()
        stats = [put(storage, data, file_id) for data in (b"one", b"two", b"thr")]
        assert len({stat.version for stat in stats}) == 3
        assert len({stat.revision for stat in stats}) == 3

    def test_load_gives_stat_and_content_of_one_version(self, storage: FileStorage) -> None:
        for data in (b"", noise(20_000)):
            stat = put(storage, data)
            assert storage.load(stat.file_id, 20_000) == (stat, data)
        assert storage.load(stat.file_id, 19_999) == (stat, None)
        with pytest.raises(FileNotStored):
            storage.load(ABSENT_IDS[0], 20_000)

    def test_reader_of_an_old_version(self, storage: FileStorage) -> None:
        old = put(storage, b"old", metadata=METADATA)
        new = put(storage, b"new", old.file_id, metadata=OTHER)
        with pytest.raises(VersionChanged):
            content_of(storage, old)
        assert content_of(storage, new) == b"new"
        storage.remove(old.file_id)
        with pytest.raises((VersionChanged, FileNotStored)):
            content_of(storage, new)

    def test_open_reader_never_mixes(self, storage: FileStorage) -> None:
        size = 600_000
        for by_stat in (True, False):
            stat = put(storage, b"a" * size)
            reader = storage.open_content(stat if by_stat else stat.file_id)
            assert reader.pread(0, 100) == b"a" * 100
            put(storage, b"b" * size, stat.file_id)
            for offset in (0, 50, 300_000, size - 10):
                try:
                    piece = reader.pread(offset, 10)
                except VersionChanged:
                    continue
                assert piece == b"a" * 10
            reader.close()

    @pytest.mark.parametrize("file_id", ABSENT_IDS, ids=["uuid", "objectid"])
    def test_put_expecting(self, storage: FileStorage, file_id: FileId) -> None:
        with pytest.raises(FileNotStored):
            put(storage, b"x", file_id, expect=PRESENT)
        with pytest.raises(VersionChanged):
            put(storage, b"x", file_id, expect="no such version")
        assert storage.list() == []
        first = put(storage, b"first", file_id, expect=ABSENT)
        with unchanged(storage):
            for expect, error in REFUSALS:
                with pytest.raises(error):
                    put(storage, b"refused", file_id, expect=expect)
        second = put(storage, b"second", file_id, expect=first.version)
        with unchanged(storage), pytest.raises(VersionChanged):
            put(storage, b"refused", file_id, expect=first.version)
        third = put(storage, b"third", file_id, expect=PRESENT, metadata=OTHER)
        assert len({first.version, second.version, third.version}) == 3
        put(storage, b"last", file_id, expect=ANY)
        assert content_of(storage, file_id) == b"last"
        storage.remove(file_id)
        with pytest.raises(VersionChanged):
            put(storage, b"x", file_id, expect=third.version)
        assert storage.list() == []
        put(storage, b"again", file_id, expect=ABSENT)

    def test_large_put_expecting(self, storage: FileStorage) -> None:
        """A server that takes large contents in parts has other ways to be conditional for them."""
        large = noise(17 * 1024 * 1024)
        first = put(storage, large, expect=ABSENT)
        with pytest.raises(AlreadyStored):
            put(storage, large[1:], first.file_id, expect=ABSENT)
        second = put(storage, large[2:], first.file_id, expect=first.version)
        with pytest.raises(VersionChanged):
            put(storage, large[3:], first.file_id, expect=first.version)
        assert content_of(storage, second) == large[2:]

    def test_put_of_a_failing_source(self, storage: FileStorage) -> None:
        stat = put(storage, b"old")
        source = OneWay(noise(200_000), fail_at=100_000, error=RuntimeError("gone"))
        for file_id in (stat.file_id, ABSENT_IDS[0]):
            with unchanged(storage), pytest.raises(RuntimeError):
                storage.put(StreamContent(source), METADATA, file_id=file_id)

    def test_commit_id_is_kept(self, storage: FileStorage) -> None:
        stat = put(storage, b"x", commit="commit-1")
        assert (stat.commit, storage.stat(stat.file_id).commit) == ("commit-1", "commit-1")
        assert put(storage, b"y", stat.file_id, commit="commit-2").commit == "commit-2"
        copy = storage.copy(storage.stat(stat.file_id), ABSENT_IDS[0], OTHER, commit="commit-3")
        assert (copy.commit, storage.stat(copy.file_id).commit) == ("commit-3", "commit-3")
        assert put(storage, b"z", stat.file_id).commit == ""

    def test_commit_id_survives_an_update(self, storage: FileStorage) -> None:
        stat = put(storage, b"x", commit="commit-1")
        assert storage.update(stat, filename="new").commit == "commit-1"

    def test_update(self, storage: FileStorage) -> None:
        data = noise(600_000)
        stat = put(storage, data)
        reader = storage.open_content(stat)
        updated = storage.update(stat, filename="имя.png")
        assert updated.metadata == FileMetadata("имя.png", METADATA.content_type, OLD)
        assert updated.revision != stat.revision
        assert updated.size == stat.size
        assert storage.stat(stat.file_id) == updated
        reader.rebase(updated)
        assert reader.stat == updated
        assert reader.pread(0, len(data)) == data
        reader.close()
        again = storage.update(updated, content_type=PNG, modified=OLD + 60)
        assert again.metadata == FileMetadata("имя.png", PNG, OLD + 60)
        assert content_of(storage, again) == data
        assert storage.list() == [stat.file_id]

    def test_update_keeps_what_others_changed_since(self, storage: FileStorage) -> None:
        stale = put(storage, b"data")
        storage.update(stale, filename="theirs.png", modified=OLD + 60)
        merged = storage.update(stale, content_type=PNG)
        assert merged.metadata == FileMetadata("theirs.png", PNG, OLD + 60)
        assert storage.stat(stale.file_id).metadata == merged.metadata
        assert storage.update(stale).metadata == merged.metadata

    def test_update_of_another_version(self, storage: FileStorage) -> None:
        old = put(storage, b"old")
        put(storage, b"new", old.file_id)
        with unchanged(storage), pytest.raises(VersionChanged):
            storage.update(old, filename="x")
        storage.remove(old.file_id)
        with pytest.raises((FileNotStored, VersionChanged)):
            storage.update(old, filename="x")
        assert storage.list() == []

    def test_copy(self, storage: FileStorage) -> None:
        data = noise(600_000)
        source = put(storage, data)
        for target in ABSENT_IDS:
            copy = storage.copy(source, target, OTHER)
            assert (copy.file_id, copy.size, copy.metadata) == (target, len(data), OTHER)
            assert storage.stat(target) == copy
            assert content_of(storage, copy) == data
        assert storage.stat(source.file_id) == source
        put(storage, b"other", source.file_id)
        assert content_of(storage, ABSENT_IDS[0]) == data

    def test_copy_expecting(self, storage: FileStorage) -> None:
        source = put(storage, b"source")
        target = ABSENT_IDS[0]
        with pytest.raises(FileNotStored):
            storage.copy(source, target, OTHER, expect=PRESENT)
        with pytest.raises(VersionChanged):
            storage.copy(source, target, OTHER, expect="no such version")
        first = storage.copy(source, target, OTHER, expect=ABSENT)
        with unchanged(storage):
            for expect, error in REFUSALS:
                with pytest.raises(error):
                    storage.copy(source, target, METADATA, expect=expect)
        storage.copy(source, target, METADATA, expect=first.version)
        put(storage, b"newer source", source.file_id)
        with unchanged(storage), pytest.raises(VersionChanged):
            storage.copy(source, target, OTHER)
        storage.remove(source.file_id)
        with unchanged(storage), pytest.raises((VersionChanged, FileNotStored)):
            storage.copy(source, target, OTHER)

    def test_remove_expecting(self, storage: FileStorage) -> None:
        old = put(storage, b"old")
        new = put(storage, b"new", old.file_id)
        with unchanged(storage), pytest.raises(VersionChanged):
            storage.remove(old.file_id, expect=old.version)
        storage.remove(new.file_id, expect=new.version)
        storage.remove(new.file_id, expect=new.version)
        storage.remove(new.file_id)
        assert storage.list() == []

    def test_pages_are_in_byte_order(self, storage: FileStorage) -> None:
        ids = [FileId(f"{n:x}" * 24) for n in (0, 9, 15)] + [new_uuid() for _ in range(6)]
        stats = {file_id: put(storage, b"x" * n, file_id) for n, file_id in enumerate(ids)}
        in_order = sorted(ids, key=str.encode)
        assert [entry.file_id for entry in _entries(storage)] == in_order
        for n, after in enumerate(in_order):
            assert [entry.file_id for entry in _entries(storage, after)] == in_order[n + 1 :]
        storage.remove(in_order[3])
        assert [entry.file_id for entry in _entries(storage, in_order[3])] == in_order[4:]
        assert list(_entries(storage, "g")) == []
        for entry in _entries(storage):
            stat = stats[entry.file_id]
            assert entry.size in (None, stat.size)
            young = stat.revision.partition("+")[
                0
            ]  # on S3 a file of this very second has a revision that is not listed
            assert entry.revision in (None, stat.revision, young)
            assert entry.changed_ns in (None, stat.changed_ns)
            assert entry.stat in (None, stat)


def _entries(storage: FileStorage, after: str = "") -> Iterator[FileEntry]:
    pages = storage.pages(after)
    assert iter(pages) is pages, "a listing must be lazy"
    for page in pages:
        yield from page
