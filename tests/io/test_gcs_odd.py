"""Google Cloud Storage whose answers are not as they should be: listings without an end, changed and missing bytes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from depotfs.errors import (
    AccessDenied,
    ContentDamaged,
    DepotError,
    InvalidMetadata,
    StorageUnavailable,
    VersionChanged,
)
from depotfs.io import gcs_answers, gcs_listing
from depotfs.io.gcs import GCSStorage
from depotfs.io.gcs_upload import PIECE
from depotfs.types import ABSENT, PRESENT, FileId
from tests.io.contract_sources import ABSENT_IDS, METADATA, content_of, noise, put, unchanged
from tests.servers.gcs import FakeGcsServer

pytestmark = pytest.mark.xdist_group("gcs_fake")
FILE, OTHER_FILE = ABSENT_IDS
LARGE = noise(PIECE + 3_000_000)
MEDIA, UPLOAD, PIECES = {"query": "alt=media"}, {"path": "^/upload/"}, {"query": "upload_id="}
LISTING, LOOKING = {"method": "GET", "path": "/o$"}, {"method": "GET", "path": "/o/"}
GOOD = {"name": FILE, "size": "3", "generation": "5", "metageneration": "1", "updated": "2020-01-01T00:00:00Z"}


@pytest.fixture
def storage(gcs_fake: FakeGcsServer) -> Iterator[GCSStorage]:
    storage = GCSStorage(**gcs_fake.storage_options(gcs_fake.new_bucket()), timeout=5, attempts=3)
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


# --- bodies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        {"endless": " "},
        {"endless": "[", "headers": {"Content-Encoding": "identity"}},
        {"body": " ", "gzip": 64 << 20},
        {"body": "{}", "headers": {"Content-Encoding": "br"}},
        {"body": "{}", "headers": {"Content-Encoding": "gzip, gzip"}},
        {"body": "no gzip", "headers": {"Content-Encoding": "gzip"}},
        {"body": "[" * 100_000},
        {"body": '{"size": ' + "9" * 10_000 + "}"},
        {"cut": 20},
        {"substitute": ["(?s)^(.{20}).*$", r"\1"]},
    ],
    ids=lambda fault: str(fault)[:60],
)
def test_answers_are_bounded_and_checked(
    gcs_fake: FakeGcsServer, storage: GCSStorage, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]
) -> None:
    monkeypatch.setattr(gcs_answers, "_LARGEST", 1 << 20)
    stat = put(storage, b"x", FILE)
    calls: list[Callable[[], object]] = [
        lambda: storage.stat(FILE),
        lambda: put(storage, b"y", FILE, commit="c"),
        lambda: storage.update(stat, filename="n"),
        lambda: storage.copy(stat, OTHER_FILE, METADATA),
        storage.list,
    ]
    for call in calls:
        with gcs_fake.faults(fault | {"times": 99}), pytest.raises(StorageUnavailable):
            call()
    assert FILE in storage.list()


def test_a_compressed_answer_is_read(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    body = json.dumps(page(GOOD)).encode()
    with gcs_fake.faults({"body": json.loads(body)["body"], "gzip": 1, **LISTING}):
        assert storage.list() == [FILE]


@pytest.mark.parametrize(("status", "error"), [(403, AccessDenied), (500, StorageUnavailable), (404, DepotError)])
def test_of_an_endless_refusal_only_the_begin_is_read(
    gcs_fake: FakeGcsServer, storage: GCSStorage, status: int, error: type[DepotError]
) -> None:
    with gcs_fake.faults({"endless": "no\n\x1b[31m", "status": status, "times": 99}), pytest.raises(error) as raised:
        storage.stat(FILE)
    assert len(str(raised.value)) < 500
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "told", ["inf", "nan", "-5", "-inf", "1e999", "9" * 400, "99999999", "soon", "", "Mon, 99 Foo"]
)
def test_an_absurd_time_to_wait_is_none(gcs_fake: FakeGcsServer, storage: GCSStorage, told: str) -> None:
    waited: list[float] = []
    storage._requests._sleep = waited.append
    with gcs_fake.faults({"status": 503, "headers": {"Retry-After": told}}):
        assert storage.list() == []
    assert [0 < seconds < 1 for seconds in waited] == [True]
    with (
        gcs_fake.faults({"status": 503, "headers": {"Retry-After": told}, "times": 9}),
        pytest.raises(StorageUnavailable) as raised,
    ):
        storage.list()
    assert raised.value.retry_after is None


def test_more_bytes_than_asked_for_are_not_read(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    stat = put(storage, b"abc", FILE)
    endless = {"endless": "x", "status": 206, "headers": {"Content-Range": "bytes 0-2/3"}, **LOOKING}
    with gcs_fake.faults(endless):
        assert storage.open_content(stat).pread(0, 10) == b"xxx"


@pytest.mark.parametrize("told", ["", "bytes 1-3/3", "bytes */3", "bytes 0-2/4", "items 0-2/3", "bytes 0-2/"])
def test_a_range_of_something_else_is_damage(gcs_fake: FakeGcsServer, storage: GCSStorage, told: str) -> None:
    stat = put(storage, b"abc", FILE)
    other = {"body": "xyz", "status": 206, "headers": {"Content-Range": told}, "times": 9, **LOOKING}
    with gcs_fake.faults(other), pytest.raises(ContentDamaged) as raised:
        storage.open_content(stat).pread(0, 10)
    assert raised.value.transient
    shorter = {"status": 416, "times": 9, **LOOKING}  # the object has not the length that it says
    with gcs_fake.faults(shorter), pytest.raises(ContentDamaged):
        storage.open_content(stat).pread(0, 10)


# --- bytes that were cut off or changed -----------------------------------------------------------------------


def test_cut_body_is_completed(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    data = noise(1_000_000)
    reader = storage.open_content(put(storage, data, FILE))
    with gcs_fake.faults({"cut": 300_000, **MEDIA}, {"cut": 0, **MEDIA}):
        assert reader.pread(10, 900_000) == data[10:900_010]
    ranges = [entry["range"] for entry in gcs_fake.requests(storage.bucket_name) if entry["range"]]
    assert ranges == ["bytes=10-900009", "bytes=300010-900009", "bytes=300010-900009"]
    shorter = {"substitute": ["(?s)^(.{1000}).*", r"\1"], **MEDIA}  # a whole answer, but of fewer bytes
    with gcs_fake.faults(shorter):
        assert reader.pread(0, 5000) == data[:5000]
    with gcs_fake.faults({"cut": 5, "times": 99, **MEDIA}), pytest.raises(StorageUnavailable):
        reader.pread(0, 1_000_000)


def test_replaced_between_two_halves_of_a_body(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    reader = storage.open_content(put(storage, b"a" * 1_000_000, FILE))
    other = GCSStorage(**gcs_fake.storage_options(storage.bucket_name))

    def replace_meanwhile(_: float) -> None:
        put(other, b"b" * 1_000_000, FILE)

    storage._requests._sleep = replace_meanwhile
    with gcs_fake.faults({"cut": 500_000, **MEDIA}), pytest.raises(VersionChanged):
        reader.pread(0, 1_000_000)


def test_damage_on_the_way_down_is_seen(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    put(storage, noise(1000), FILE)
    composed = storage.bucket.blob(OTHER_FILE)  # it has no MD5, only a CRC32C
    composed.compose([storage.bucket.blob(FILE)] * 2)
    for file_id, data in ((FILE, noise(1000)), (OTHER_FILE, noise(1000) * 2)):
        with gcs_fake.faults({"flip": True, **MEDIA}), pytest.raises(ContentDamaged, match=file_id):
            storage.get(file_id).read()
        with gcs_fake.faults({"flip": True, **MEDIA}), pytest.raises(ContentDamaged, match=file_id):
            storage.load(file_id, 1 << 20)
        assert storage.get(file_id).read() == data


@pytest.mark.parametrize("data", [noise(1000), LARGE], ids=["small", "large"])
def test_damage_on_the_way_up_is_refused(gcs_fake: FakeGcsServer, storage: GCSStorage, data: bytes) -> None:
    put(storage, b"old", FILE)
    fault = {"flip": True, **(UPLOAD if len(data) == 1000 else PIECES)}
    with unchanged(storage), gcs_fake.faults(fault), pytest.raises(ContentDamaged):
        put(storage, data, FILE)
    assert gcs_fake.open_uploads(storage.bucket_name) == 0


def test_what_a_server_stored_wrongly_is_taken_back(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    wrong = {"substitute": ['"crc32c": "[^"]*"', '"crc32c": "AAAAAA=="'], "path": "/o"}
    with gcs_fake.faults(wrong | {"times": 2}), pytest.raises(ContentDamaged):
        put(storage, b"x", FILE)
    assert storage.list() == []
    with gcs_fake.faults(wrong):  # the answer alone was damaged
        stat = put(storage, b"x", FILE)
    assert storage.stat(FILE) == stat


# --- work in several requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("location", ["", "http://elsewhere/upload", "/x", "\\", "x" * 60_000])
def test_an_upload_that_begins_nowhere(gcs_fake: FakeGcsServer, storage: GCSStorage, location: str) -> None:
    begun = {"body": "", "headers": {"Location": location}, "times": 99, "query": "uploadType=resumable"}
    with gcs_fake.faults(begun), pytest.raises(StorageUnavailable):
        put(storage, LARGE, FILE)
    assert storage.list() == []


@pytest.mark.parametrize(
    "ranges",
    [
        ["bytes=0-99999999999"] * 99,
        ["bytes=5-10"] * 99,
        ["bytes=0--1"] * 99,
        ["0-10"] * 99,
        [""] * 99,
        ["bytes=0-1000", "bytes=0-10"] * 50,
        ["bytes=0-" + "9" * 5000] * 99,
    ],
    ids=lambda ranges: str(ranges[:2])[:60],
)
def test_an_upload_of_which_the_server_takes_nothing(
    gcs_fake: FakeGcsServer, storage: GCSStorage, ranges: list[str]
) -> None:
    faults = [{"body": "", "status": 308, "headers": {"Range": told}, "method": "PUT"} for told in ranges]
    with gcs_fake.faults(*faults), pytest.raises(StorageUnavailable):
        put(storage, LARGE, FILE)
    assert storage.list() == []


@pytest.mark.parametrize("more", [{}, {"totalBytesRewritten": "5"}, {"totalBytesRewritten": []}, {"rewriteToken": 5}])
def test_a_copy_that_never_ends(gcs_fake: FakeGcsServer, storage: GCSStorage, more: dict[str, Any]) -> None:
    stat = put(storage, b"x", FILE)
    body = json.dumps({"kind": "storage#rewriteResponse", "done": False, "rewriteToken": "t"} | more)
    with gcs_fake.faults({"body": body, "times": 99}), pytest.raises(StorageUnavailable):
        storage.copy(stat, OTHER_FILE, METADATA)
    with gcs_fake.faults({"status": 400, "query": "rewriteToken"}, rewrite_step=1), pytest.raises(StorageUnavailable):
        storage.copy(put(storage, b"xyz", FILE), OTHER_FILE, METADATA)
    assert storage.list() == [FILE]
