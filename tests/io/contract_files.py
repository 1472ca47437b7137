"""The contract's first part: filedepot's six methods."""

from __future__ import annotations

import io
import os
import tempfile
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from depotfs.errors import FileNotStored, InvalidFileId
from depotfs.io import utils
from depotfs.io.ids import IdForm, form_of, is_canonical
from depotfs.io.interfaces import FileStorage, StoredFile
from depotfs.io.memory import MemoryFileStorage
from depotfs.io.times import to_datetime
from depotfs.io.utils import FileIntent
from depotfs.types import FileId, FileMetadata
from tests.io.contract_sources import (
    ABSENT_IDS,
    METADATA,
    OLD,
    PNG,
    TEXT,
    Field,
    OneWay,
    TurnsToText,
    content_of,
    noise,
    put,
    unchanged,
)

NAMES = [
    "plain.txt",
    "with space.txt",
    "Привет-мир-🎉.txt",
    "100%.txt",
    "a%41%2F.txt",
    "a+b&c=d;e,f.txt",
    "quo\"te's.txt",
    "back\\slash/and/slash",
    "line\r\nbreak\ttab\x01\x7f",
    "é.txt",
    "e\u0301.txt",
    " edges ",
    "x" * 255,
]
WRONG_IDS: list[Any] = ["", "x", "../x", None, 7, "590f20fd-d941-5e6d-b65e-8496d7f4da2", "z" * 24, b"x", "a/b", []]
NO_CONTENT: list[Any] = ["text", io.StringIO("text"), None, 7, Path("x"), ["bytes"]]


def _sources(directory: Path, data: bytes) -> dict[str, Any]:
    """The same bytes in all the forms that `create` takes."""
    path = directory / "source.png"
    path.write_bytes(data)
    unnamed = tempfile.TemporaryFile()  # its name is a number  # noqa: SIM115
    unnamed.write(data)
    unnamed.seek(0)
    rolled = tempfile.SpooledTemporaryFile(max_size=10)  # noqa: SIM115
    rolled.write(data)
    rolled.seek(0)
    late = io.BytesIO(b"before" + data)
    late.seek(6)
    return {
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "BytesIO": io.BytesIO(data),
        "from its position": late,
        "file": path.open("rb"),
        "unbuffered file": path.open("rb", buffering=0),
        "text-mode file": path.open(encoding="latin-1"),
        "file without a name": unnamed,
        "rolled-over file": rolled,
        "one way": OneWay(data),
        "field": Field(data, "field.png"),
        "intent of bytes": FileIntent(data, "intent.png", PNG),
        "intent of a file": FileIntent(io.BytesIO(data), "intent.png", PNG),
        "intent of a field": FileIntent(Field(data, "field.png"), "intent.png", PNG),
    }


