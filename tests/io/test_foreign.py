"""`adopt`: storage classes of other people, and what `FileStorage` makes of their six methods."""

from __future__ import annotations

import io
import itertools
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import depot.io.local
import pytest

from depotfs.errors import (
    AlreadyStored,
    ContentDamaged,
    FileNotStored,
    InvalidFileId,
    InvalidMetadata,
    Unsupported,
    VersionChanged,
)
from depotfs.io.content import BytesContent
from depotfs.io.foreign import ForeignStorage, adopt
from depotfs.io.interfaces import FileStorage, StoredFile
from depotfs.io.memory import MemoryFileStorage
from depotfs.types import ABSENT, ANY, PRESENT, FileId, FileMetadata
from tests.io.contract_sources import ABSENT_IDS, METADATA, OneWay, content_of, noise, put, unchanged

FILE, OTHER = ABSENT_IDS
NEW = FileMetadata("new.png", "image/png", METADATA.modified + 1)


class SixMethods:
    """A storage of nothing's class with filedepot's methods, which keeps times and takes any id."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[bytes, str, str, datetime]] = {}
        self._numbers = itertools.count(1)

    def get(self, file_or_id: Any) -> Any:
        file_id = getattr(file_or_id, "file_id", file_or_id)
        if file_id not in self.rows:
            raise OSError(f"File {file_id} not existing")
        return Row(file_id, *self.rows[file_id])

    def create(self, content: Any, filename: Any = None, content_type: Any = None) -> str:
        file_id = f"row {next(self._numbers)}"
        self._store(file_id, content, filename, content_type)
        return file_id

    def replace(self, file_or_id: Any, content: Any, filename: Any = None, content_type: Any = None) -> Any:
        file_id = getattr(file_or_id, "file_id", file_or_id)
        if file_or_id is not content and file_id not in self.rows:
            raise OSError(f"File {file_id} not existing")
        self._store(file_id, content, filename, content_type)

    def _store(self, file_id: str, content: Any, filename: Any, content_type: Any) -> None:
        data = content if isinstance(content, bytes) else content.read()
        filename = filename or getattr(content, "filename", None) or "unnamed"
        content_type = content_type or getattr(content, "content_type", None) or "application/octet-stream"
        modified = getattr(content, "last_modified", None) or datetime(2020, 1, 1)
        self.rows[file_id] = (data, filename, content_type, modified)

    def delete(self, file_or_id: Any) -> None:
        self.rows.pop(getattr(file_or_id, "file_id", file_or_id), None)

    def exists(self, file_or_id: Any) -> bool:
        return getattr(file_or_id, "file_id", file_or_id) in self.rows

    def list(self) -> Any:
        return list(self.rows)


class Row(io.BytesIO):
    """A stored file of nothing's class."""

    def __init__(self, file_id: str, data: bytes, filename: str, content_type: str, modified: datetime) -> None:
        super().__init__(data)
        self.file_id = file_id
        self.filename = filename
        self.content_type = content_type
        self.last_modified = modified
        self.content_length: int | None = len(data)


class Refusing(SixMethods):
    """Chooses its ids itself, as filedepot before 0.10."""

    def replace(self, file_or_id: Any, content: Any, filename: Any = None, content_type: Any = None) -> Any:
        if not self.exists(file_or_id):
            raise OSError(f"File {file_or_id} not existing")
        super().replace(getattr(file_or_id, "file_id", file_or_id), content, filename, content_type)


class OwnIdsOnly(SixMethods):
    """Cannot even look up an id of another form, as filedepot's GridFSStorage."""

    def _check(self, file_or_id: Any) -> None:
        file_id = getattr(file_or_id, "file_id", file_or_id)
        if not file_id.startswith("row "):
            raise ValueError(f"Invalid file id {file_id}")

    def get(self, file_or_id: Any) -> Any:
        self._check(file_or_id)
        return super().get(file_or_id)

    def exists(self, file_or_id: Any) -> bool:
        self._check(file_or_id)
        return super().exists(file_or_id)

    def replace(self, file_or_id: Any, content: Any, filename: Any = None, content_type: Any = None) -> Any:
        self._check(file_or_id)
        super().replace(file_or_id, content, filename, content_type)


class Renaming(SixMethods):
    """Takes a given id and stores under another one."""

    def replace(self, file_or_id: Any, content: Any, filename: Any = None, content_type: Any = None) -> Any:
        return self.create(content, filename, content_type)


