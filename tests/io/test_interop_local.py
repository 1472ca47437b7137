"""The same directory, used by filedepot 0.12 and by us: bytes and metadata, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import depot.io.local
import pytest
from depot.io.utils import FileIntent as TheirIntent

from depotfs.io.ids import canonical
from depotfs.io.local import LocalFileStorage
from depotfs.io.utils import FileIntent
from tests.io.contract_files import NAMES
from tests.io.contract_sources import METADATA, PNG, TEXT, content_of, noise, put


@pytest.fixture
def ours(tmp_path: Path) -> LocalFileStorage:
    return LocalFileStorage(str(tmp_path))


@pytest.fixture
def theirs(tmp_path: Path) -> Any:
    return depot.io.local.LocalFileStorage(str(tmp_path))


def _seen(file: Any) -> tuple[Any, ...]:
    return file.filename, file.content_type, file.content_length, file.last_modified, file.read()


CONTENTS = [b"", b"x", noise(300_000)]


def test_they_read_what_we_write(ours: LocalFileStorage, theirs: Any) -> None:
    made = [ours.create(FileIntent(data, name, PNG)) for data in CONTENTS for name in [*NAMES, "caf\udce9"]]
    assert sorted(theirs.list()) == sorted(made)
    for file_id in made:
        assert theirs.exists(file_id)
        assert _seen(theirs.get(file_id)) == _seen(ours.get(file_id))


def test_we_read_what_they_write(ours: LocalFileStorage, theirs: Any) -> None:
    made = [theirs.create(TheirIntent(data, name, PNG)) for data in CONTENTS for name in [*NAMES, "caf\udce9"]]
    assert sorted(ours.list()) == sorted(made)
    for file_id in made:
        assert ours.exists(file_id)
        assert _seen(ours.get(file_id)) == _seen(theirs.get(file_id))
        assert content_of(ours, canonical(file_id)) == theirs.get(file_id).read()


def test_metadata_file_has_the_same_bytes(
    ours: LocalFileStorage, theirs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("depot.io.utils.timestamp", "depotfs.io.utils.timestamp"):
        monkeypatch.setattr(module, lambda: "2001-02-03 04:05:06")
    for name in NAMES:
        pair = [storage.create(b"data", name, 'a/b; c="д"') for storage in (ours, theirs)]
        written = {(tmp_path / file_id / "metadata.json").read_bytes() for file_id in pair}
        assert len(written) == 1


def test_each_replaces_and_deletes_the_others(ours: LocalFileStorage, theirs: Any, tmp_path: Path) -> None:
    file_id = ours.create(b"1", "one.txt", TEXT)
    theirs.replace(file_id, b"22", "two.png", PNG)
    assert _seen(ours.get(file_id))[:3] == ("two.png", PNG, 2)
    ours.replace(file_id, b"333")
    assert _seen(theirs.get(file_id))[:3] == ("two.png", PNG, 3)
    stat = ours.stat(canonical(file_id))
    ours.update(stat, filename="renamed.png", modified=METADATA.modified)
    assert theirs.get(file_id).filename == "renamed.png"
    assert theirs.get(file_id).last_modified == ours.get(file_id).last_modified
    theirs.delete(file_id)
    assert not ours.exists(file_id)
    other = theirs.create(b"x")
    ours.delete(other)
    assert theirs.list() == []
    assert list(tmp_path.iterdir()) == []


def test_their_backup_of_our_storage(ours: LocalFileStorage, tmp_path: Path) -> None:
    """filedepot's own loop, from our storage, through its classes."""
    stat = put(ours, b"data")
    theirs = depot.io.local.LocalFileStorage(str(tmp_path))
    target = depot.io.local.LocalFileStorage(str(tmp_path / "backup"))
    for file_id in ours.list():
        file = theirs.get(file_id)
        target.replace(file, file)
    assert _seen(LocalFileStorage(tmp_path / "backup").get(stat.file_id))[:3] == ("name.txt", TEXT, 4)


def test_our_backup_of_their_storage(theirs: Any, tmp_path: Path) -> None:
    file_id = theirs.create(b"data", "a.txt")
    modified = theirs.get(file_id).last_modified
    target = LocalFileStorage(tmp_path / "backup")
    for listed in theirs.list():
        file = theirs.get(listed)
        assert target.replace(file, file) == listed
    assert _seen(target.get(file_id)) == ("a.txt", TEXT, 4, modified, b"data")


def test_files_that_they_left_half_written(ours: LocalFileStorage, theirs: Any, tmp_path: Path) -> None:
    class Failing:
        def read(self, size: int = -1) -> bytes:
            raise RuntimeError("the source is gone")

    whole = theirs.create(b"old", "a.txt")
    with pytest.raises(RuntimeError):
        theirs.create(Failing(), "a", "b/c")
    with pytest.raises(RuntimeError):
        theirs.replace(whole, Failing(), "a", "b/c")
    assert len(theirs.list()) == 2
    assert ours.list() == []
    for file_id in theirs.list():
        assert not ours.exists(file_id)
        with pytest.raises(OSError, match="not existing"):
            ours.get(file_id)
        with pytest.raises(OSError, match="not existing"):
            theirs.get(file_id)
        put(ours, b"mended", canonical(file_id))
        assert theirs.get(file_id).read() == b"mended"


def test_odd_metadata_mean_the_same(ours: LocalFileStorage, theirs: Any, tmp_path: Path) -> None:
    file_id = ours.create(b"data", "a.txt")
    described = tmp_path / file_id / "metadata.json"
    described.write_text(json.dumps({"content_length": 4, "last_modified": "2001-02-03 04:05:06"}))
    assert _seen(ours.get(file_id)) == _seen(theirs.get(file_id))
    described.write_text("{")
    for storage in (ours, theirs):
        with pytest.raises(ValueError, match="Invalid file metadata"):
            storage.get(file_id)
