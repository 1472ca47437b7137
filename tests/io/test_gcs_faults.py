"""Google Cloud Storage that fails, throttles, loses answers, cuts bodies short and damages bytes."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from depotfs.errors import (
    AccessDenied,
    AlreadyStored,
    ConfigurationError,
    DepotError,
    FileNotStored,
    InvalidMetadata,
    QuotaExceeded,
    StorageMissing,
    StorageUnavailable,
    TooLarge,
    VersionChanged,
)
from depotfs.io.content import BytesContent, StreamContent
from depotfs.io.gcs import GCSStorage
from depotfs.io.gcs_requests import GcsRequests
from depotfs.io.gcs_upload import PIECE
from depotfs.types import ABSENT, PRESENT, FileId, FileMetadata
from tests.io.contract_sources import ABSENT_IDS, METADATA, OneWay, content_of, noise, put, unchanged
from tests.servers.gcs import FakeGcsServer
from tests.servers.process import free_port

pytestmark = pytest.mark.xdist_group("gcs_fake")
FILE, OTHER_FILE = ABSENT_IDS
LARGE = noise(PIECE + 3_000_000)
MEDIA, UPLOAD, PIECES = {"query": "alt=media"}, {"path": "^/upload/"}, {"query": "upload_id="}


class Waits:
    """In place of time.sleep: remembers the seconds."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def storage(gcs_fake: FakeGcsServer, waits: Waits) -> Iterator[GCSStorage]:
    options = gcs_fake.storage_options(gcs_fake.new_bucket())
    storage = GCSStorage(**options, timeout=5, attempts=3)
    storage._requests._sleep = waits
    yield storage
    storage.close()


def asked(server: FakeGcsServer, storage: GCSStorage) -> list[dict[str, Any]]:
    return server.requests(storage.bucket_name)


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_what_passes_is_tried_again(gcs_fake: FakeGcsServer, storage: GCSStorage, waits: Waits, status: int) -> None:
    with gcs_fake.faults({"status": status, "times": 2}):
        put(storage, b"x", FILE)
    assert content_of(storage, FILE) == b"x"
    first, second = waits.seconds
    assert 0.1 < first < 0.26
    assert 0.2 < second < 0.51


def test_what_does_not_pass_is_reported(gcs_fake: FakeGcsServer, storage: GCSStorage, waits: Waits) -> None:
    put(storage, b"x", FILE)
    before = len(asked(gcs_fake, storage))
    for call in (
        lambda: storage.stat(FILE),
        lambda: storage.list(),
        lambda: storage.remove(FILE),
        lambda: put(storage, b"y", FILE),
    ):
        with (
            gcs_fake.faults({"status": 503, "times": 99, "headers": {"Retry-After": "7"}}),
            pytest.raises(StorageUnavailable, match="503") as raised,
        ):
            call()
        assert raised.value.retry_after == 7
        assert raised.value.transient
    assert len(asked(gcs_fake, storage)) == before + 4 * 3
    assert [7 <= seconds < 8 for seconds in waits.seconds] == [True] * 8
    assert content_of(storage, FILE) == b"x"


def test_a_long_wait_is_the_callers(gcs_fake: FakeGcsServer, storage: GCSStorage, waits: Waits) -> None:
    with (
        gcs_fake.faults({"status": 429, "headers": {"Retry-After": "3600"}}),
        pytest.raises(StorageUnavailable) as raised,
    ):
        storage.exists(FILE)
    assert (raised.value.retry_after, waits.seconds) == (3600, [])
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 20))
    with gcs_fake.faults({"status": 429, "headers": {"Retry-After": later}}):
        assert storage.exists(FILE) is False
    assert 15 < waits.seconds[0] < 23