class FilesContract:
    """get, create, replace, delete, exists, list."""

    def test_create_get(self, storage: FileStorage) -> None:
        file_id = storage.create(b"HELLO", "a.txt", "text/x-own")
        assert type(file_id) is str
        assert is_canonical(file_id)
        assert form_of(file_id) is storage.id_form
        file = storage.get(file_id)
        assert isinstance(file, StoredFile)
        assert (file.file_id, file.filename, file.name, file.content_type) == (file_id, "a.txt", "a.txt", "text/x-own")
        assert file.content_length == 5
        assert file.read() == b"HELLO"
        assert file.read() == b""
        assert repr(file).endswith(
            f"{file_id} filename=a.txt content_type=text/x-own last_modified={file.last_modified}>"
        )
        file.close()

    def test_new_ids_are_random(self, storage: FileStorage) -> None:
        made = {storage.create(b"same") for _ in range(4)}
        assert len(made) == 4
        assert sorted(made) == sorted(storage.list())
        if storage.id_form is IdForm.UUID:
            assert {uuid.UUID(file_id).version for file_id in made} == {4}

    def test_every_source_of_content(self, storage: FileStorage, tmp_path: Path) -> None:
        data = noise(300_000)
        stored = {}
        for what, source in _sources(tmp_path, data).items():
            stored[what] = storage.get(storage.create(source)).read() == data
            if hasattr(source, "close"):
                source.close()
        assert stored == dict.fromkeys(stored, True)

    def test_stored_file_is_a_source(self, storage: FileStorage) -> None:
        data = noise(400_000)
        first = storage.get(storage.create(data, "a.png", PNG))
        second = storage.get(storage.create(first))
        assert (second.filename, second.content_type, second.read()) == ("a.png", PNG, data)
        assert second.file_id != first.file_id

    def test_empty_content(self, storage: FileStorage) -> None:
        for source in (b"", io.BytesIO(), OneWay(b"")):
            file = storage.get(storage.create(source, "a"))
            assert (file.content_length, file.read(), file.read(1)) == (0, b"", b"")
        assert len(storage.list()) == 3

    def test_names_are_kept(self, storage: FileStorage) -> None:
        files = {name: storage.get(storage.create(b"x", name)) for name in NAMES}
        assert {name: file.filename for name, file in files.items()} == {name: name for name in NAMES}

    def test_name_without_a_unicode_form_is_kept_or_refused(self, storage: FileStorage) -> None:
        name = os.fsdecode(b"caf\xe9.txt")
        try:
            file_id = storage.create(b"x", name)
        except ValueError:
            assert storage.list() == []
        else:
            assert storage.get(file_id).filename == name

    def test_types_are_kept(self, storage: FileStorage) -> None:
        kinds = ["text/plain", "text/html; charset=utf-8", 'multipart/mixed; boundary="a b"', "x-own/with+plus.dots"]
        assert [storage.get(storage.create(b"x", "a", kind)).content_type for kind in kinds] == kinds

    def test_name_and_type_are_detected(self, storage: FileStorage, tmp_path: Path) -> None:
        path = tmp_path / "photo.png"
        path.write_bytes(b"x")

        def stored(*arguments: Any) -> tuple[str | None, str | None]:
            file = storage.get(storage.create(*arguments))
            return file.filename, file.content_type

        with path.open("rb") as file:
            assert stored(file) == ("photo.png", PNG)
            assert stored(file, "own.txt") == ("own.txt", TEXT)
            assert stored(file, "own.txt", "x/y") == ("own.txt", "x/y")
            assert stored(FileIntent(file, None, None)) == ("photo.png", PNG)
        assert stored(b"x") == ("unnamed", "application/octet-stream")
        assert stored(b"x", "a.unknownending") == ("a.unknownending", "application/octet-stream")
        assert stored(Field(b"x", "f.txt", "x/field")) == ("f.txt", "x/field")
        assert stored(FileIntent(b"x", "i.txt", None), "other", "x/other") == ("i.txt", "x/other")
        with tempfile.TemporaryFile() as anonymous:
            assert stored(anonymous) == ("unnamed", "application/octet-stream")

    def test_time_is_now_in_utc(self, storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        before = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
        found = storage.get(storage.create(b"x")).last_modified
        assert found is not None
        assert found.tzinfo is None
        assert before <= found <= datetime.now(UTC).replace(tzinfo=None)
        monkeypatch.setattr(utils, "timestamp", lambda: "2001-02-03 04:05:06")
        file_id = storage.create(b"x")
        assert storage.get(file_id).last_modified == datetime(2001, 2, 3, 4, 5, 6)
        monkeypatch.setattr(utils, "timestamp", lambda: "2002-02-03 04:05:06")
        storage.replace(file_id, b"y")
        assert storage.get(file_id).last_modified == datetime(2002, 2, 3, 4, 5, 6)

    def test_replace(self, storage: FileStorage) -> None:
        file_id = storage.create(b"old", "old.txt", TEXT)
        assert storage.replace(file_id, b"new content", "new.png", PNG) == file_id
        file = storage.get(file_id)
        assert (file.filename, file.content_type, file.content_length) == ("new.png", PNG, 11)
        assert file.read() == b"new content"
        assert storage.list() == [file_id]

    def test_replace_keeps_what_nothing_tells(self, storage: FileStorage) -> None:
        file_id = storage.create(b"old", "old.png", PNG)

        def after(*arguments: Any) -> tuple[str | None, str | None]:
            storage.replace(file_id, *arguments)
            file = storage.get(file_id)
            return file.filename, file.content_type

        assert after(b"1") == ("old.png", PNG)
        assert after(b"2", None, "x/y") == ("old.png", "x/y")
        assert after(b"3", "a.unknownending") == ("a.unknownending", "x/y")
        assert after(FileIntent(b"4", "i.txt", None)) == ("i.txt", TEXT)
        assert after(Field(b"5", "f.png")) == ("f.png", PNG)
        assert storage.get(file_id).read() == b"5"

    def test_replace_by_a_stored_file(self, storage: FileStorage) -> None:
        target = storage.create(b"old", "old.txt")
        source = storage.get(storage.create(b"from another", "other.png"))
        storage.replace(target, source)
        assert storage.get(target).read() == b"from another"
        assert storage.get(target).filename == "other.png"
        storage.replace(storage.get(target), b"by its file")
        assert storage.get(target).read() == b"by its file"

    def test_unread_file_reads_what_replaced_it(self, storage: FileStorage) -> None:
        file_id = storage.create(b"old")
        file = storage.get(file_id)
        storage.replace(file_id, b"the whole new content")
        assert file.read() == b"the whole new content"

    def test_backup_into_this_storage(self, storage: FileStorage) -> None:
        source = MemoryFileStorage()
        for file_id in ABSENT_IDS:
            put(source, b"from " + file_id.encode(), file_id)
        for _ in range(2):  # a second backup finds the files there
            for found in source.list():
                file = source.get(found)
                assert storage.replace(file, file) == found
        assert sorted(storage.list()) == sorted(ABSENT_IDS)
        for file_id in ABSENT_IDS:
            copy = storage.get(file_id)
            assert (copy.filename, copy.content_type, copy.last_modified) == ("name.txt", TEXT, to_datetime(OLD))
            assert copy.read() == b"from " + file_id.encode()

    def test_backup_out_of_this_storage(self, storage: FileStorage) -> None:
        target = MemoryFileStorage()
        for file_id in ABSENT_IDS:
            put(storage, noise(300_001), file_id)
        for found in storage.list():
            file = storage.get(found)
            target.replace(file, file)
        assert [target.stat(i).metadata for i in ABSENT_IDS] == [METADATA] * 2
        assert [content_of(target, i) for i in ABSENT_IDS] == [noise(300_001)] * 2

    def test_replace_by_itself(self, storage: FileStorage) -> None:
        data = noise(700_001)
        file_id = put(storage, data).file_id
        file = storage.get(file_id)
        assert storage.replace(file, file) == file_id
        assert content_of(storage, file_id) == data
        assert storage.stat(file_id).metadata == METADATA

    def test_delete(self, storage: FileStorage) -> None:
        file_id, other = storage.create(b"x"), storage.create(b"y")
        storage.delete(file_id)
        storage.delete(file_id)
        assert not storage.exists(file_id)
        assert storage.list() == [other]
        storage.delete(storage.get(other))
        assert storage.list() == []

    def test_exists(self, storage: FileStorage) -> None:
        file_id = storage.create(b"")
        assert storage.exists(file_id) is True
        assert storage.exists(storage.get(file_id)) is True
        assert [storage.exists(absent) for absent in ABSENT_IDS] == [False, False]

    def test_list_of_nothing(self, storage: FileStorage) -> None:
        assert storage.list() == []
        assert [entry for page in storage.pages() for entry in page] == []

    def test_list_has_every_file_once(self, storage: FileStorage) -> None:
        made = [storage.create(b"x", "same.txt") for _ in range(5)] + [storage.create(b"x") for _ in range(3)]
        assert sorted(storage.list()) == sorted(made)

    def test_missing_file(self, storage: FileStorage) -> None:
        for file_id in ABSENT_IDS:
            calls: list[Callable[[FileId], object]] = [
                storage.get,
                storage.stat,
                storage.open_content,
                lambda i: storage.replace(i, b"x", "a", "b/c"),
                lambda i: storage.replace(i, b"x"),
            ]
            for call in calls:
                with pytest.raises(FileNotStored, match=file_id):
                    call(file_id)
            with pytest.raises(OSError, match=file_id):
                storage.get(file_id)
            storage.delete(file_id)
        assert storage.list() == []

    @pytest.mark.parametrize("wrong", WRONG_IDS, ids=repr)
    def test_wrong_id(self, storage: FileStorage, wrong: Any) -> None:
        for call in (
            lambda: storage.get(wrong),
            lambda: storage.replace(wrong, b"x"),
            lambda: storage.delete(wrong),
            lambda: storage.exists(wrong),
        ):
            with pytest.raises(InvalidFileId):
                call()

    def test_ids_in_every_spelling(self, storage: FileStorage) -> None:
        for file_id in ABSENT_IDS:
            put(storage, file_id.encode(), file_id)
        dashed, short = ABSENT_IDS
        parsed = uuid.UUID(dashed)
        for spelling in (dashed.upper(), "{%s}" % dashed, parsed.urn, parsed.hex, parsed):
            assert storage.exists(spelling)
            file = storage.get(spelling)
            assert (file.file_id, file.read()) == (dashed, dashed.encode())
        assert storage.get(short.upper()).read() == short.encode()
        storage.replace(dashed.upper(), b"new")
        assert content_of(storage, dashed) == b"new"
        storage.delete(parsed)
        storage.delete(short.upper())
        assert storage.list() == []

    def test_is_id(self, storage: FileStorage) -> None:
        assert all(storage.is_id(file_id) for file_id in ABSENT_IDS)
        assert not any(storage.is_id(text) for text in ("", "a/b", "photo.jpg", ABSENT_IDS[0].upper()))

    @pytest.mark.parametrize("wrong", NO_CONTENT, ids=lambda wrong: type(wrong).__name__)
    def test_wrong_content_changes_nothing(self, storage: FileStorage, wrong: Any) -> None:
        file_id = storage.create(b"old", "a")
        with unchanged(storage):
            calls: list[Callable[[], object]] = [
                lambda: storage.create(wrong),
                lambda: storage.create(wrong, "a.txt", TEXT),
                lambda: storage.replace(file_id, wrong),
                lambda: storage.replace(file_id, wrong, "a.txt", TEXT),
            ]
            for call in calls:
                with pytest.raises(TypeError):
                    call()

    def test_wrong_name_or_type_changes_nothing(self, storage: FileStorage) -> None:
        with pytest.raises(TypeError):
            storage.create(b"x", 7)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            storage.create(b"x", "a", b"text/plain")  # type: ignore[arg-type]
        assert storage.list() == []

    def test_source_that_fails_changes_nothing(self, storage: FileStorage) -> None:
        file_id = storage.create(b"old", "a")
        for fail_at in (0, 100_000):
            source = OneWay(noise(200_000), fail_at=fail_at, error=RuntimeError("the source is gone"))
            with unchanged(storage):
                with pytest.raises(RuntimeError, match="the source is gone"):
                    storage.create(source)
                with pytest.raises(RuntimeError, match="the source is gone"):
                    storage.replace(file_id, source)
        with unchanged(storage):
            with pytest.raises(TypeError):
                storage.create(TurnsToText())
            with pytest.raises(TypeError):
                storage.replace(file_id, TurnsToText())

    def test_buffer_that_changes_later(self, storage: FileStorage) -> None:
        buffer = bytearray(b"before")
        file_id = storage.create(buffer)
        buffer[:] = b"after!"
        assert storage.get(file_id).read() == b"before"

    def test_metadata_of_any_time(self, storage: FileStorage) -> None:
        for modified in (0, 1, OLD, 4_102_444_800, -86_400 * 365):
            stat = put(storage, b"x", metadata=FileMetadata("a", "b/c", modified))
            assert stat.metadata.modified == modified
            assert storage.get(stat.file_id).last_modified == to_datetime(modified)

    def test_urls(self, storage: FileStorage) -> None:
        file = storage.get(storage.create(b"x"))
        assert file.public_url is None or file.public_url.startswith("http")
        presigned = file.presigned_url(60)
        assert presigned is None or presigned.startswith("http")

    def test_identity_names_the_place(self, storage: FileStorage) -> None:
        assert storage.identity()
        assert storage.identity() == storage.identity()
        assert FileId(storage.fileid(storage.get(storage.create(b"x")))) in storage.list()