class OurSubclass(FileStorage):
    """Somebody's subclass of ours with just the six methods."""

    def __init__(self) -> None:
        self._rows = SixMethods()

    def get(self, file_or_id: Any) -> StoredFile:
        file: StoredFile = self._rows.get(file_or_id)
        return file

    def create(self, content: Any, filename: str | None = None, content_type: str | None = None) -> str:
        return self._rows.create(content, filename, content_type)

    def replace(
        self, file_or_id: Any, content: Any, filename: str | None = None, content_type: str | None = None
    ) -> str:
        self._rows.replace(file_or_id, content, filename, content_type)
        return str(self.fileid(file_or_id))

    def delete(self, file_or_id: Any) -> None:
        self._rows.delete(file_or_id)

    def exists(self, file_or_id: Any) -> bool:
        return self._rows.exists(file_or_id)

    def list(self) -> list[str]:
        listed: list[str] = self._rows.list()
        return listed


def test_ours_is_adopted_as_it_is() -> None:
    for storage in (MemoryFileStorage(), OurSubclass()):
        assert adopt(storage) is storage


@pytest.fixture(params=["nothing's", "ours", "filedepot's"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> FileStorage:
    foreign: Any = {"nothing's": SixMethods, "ours": OurSubclass}.get(
        request.param, lambda: depot.io.local.LocalFileStorage(str(tmp_path))
    )()
    return adopt(foreign)


class TestDefaults:
    def test_six_methods_are_passed_on(self, storage: FileStorage) -> None:
        file_id = storage.create(b"data", "a.txt", "text/plain")
        file = storage.get(file_id)
        assert (file.filename, file.content_type, file.read()) == ("a.txt", "text/plain", b"data")
        assert storage.replace(file_id, b"more", "b.txt", "text/html") == file_id
        assert storage.get(file_id).read() == b"more"
        assert storage.list() == [file_id]
        assert storage.exists(file_id)
        storage.delete(file_id)
        assert not storage.exists(file_id)
        assert not storage.inline
        assert not storage.conditional
        assert storage.identity()

    def test_stat_and_content(self, storage: FileStorage) -> None:
        data = noise(700_001)
        file_id = FileId(storage.create(data, "a.txt", "text/plain"))
        stat = storage.stat(file_id)
        assert (stat.size, stat.metadata.filename, stat.metadata.content_type) == (700_001, "a.txt", "text/plain")
        reader = storage.open_content(stat)
        assert reader.stat == stat
        assert reader.pread(600_000, 10**6) == data[600_000:]
        assert reader.pread(700_001, 1) == b""
        reader.close()
        with pytest.raises(FileNotStored):
            storage.stat(OTHER)
        with pytest.raises(FileNotStored):
            storage.open_content(OTHER)

    def test_put_under_a_given_id(self, storage: FileStorage) -> None:
        stat = put(storage, b"data", FILE, expect=ABSENT)
        assert stat.file_id == FILE
        assert (stat.size, stat.metadata.filename, stat.metadata.content_type) == (4, "name.txt", "text/plain")
        assert content_of(storage, FILE) == b"data"
        with pytest.raises(AlreadyStored):
            put(storage, b"other", FILE, expect=ABSENT)
        with pytest.raises(FileNotStored):
            put(storage, b"other", OTHER, expect=PRESENT)
        with pytest.raises(VersionChanged):
            put(storage, b"other", FILE, expect="another version")
        second = put(storage, b"longer data", FILE, expect=stat.version, metadata=NEW)
        assert second.version != stat.version
        with pytest.raises(VersionChanged):
            storage.open_content(stat)
        assert storage.list() == [FILE]

    def test_update_copy_remove(self, storage: FileStorage) -> None:
        stat = put(storage, b"data", FILE)
        updated = storage.update(stat, filename="имя.txt")
        assert updated.metadata.filename == "имя.txt"
        assert content_of(storage, updated) == b"data"
        copy = storage.copy(updated, FileId("3774a1a0-0879-11e4-b658-0800277ee230"), NEW, expect=ABSENT)
        assert (content_of(storage, copy), copy.metadata.filename) == (b"data", "new.png")
        put(storage, b"longer data", FILE)
        with pytest.raises(VersionChanged):
            storage.copy(updated, OTHER, NEW)
        with unchanged(storage), pytest.raises(VersionChanged):
            storage.remove(FILE, expect=updated.version)
        storage.remove(FILE, expect=storage.stat(FILE).version)
        storage.remove(FILE, expect="gone already")
        storage.remove(copy.file_id, expect=ANY)
        assert storage.list() == []

    def test_failing_source(self, storage: FileStorage) -> None:
        failing = OneWay(b"x", fail_at=0, error=RuntimeError("gone"))
        with pytest.raises(RuntimeError):
            storage.create(failing)

    def test_pages(self, storage: FileStorage) -> None:
        ids = sorted(put(storage, b"x", FileId(f"{n:08x}{FILE[8:]}")).file_id for n in range(5))
        assert [entry.file_id for page in storage.pages() for entry in page] == ids
        assert [entry.file_id for page in storage.pages(ids[2]) for entry in page] == ids[3:]


def test_time_is_kept_where_the_class_keeps_it() -> None:
    storage = adopt(SixMethods())
    assert put(storage, b"x", FILE).metadata == METADATA
    assert storage.update(storage.stat(FILE), modified=7).metadata.modified == 7


def test_names_that_cannot_be_file_names(caplog: pytest.LogCaptureFixture) -> None:
    foreign = SixMethods()
    for name in ("fine", "also fine №1", ".", "..", "a/b", "nul\0", "", "x" * 256, "\udc80"):
        foreign.replace(row := Row(name, b"", "a", "b/c", datetime(2020, 1, 1)), row)
    storage = adopt(foreign)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert [entry.file_id for page in storage.pages() for entry in page] == ["also fine №1", "fine"]
    assert len(caplog.records) == 1
    assert "7 ids" in caplog.text


@pytest.mark.parametrize("kind", [Refusing, OwnIdsOnly, Renaming])
def test_class_that_refuses_given_ids(kind: type[SixMethods]) -> None:
    storage = adopt(kind())
    with pytest.raises(Unsupported, match=r"given id|instead of"):
        put(storage, b"x", FILE)
    assert storage.list() == []
    with pytest.raises(FileNotStored):
        storage.stat(FILE)
    file_id = FileId(storage.create(b"data", "a", "b/c"))
    assert content_of(storage, file_id) == b"data"


@pytest.mark.parametrize("kind", [SixMethods, OwnIdsOnly])
def test_existing_file_of_any_class_can_be_replaced(kind: type[SixMethods]) -> None:
    storage = adopt(kind())
    file_id = FileId(storage.create(b"data", "a", "b/c"))
    assert put(storage, b"more data", file_id, expect=PRESENT).size == 9


def test_other_errors_pass_through() -> None:
    class Failing(SixMethods):
        def replace(self, file_or_id: Any, content: Any, filename: Any = None, content_type: Any = None) -> Any:
            raise OSError(28, "No space left on device")

        def get(self, file_or_id: Any) -> Any:
            raise ConnectionResetError(104, "Connection reset by peer")

    storage = adopt(Failing())
    with pytest.raises(OSError, match="No space"):
        put(storage, b"x", FILE)
    with pytest.raises(ConnectionResetError):
        storage.stat(FILE)


def test_ids_of_ours_that_a_subclass_does_not_take() -> None:
    class Strict(OurSubclass):
        def get(self, file_or_id: Any) -> StoredFile:
            raise InvalidFileId("not mine")

    with pytest.raises(FileNotStored, match="not mine"):
        Strict().stat(FILE)


def test_invalid_metadata_is_not_absence(tmp_path: Path) -> None:
    storage = adopt(depot.io.local.LocalFileStorage(str(tmp_path)))
    put(storage, b"x", FILE)
    (tmp_path / FILE / "metadata.json").write_text("{")
    with pytest.raises(InvalidMetadata):
        storage.stat(FILE)


def test_file_that_has_not_the_length_it_claims() -> None:
    class Short(SixMethods):
        def get(self, file_or_id: Any) -> Any:
            row = super().get(file_or_id)
            row.content_length = 99
            return row

    storage = adopt(Short())
    file_id = FileId(storage.create(b"data"))
    with pytest.raises(ContentDamaged, match="4 bytes instead of 99"):
        storage.open_content(file_id)


def test_file_that_tells_no_length() -> None:
    class Silent(SixMethods):
        def get(self, file_or_id: Any) -> Any:
            row = super().get(file_or_id)
            row.content_length = None
            return row

    storage = adopt(Silent())
    file_id = FileId(storage.create(b"data"))
    assert storage.stat(file_id).size == 4
    assert content_of(storage, file_id) == b"data"


def test_file_that_is_replaced_while_it_is_read() -> None:
    class Busy(SixMethods):
        """Replaces the file under the reader, once."""

        replaced = False

        def get(self, file_or_id: Any) -> Any:
            row = super().get(file_or_id)
            if not self.replaced:
                self.replaced = True
                self.replace(file_or_id, b"the new content")
            return row

    storage = adopt(Busy())
    assert isinstance(storage, ForeignStorage)
    file_id = FileId(storage.create(b"old"))
    reader = storage.open_content(file_id)
    assert (reader.pread(0, 99), reader.stat.size) == (b"the new content", 15)
    reader.close()


def test_native_metadata_reaches_filedepot_classes(tmp_path: Path) -> None:
    storage = adopt(depot.io.local.LocalFileStorage(str(tmp_path)))
    storage.put(BytesContent(b"x"), NEW, file_id=FILE)
    assert isinstance(storage, ForeignStorage)
    file = storage.wrapped.get(FILE)
    assert (file.filename, file.content_type, file.read()) == ("new.png", "image/png", b"x")