HTML = {"body": "<html>please log in</html>", "type": "text/html"}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 400, "body": ""}, DepotError),
        ({"status": 400}, DepotError),
        ({"status": 401}, AccessDenied),
        ({"status": 403}, AccessDenied),
        ({"status": 403, "body": ""}, AccessDenied),
        ({"status": 403, "reason": "quotaExceeded"}, QuotaExceeded),
        ({"status": 404, "body": '{"error": {"message": "The specified bucket does not exist."}}'}, StorageMissing),
        ({"status": 405}, DepotError),
        ({"status": 409}, StorageUnavailable),
        ({"status": 410}, DepotError),
        ({"status": 413, "body": ""}, TooLarge),
        ({"status": 501, "times": 3}, StorageUnavailable),
        ({"status": 507, "body": "", "times": 3}, StorageUnavailable),
        (HTML | {"times": 3}, StorageUnavailable),
        (HTML | {"status": 302, "times": 3, "headers": {"Location": "http://elsewhere/"}}, StorageUnavailable),
        (HTML | {"status": 404, "times": 3}, StorageUnavailable),
        (HTML | {"status": 412, "times": 3}, StorageUnavailable),
        ({"status": 412, "method": "P|D"}, StorageUnavailable),  # though the condition holds
        ({"status": 404, "body": '{"message": "no route matched"}', "times": 3}, StorageUnavailable),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [1, len(LARGE)], ids=["small", "large"])
def test_refusals_by_cause(
    gcs_fake: FakeGcsServer, storage: GCSStorage, fault: dict[str, Any], error: type[DepotError], size: int
) -> None:
    """Each can be cured by time, or by somebody at the server, or at the proxy before it."""
    stat = put(storage, b"x", FILE)
    calls: list[Callable[[], object]] = [
        lambda: storage.stat(FILE),
        lambda: put(storage, LARGE[:size], FILE, expect=stat.version),
        lambda: storage.update(stat, filename="a"),
        lambda: storage.copy(stat, OTHER_FILE, METADATA),
        lambda: storage.remove(FILE),
        storage.list,
    ]
    for call in calls[1:-1] if "method" in fault else calls:
        with gcs_fake.faults(fault), pytest.raises(error) as raised:
            call()
        assert type(raised.value) is error
        assert raised.value.curable
        assert raised.value.transient == (error in (StorageUnavailable, QuotaExceeded))
    assert content_of(storage, FILE) == b"x"
    assert storage.list() == [FILE]


