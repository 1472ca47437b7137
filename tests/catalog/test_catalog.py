"""The catalog: remembered by revision, over restarts; never a reason not to start."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from depotfs.catalog import Catalog
from depotfs.types import FileId, FileMetadata, FileStat

S3, GRIDFS = "s3:http://localhost:9000/avatars/", "gridfs:mongodb://localhost/depot/avatars"


def stat(number: int, **changed: Any) -> FileStat:
    """A stored file of its own for each number."""
    some = FileStat(
        file_id=FileId(f"{number:024x}"),
        size=number,
        version=f"v{number}",
        revision=f"r{number}",
        metadata=FileMetadata("Привет-мир-🎉.txt", "text/plain", 1_700_000_000),
        changed_ns=1_700_000_000_123_456_789,
        commit="c1",
        checksum="md5:00",
    )
    return replace(some, **changed)


def opened(path: Path, rows: int = 1000) -> Catalog:
    catalog = Catalog(str(path), rows)
    catalog.open()
    return catalog


def find(catalog: Catalog, wanted: FileStat, identity: str = S3) -> FileStat | None:
    return catalog.find(identity, wanted.file_id, wanted.revision)


def test_what_is_remembered_is_found_at_once_and_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "catalog"
    catalog = opened(path)
    assert find(catalog, stat(1)) is None
    catalog.remember(S3, [stat(1), stat(2)])
    catalog.remember(GRIDFS, [stat(1, size=99)])
    for _ in range(2):
        assert find(catalog, stat(1)) == stat(1)
        assert find(catalog, stat(1), GRIDFS) == stat(1, size=99)
        assert find(catalog, stat(2), GRIDFS) is None
        catalog.close()
        catalog.close()
        catalog = opened(path)
    catalog.close()


def test_only_the_asked_revision_is_found_and_only_the_last_one_is_kept(tmp_path: Path) -> None:
    catalog = opened(tmp_path / "c")
    catalog.remember(S3, [stat(1)])
    assert catalog.find(S3, stat(1).file_id, "r2") is None
    catalog.remember(S3, [stat(1, revision="r2", size=5)])
    for _ in range(2):
        assert find(catalog, stat(1)) is None
        assert catalog.find(S3, stat(1).file_id, "r2") == stat(1, revision="r2", size=5)
        catalog.close()
        catalog = opened(tmp_path / "c")
    catalog.close()


def test_what_is_forgotten_is_not_found_whether_written_or_not(tmp_path: Path) -> None:
    catalog = opened(tmp_path / "c")
    catalog.remember(S3, [stat(1), stat(2), stat(3)])
    catalog.flush()
    catalog.remember(S3, [stat(4)])
    for number in (1, 4):
        catalog.forget(S3, stat(number).file_id)
    catalog.forget(S3, stat(3).file_id)
    catalog.remember(S3, [stat(3)])
    for _ in range(2):
        assert [number for number in range(1, 5) if find(catalog, stat(number)) is not None] == [2, 3]
        catalog.close()
        catalog = opened(tmp_path / "c")
    catalog.close()


def test_many_are_found_with_few_queries_and_counted(tmp_path: Path) -> None:
    catalog = opened(tmp_path / "c", rows=10_000)
    stats = [stat(number) for number in range(3000)]
    catalog.remember(S3, stats)
    catalog.close()
    catalog = opened(tmp_path / "c", rows=10_000)
    wanted = [(found.file_id, found.revision if found.size % 3 else "other") for found in stats]
    found = catalog.find_many(S3, [*wanted, (FileId("f" * 24), "r")])
    assert found == {found.file_id: found for found in stats if found.size % 3}
    assert (catalog.statistics().total_hits, catalog.statistics().total_misses) == (2000, 1001)
    assert catalog.find_many(S3, []) == {}
    catalog.close()


def test_the_least_recently_used_go_when_there_are_too_many(tmp_path: Path) -> None:
    path = tmp_path / "c"
    catalog = opened(path, rows=100)
    for number in range(100):
        catalog.remember(S3, [stat(number)])
        catalog.flush()
    catalog.close()
    catalog = opened(path, rows=100)
    # The oldest one is used again; it, and the newest, stay.
    assert find(catalog, stat(0)) is not None
    catalog.flush()
    catalog.remember(S3, [stat(number) for number in range(100, 105)])
    catalog.close()
    catalog = opened(path, rows=100)
    left = [number for number in range(105) if find(catalog, stat(number)) is not None]
    assert left == [0, *range(16, 105)]
    assert catalog.statistics().current_rows == len(left)
    catalog.close()


def test_a_batch_is_written_by_itself_and_a_killed_daemon_loses_only_the_last(tmp_path: Path) -> None:
    catalog = opened(tmp_path / "c", rows=100_000)
    for number in range(10_000):
        catalog.remember(S3, [stat(number)])
    pending = catalog.statistics().current_pending
    assert 0 < pending < 5000
    other = opened(tmp_path / "c", rows=100_000)
    assert find(other, stat(9_999 - pending)) is not None
    assert find(other, stat(9_999)) is None
    other.close()
    catalog.close()


def test_what_the_database_cannot_hold_is_not_remembered_and_the_rest_is(tmp_path: Path) -> None:
    catalog = opened(tmp_path / "c")
    odd = stat(1, metadata=FileMetadata("a\udcff", "text/plain", 0))
    catalog.remember(S3, [odd, stat(2), stat(3, changed_ns=1 << 70)])
    assert find(catalog, odd) == odd
    catalog.close()
    catalog = opened(tmp_path / "c")
    assert [number for number in (1, 2, 3) if find(catalog, stat(number)) is not None] == [2]
    catalog.close()


def rubbish(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(100_000))


def torn(path: Path) -> None:
    catalog = opened(path)
    catalog.remember(S3, [stat(number) for number in range(500)])
    catalog.close()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(8192) + content[12288:])


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE file (x)")
    connection.close()


def newer(path: Path) -> None:
    opened(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def without_a_table(path: Path) -> None:
    opened(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE file")
    connection.close()


@pytest.mark.parametrize("make", [rubbish, torn, foreign, newer, without_a_table])
def test_a_file_that_is_no_catalog_is_set_aside(
    tmp_path: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c"
    make(path)
    before = path.read_bytes()
    catalog = opened(path)
    # What is damaged further in is noticed when it is needed.
    catalog.find_many(S3, [(stat(number).file_id, f"r{number}") for number in range(500)])
    catalog.forget(S3, stat(1).file_id)
    catalog.flush()
    catalog.flush()
    catalog.remember(S3, [stat(7)])
    catalog.close()
    catalog = opened(path)
    assert find(catalog, stat(7)) == stat(7)
    catalog.close()
    assert (tmp_path / "c.damaged").read_bytes()[:100] == before[:100] or make is torn
    assert "begun anew" in caplog.text


def test_an_empty_file_becomes_a_catalog(tmp_path: Path) -> None:
    (tmp_path / "c").touch()
    catalog = opened(tmp_path / "c")
    catalog.remember(S3, [stat(1)])
    catalog.close()
    assert os.listdir(tmp_path) == ["c"]


def test_without_a_usable_disk_everything_works_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "flat").touch()
    catalog = opened(tmp_path / "flat" / "c")
    assert "memory only" in caplog.text
    catalog.remember(S3, [stat(1)])
    catalog.flush()
    assert find(catalog, stat(1)) == stat(1)
    catalog.forget(S3, stat(1).file_id)
    assert find(catalog, stat(1)) is None
    catalog.close()


def test_a_thread_may_flush_while_the_loop_goes_on(tmp_path: Path) -> None:
    catalog = opened(tmp_path / "c", rows=100_000)
    ended = threading.Event()

    def flush() -> None:
        while not ended.is_set():
            catalog.flush()

    thread = threading.Thread(target=flush)
    thread.start()
    try:
        for number in range(3000):
            catalog.remember(S3, [stat(number)])
            assert find(catalog, stat(number)) == stat(number)
            if number % 3 == 0:
                catalog.forget(S3, stat(number).file_id)
                assert find(catalog, stat(number)) is None
    finally:
        ended.set()
        thread.join()
    catalog.close()
    catalog = opened(tmp_path / "c", rows=100_000)
    wanted = [(stat(number).file_id, f"r{number}") for number in range(3000)]
    assert len(catalog.find_many(S3, wanted)) == 2000
    catalog.close()
