"""Google Cloud Storage whose answers are not as they should be: listings without an end, entries without a size."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from depotfs.errors import InvalidMetadata, StorageUnavailable
from depotfs.io import gcs_listing
from depotfs.io.gcs import GCSStorage
from depotfs.types import ABSENT, PRESENT, FileId
from tests.io.contract_sources import ABSENT_IDS, content_of, put
from tests.servers.gcs import FakeGcsServer

pytestmark = pytest.mark.xdist_group("gcs_fake")
FILE, OTHER_FILE = ABSENT_IDS
LISTING, LOOKING = {"method": "GET", "path": "/o$"}, {"method": "GET", "path": "/o/"}
GOOD = {"name": FILE, "size": "3", "generation": "5", "metageneration": "1", "updated": "2020-01-01T00:00:00Z"}


@pytest.fixture
def storage(gcs_fake: FakeGcsServer) -> Iterator[GCSStorage]:
    storage = GCSStorage(**gcs_fake.storage_options(gcs_fake.new_bucket()), timeout=5, attempts=2)
    storage._requests._sleep = lambda seconds: None
    yield storage
    storage.close()


def page(*items: Any, **more: Any) -> dict[str, Any]:
    """A fault: the answer to a listing."""
    return {"body": json.dumps({"kind": "storage#objects", "items": items, **more}), **LISTING}


# --- listings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "[]",
        '{"kind": "storage#buckets"}',
        '{"kind": "storage#objects", "items": {"name": "x"}}',
        '{"kind": "storage#objects", "items": 5}',
        '{"kind": "storage#objects", "items": [',
        '{"kind": "storage#objects", "nextPageToken": 5}',
        '{"kind": "storage#objects", "nextPageToken": true}',
        '{"kind": "storage#objects", "nextPageToken": ["x"]}',
    ],
)
def test_what_is_no_whole_listing_is_an_error(gcs_fake: FakeGcsServer, storage: GCSStorage, body: str) -> None:
    put(storage, b"x", FILE)
    with gcs_fake.faults({"body": body, "times": 9, **LISTING}), pytest.raises(StorageUnavailable) as raised:
        storage.list()
    assert raised.value.transient
    assert storage.list() == [FILE]


def test_a_listing_of_nothing_is_one(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    nothing: list[dict[str, Any]] = [{}, {"items": None}, {"items": []}, {"nextPageToken": None}, {"nextPageToken": ""}]
    for body in nothing:
        with gcs_fake.faults({"body": json.dumps({"kind": "storage#objects", **body}), **LISTING}):
            assert storage.list() == []


@pytest.mark.parametrize(
    "pages",
    [
        [page(GOOD, nextPageToken="a"), page(GOOD, nextPageToken="b"), page()],
        [page(GOOD | {"name": OTHER_FILE}, GOOD)],
        [page(GOOD, GOOD)],
        [page(GOOD, nextPageToken="a"), page(nextPageToken="a"), page()],
        [page(nextPageToken="a"), page(nextPageToken="b"), page(nextPageToken="a"), page(nextPageToken="b")] * 2,
    ],
    ids=["same page", "backwards", "twice", "same token", "tokens in a circle"],
)
def test_a_listing_that_does_not_move_on_is_an_error(
    gcs_fake: FakeGcsServer, storage: GCSStorage, monkeypatch: pytest.MonkeyPatch, pages: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(gcs_listing, "_EMPTY_PAGES", 5)
    with gcs_fake.faults(*pages), pytest.raises(StorageUnavailable, match="move on"):
        storage.list()


def test_pages_without_entries_may_come(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    pages = [page(nextPageToken="a"), page(nextPageToken="b"), page(GOOD, nextPageToken="c"), page(nextPageToken="d")]
    with gcs_fake.faults(*pages, page(GOOD | {"name": OTHER_FILE})):
        assert storage.list() == [FILE, OTHER_FILE]


# --- entries ----------------------------------------------------------------------------------------------------

ODD: list[dict[str, Any]] = [
    {"size": None},
    {"size": "1e300"},
    {"size": 1e300},
    {"size": "-1"},
    {"size": "9" * 5000},
    {"size": str(1 << 63)},
    {"size": True},
    {"size": ["3"]},
    {"generation": None},
    {"generation": "0"},
    {"generation": "five"},
    {"generation": {"value": 5}},
    {"size": "３"},
]
FOREIGN: list[dict[str, Any]] = [
    {"size": 3, "generation": 5},
    {"metageneration": None},
    {"metageneration": ["x"]},
    {"updated": None},
    {"updated": 5},
    {"updated": "99999999999999999999-01-01T00:00:00Z"},
    {"updated": "2020-13-77T99:99:99Z"},
    {"contentType": 5},
    {"contentType": {"a": "b"}},
    {"metadata": "text"},
    {"metadata": ["x-depot-filename"]},
    {"metadata": {"x-depot-filename": 5, "x-depot-modified": [], "x-depot-content-type": {}}},
    {"metadata": {"x-depot-filename": "\ud800", "x-depot-content-type": "\ud800"}},
    {"md5Hash": 5, "crc32c": "?"},
    {"md5Hash": "AAAA", "crc32c": "AAAA"},
]


def _changed(odd: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (GOOD | odd).items() if value is not None}


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_the_defect_of_one_entry_is_its_own(gcs_fake: FakeGcsServer, storage: GCSStorage, odd: dict[str, Any]) -> None:
    put(storage, b"abc", FILE)
    with gcs_fake.faults(page(_changed(odd), GOOD | {"name": OTHER_FILE})):
        [broken, whole] = [entry for entries in storage.pages() for entry in entries]
    assert (broken.file_id, broken.size, broken.stat) == (FILE, None, None)
    assert (whole.file_id, whole.size) == (OTHER_FILE, 3)
    looks_odd = {"body": json.dumps(_changed(odd)), "times": 9, **LOOKING}
    with gcs_fake.faults(looks_odd):
        for look in (storage.stat, storage.open_content, lambda file_id: storage.load(file_id, 10)):
            with pytest.raises(InvalidMetadata, match=FILE):
                look(FILE)
        put(storage, b"new", FILE, expect=PRESENT)
        put(storage, b"newer", FILE)
        storage.replace(FILE, b"newest", "a", "b/c")
    assert content_of(storage, FILE) == b"newest"
    with gcs_fake.faults(looks_odd):
        storage.delete(FILE)
    assert storage.list() == []


@pytest.mark.parametrize("odd", FOREIGN, ids=str)
def test_what_else_is_odd_is_as_of_a_foreign_object(
    gcs_fake: FakeGcsServer, storage: GCSStorage, odd: dict[str, Any]
) -> None:
    with gcs_fake.faults(page(_changed(odd)), {"body": json.dumps(_changed(odd)), **LOOKING}):
        [entry] = [entry for entries in storage.pages() for entry in entries]
        stat = storage.stat(FILE)
    assert entry.stat == stat
    assert (stat.size, stat.version, stat.checksum) == (3, "5", "")
    assert 0 <= stat.changed_ns < 2**63
    for text in (stat.metadata.filename, stat.metadata.content_type):
        assert text.encode()
    assert stat.metadata.filename in ("unnamed", "?")
    assert stat.metadata.content_type in ("application/octet-stream", "?")


def test_entries_without_a_name_are_left_out(
    gcs_fake: FakeGcsServer, storage: GCSStorage, caplog: pytest.LogCaptureFixture
) -> None:
    odd: list[Any] = [{}, {"name": 5}, "text", None, ["x"], GOOD]
    with gcs_fake.faults(page(*odd), page(*odd)), caplog.at_level(logging.WARNING):
        assert storage.list() == storage.list() == [FILE]
    assert [storage.identity() in record.getMessage() for record in caplog.records] == [True]


def test_an_answer_to_a_write_that_tells_nothing(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    """What was stored is looked for; only where it is not there, nothing is known."""
    for body in ("{}", json.dumps(_changed({"generation": None})), "", "[]"):
        done = {"substitute": ["(?s)^.*$", ""], "method": "POST", "path": "^/upload"}
        with gcs_fake.faults(done | {"substitute": ["(?s)^.+$", body]}):
            stat = put(storage, b"abc", FileId(FILE), expect=ABSENT)
        assert storage.stat(FILE) == stat
        storage.delete(FILE)
    with gcs_fake.faults({"body": "{}", "method": "POST"}), pytest.raises(StorageUnavailable):
        put(storage, b"abc", FILE)