def test_metadata_that_does_not_fit_can_never_be_stored(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    """The service takes 8 KiB of it (https://cloud.google.com/storage/quotas#objects)."""
    stat = put(storage, b"x", FILE)
    before = len(asked(gcs_fake, storage))
    calls: list[Callable[[], object]] = [
        lambda: put(storage, b"y", metadata=FileMetadata("я" * 1400, "a/b", 0)),
        lambda: storage.update(stat, filename="n" * 8192),
        lambda: storage.update(stat, content_type="\ud800"),
        lambda: storage.copy(stat, OTHER_FILE, FileMetadata("a", "n" * 8192, 0)),
    ]
    for call in calls:
        with pytest.raises(InvalidMetadata) as raised:
            call()
        assert not raised.value.curable
    assert len(asked(gcs_fake, storage)) == before
    told = {"status": 400, "body": '{"error": {"message": "Metadata is bad", "errors": [{"reason": "invalid"}]}}'}
    with gcs_fake.faults(told), pytest.raises(InvalidMetadata):
        put(storage, b"y", FILE)


def test_throttling_by_403_is_no_lack_of_rights(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    with gcs_fake.faults({"status": 403, "reason": "rateLimitExceeded", "times": 2}):
        assert storage.list() == []


def test_missing_bucket(gcs_fake: FakeGcsServer) -> None:
    storage = GCSStorage(**gcs_fake.storage_options("no-such-bucket"))
    stat = put(GCSStorage(**gcs_fake.storage_options(gcs_fake.new_bucket())), b"x", FILE)
    calls: list[Callable[[], object]] = [
        lambda: storage.stat(FILE),
        lambda: storage.exists(FILE),
        lambda: storage.list(),
        lambda: storage.create(b"x"),
        lambda: put(storage, LARGE),
        lambda: storage.delete(FILE),
        lambda: storage.update(stat, filename="x"),
        lambda: storage.copy(stat, OTHER_FILE, METADATA),
        lambda: storage.open_content(stat).pread(0, 1),
    ]
    for call in calls:
        with pytest.raises(StorageMissing, match="no-such-bucket"):
            call()


def test_unreachable_server(waits: Waits) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    storage = GCSStorage("p", bucket="b", endpoint=endpoint, anonymous=True, attempts=2)
    storage._requests._sleep = waits
    with pytest.raises(StorageUnavailable, match="refused") as raised:
        storage.stat(FILE)
    assert endpoint in str(raised.value)
    with pytest.raises(StorageUnavailable, match="refused"):
        put(storage, LARGE)
    assert len(waits.seconds) == 2


@pytest.mark.parametrize("fault", [{"stall": 3.0}, {"drip": 0.2}], ids=["silent", "dripping"])
def test_server_that_keeps_us_waiting(gcs_fake: FakeGcsServer, waits: Waits, fault: dict[str, float]) -> None:
    options = gcs_fake.storage_options(gcs_fake.new_bucket())
    storage = GCSStorage(**options, timeout=0.5, attempts=2)
    storage._requests._sleep = waits
    with gcs_fake.faults(fault | {"times": 2}), pytest.raises(StorageUnavailable, match=r"0\.5 s|longer than"):
        storage.stat(FILE)
    patient = GCSStorage(**options, timeout="0.5s", attempts=9)
    patient._requests._sleep = waits
    with gcs_fake.faults(fault):
        put(patient, b"x", FILE)
    assert content_of(patient, FILE) == b"x"


def test_a_silent_server_is_given_up_early(gcs_fake: FakeGcsServer, waits: Waits) -> None:
    storage = GCSStorage(**gcs_fake.storage_options(gcs_fake.new_bucket()), timeout=0.5, attempts=9)
    storage._requests._sleep = waits
    with gcs_fake.faults({"stall": 3.0, "times": 99}), pytest.raises(StorageUnavailable):
        put(storage, b"x", FILE)
    assert len(waits.seconds) == 1


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_a_call_ends_when_it_is_told_to(gcs_fake: FakeGcsServer, storage: GCSStorage, data: bytes) -> None:
    """Silence, refusals and what is asked in between are all of one call, whose time begins anew with each progress."""
    stat = put(storage, data, FILE)
    storage._requests._sleep = time.sleep
    storage.limit_calls(0.6)
    calls: list[Callable[[], object]] = [
        lambda: put(storage, data, FILE),
        lambda: storage.stat(FILE),
        lambda: storage.copy(stat, OTHER_FILE, METADATA),
        lambda: storage.remove(FILE),
        storage.list,
    ]
    for fault in ({"stall": 3.0}, {"status": 503}, {"status": 503, "headers": {"Retry-After": "5"}}):
        for call in calls:
            begun = time.monotonic()
            with gcs_fake.faults(fault | {"times": 99}), pytest.raises(StorageUnavailable):
                call()
            assert time.monotonic() - begun < 1.5
    storage.limit_calls(2)
    with gcs_fake.faults(*[{"stall": 1.0, "method": "PUT"}] * 3):  # more than the limit in all
        put(storage, LARGE + LARGE, FILE)


# --- lost answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", ["", "commit-1"])
@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_own_write_is_recognised(gcs_fake: FakeGcsServer, storage: GCSStorage, data: bytes, commit: str) -> None:
    lost = {"lose": True, **(UPLOAD if data == b"small" else {"query": "upload_id=", "method": "PUT"})}
    with gcs_fake.faults(lost, lost | {"times": 0 if data == b"small" else 1}):
        first = put(storage, data, FILE, expect=ABSENT, commit=commit)
    assert storage.stat(FILE) == first
    assert first.commit == commit
    with gcs_fake.faults(lost):
        second = put(storage, data[1:], FILE, expect=first.version, commit=commit + "b" if commit else "")
    assert content_of(storage, second) == data[1:]
    with gcs_fake.faults({"lose": True, "path": "rewriteTo"}):
        copy = storage.copy(second, OTHER_FILE, METADATA, expect=ABSENT, commit=commit)
    assert storage.stat(OTHER_FILE) == copy


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_own_commit_is_recognised_by_a_later_call(gcs_fake: FakeGcsServer, storage: GCSStorage, data: bytes) -> None:
    """Also by another process: the commit's id is all that is needed."""
    lost: dict[str, Any] = {"lose": True, "times": 99}
    if data == LARGE:
        lost |= {"query": "upload_id="}
    with gcs_fake.faults(lost), pytest.raises(StorageUnavailable):
        put(storage, data, FILE, expect=ABSENT, commit="one")
    first = put(storage, data, FILE, expect=ABSENT, commit="one")
    assert storage.stat(FILE) == first
    with gcs_fake.faults({"lose": True, "times": 99}), pytest.raises(StorageUnavailable):
        storage.copy(first, OTHER_FILE, METADATA, expect=ABSENT, commit="two")
    copy = storage.copy(first, OTHER_FILE, METADATA, expect=ABSENT, commit="two")
    assert storage.stat(OTHER_FILE) == copy
    assert put(storage, data, FILE, expect="1", commit="one") == first
    for expect, error in ((ABSENT, AlreadyStored), ("1", VersionChanged)):
        with unchanged(storage), pytest.raises(error):
            put(storage, data, FILE, expect=expect, commit="three")


def test_a_copy_that_was_done_is_recognised_though_its_source_is_gone(
    gcs_fake: FakeGcsServer, storage: GCSStorage
) -> None:
    source = put(storage, b"x", FILE)
    with gcs_fake.faults({"lose": True, "times": 99}), pytest.raises(StorageUnavailable):
        storage.copy(source, OTHER_FILE, METADATA, expect=ABSENT, commit="one")
    storage.remove(FILE)
    assert storage.copy(source, OTHER_FILE, METADATA, expect=ABSENT, commit="one") == storage.stat(OTHER_FILE)
    with pytest.raises(VersionChanged):
        storage.copy(source, OTHER_FILE, METADATA, expect=ABSENT, commit="two")


@pytest.mark.parametrize("method", ["POST", "DELETE", "GET", ""])
@pytest.mark.parametrize("times", [1, 3, 99])
def test_a_move_never_loses_the_content(gcs_fake: FakeGcsServer, storage: GCSStorage, method: str, times: int) -> None:
    """Whichever answers are lost: it is under one id, or under both, and a second move ends it."""
    source = put(storage, b"source", FILE)
    with (
        gcs_fake.faults({"lose": True, "times": times, "method": method}),
        contextlib.suppress(DepotError),
    ):
        storage.move(source, OTHER_FILE, METADATA, expect=ABSENT, commit="one")
    assert {content_of(storage, FileId(file_id)) for file_id in storage.list()} == {b"source"}
    moved = storage.move(source, OTHER_FILE, METADATA, expect=ABSENT, commit="one")
    assert (storage.list(), content_of(storage, moved)) == ([OTHER_FILE], b"source")


def test_remove_of_what_should_be_absent(storage: GCSStorage) -> None:
    storage.remove(FILE, expect=ABSENT)
    put(storage, b"x", FILE)
    with unchanged(storage), pytest.raises(AlreadyStored):
        storage.remove(FILE, expect=ABSENT)


def test_no_version_means_absent(storage: GCSStorage) -> None:
    for version in ("0", "00", "-1", "x"):
        with pytest.raises(VersionChanged):
            put(storage, b"x", FILE, expect=version)
    assert storage.list() == []


def test_own_write_is_recognised_when_its_session_is_gone(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    put_of_end = {"method": "PUT", **PIECES}
    with gcs_fake.faults(put_of_end | {"lose": True, "times": 2}, put_of_end | {"status": 410}):
        stat = put(storage, LARGE[: PIECE + 1], FILE, expect=ABSENT)
    assert storage.stat(FILE) == stat


def test_write_of_somebody_else_is_not_taken_for_ours(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    first = put(storage, b"theirs", FILE, commit="theirs")
    for expect, error in ((ABSENT, AlreadyStored), ("1", VersionChanged)):
        with gcs_fake.faults({"status": 503, **UPLOAD}), pytest.raises(error):
            put(storage, b"theirs", FILE, expect=expect, commit="ours")
        with gcs_fake.faults({"status": 503, **UPLOAD}), pytest.raises(error):
            put(storage, b"theirs", FILE, expect=expect)
    with gcs_fake.faults({"status": 503, **UPLOAD}), pytest.raises(FileNotStored):
        put(storage, b"x", OTHER_FILE, expect=PRESENT)
    assert storage.stat(FILE) == first


def test_lost_answers_of_the_rest(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    stat = put(storage, b"x", FILE)
    lost = {"lose": True}
    with gcs_fake.faults(lost):
        assert storage.stat(FILE) == stat
    with gcs_fake.faults(lost):
        assert storage.update(stat, filename="new").metadata.filename == "new"
    with gcs_fake.faults(lost):
        storage.remove(FILE, expect=stat.version)
    with gcs_fake.faults(lost):
        assert storage.list() == []


# --- uploads in pieces ------------------------------------------------------------------------------------------


def test_upload_goes_on_where_the_server_is(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    data = noise(2 * PIECE + 12_345)
    with gcs_fake.faults({"lose": True, **PIECES}, {"status": 503, **PIECES}):
        put(storage, data, FILE)
    assert content_of(storage, FILE) == data
    sent = sum(entry["size"] for entry in asked(gcs_fake, storage) if "upload_id" in entry["query"])
    assert sent == len(data)  # nothing twice: the lost piece had arrived, the refused status was asked again


def test_forgotten_upload_begins_again(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    gone = {"status": 410, **PIECES}
    for forgotten in (gone, {"status": 404, "body": "Not Found", "type": "text/plain", **PIECES}):
        with gcs_fake.faults(forgotten):
            put(storage, LARGE, FILE)
        assert content_of(storage, FILE) == LARGE
    with unchanged(storage), gcs_fake.faults(gone), pytest.raises(StorageUnavailable, match="forgot"):
        storage.put(StreamContent(OneWay(LARGE)), METADATA, file_id=FILE)
    with unchanged(storage), gcs_fake.faults(gone | {"times": 99}), pytest.raises(StorageUnavailable, match="forgot"):
        put(storage, LARGE, FILE)


def test_broken_off_upload_leaves_nothing(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    put(storage, b"old", FILE)
    failing = StreamContent(OneWay(LARGE, fail_at=len(LARGE) - 10))
    short = StreamContent(OneWay(LARGE), size=len(LARGE) + 1)
    with unchanged(storage):
        with pytest.raises(OSError, match="source is gone"):
            storage.put(failing, METADATA, file_id=FILE)
        with pytest.raises(DepotError, match="instead of"):
            storage.put(short, METADATA, file_id=FILE)
        with pytest.raises(DepotError, match="instead of"):
            storage.put(StreamContent(OneWay(b"abc"), size=4), METADATA, file_id=FILE)
        with gcs_fake.faults({"status": 503, "times": 99, "method": "PUT"}), pytest.raises(StorageUnavailable):
            put(storage, LARGE, FILE)
        with pytest.raises(TooLarge):
            storage.put(StreamContent(OneWay(b""), size=(5 << 40) + 1), METADATA, file_id=FILE)
    assert gcs_fake.open_uploads(storage.bucket_name) == 0


def test_exactly_whole_pieces(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    data = noise(2 * PIECE)
    for source in (BytesContent(data), StreamContent(OneWay(data)), BytesContent(data[:PIECE])):
        stat = storage.put(source, METADATA, file_id=FILE)
        assert content_of(storage, FILE) == data[: stat.size]
    assert stat.size == PIECE
    assert gcs_fake.open_uploads(storage.bucket_name) == 0


def test_copy_in_many_steps(gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
    data = noise(1_000_000)
    source = put(storage, data, FILE)
    with gcs_fake.faults({"status": 503, "path": "rewriteTo"}, rewrite_step=300_000):
        copy = storage.copy(source, OTHER_FILE, FileMetadata("copy", "a/b", 5), expect=ABSENT)
    assert content_of(storage, copy) == data
    assert copy.metadata == FileMetadata("copy", "a/b", 5)
    assert sum("rewriteTo" in entry["path"] for entry in asked(gcs_fake, storage)) == 5


# --- secrets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"lose": True}, {"status": 503}, {"stall": 1.0}, {"endless": "x"}], ids=str)
def test_messages_tell_no_secret(gcs_fake: FakeGcsServer, storage: GCSStorage, fault: dict[str, Any]) -> None:
    """Not even those that a traceback shows: who knows the URL of an upload may write to it."""
    storage._requests._timeout = 0.5
    with gcs_fake.faults(fault | {"times": 99, **PIECES}), pytest.raises(StorageUnavailable) as raised:
        put(storage, LARGE, FILE)
    assert "upload_id" not in "".join(traceback.format_exception(raised.value))
    assert FILE in str(raised.value)


def test_uploads_stay_at_the_endpoint() -> None:
    requests = GcsRequests("http://ours:1", None, None, timeout=1, attempts=1)
    assert requests.own("https://elsewhere/upload/b?upload_id=1") == "http://ours:1/upload/b?upload_id=1"
    with pytest.raises(StorageUnavailable):
        requests.own("http://[::1")


def test_public_read_needs_access_lists(gcs_fake: FakeGcsServer) -> None:
    uniform = {"iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}}}
    options = gcs_fake.storage_options(gcs_fake.new_bucket(**uniform))
    with pytest.raises(ConfigurationError, match="public-read"):
        GCSStorage(**options, policy="public-read").create(b"x")
    assert GCSStorage(**options).list() == []
    GCSStorage(**options, policy="private").create(b"x")
