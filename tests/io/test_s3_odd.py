"""S3 servers that lie, answer oddly, or refuse for a while: never a short listing, never a foreign error."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from depotfs.errors import ConfigurationError, ContentDamaged, DepotError, StorageUnavailable, VersionChanged
from depotfs.io.boto3 import S3Storage
from depotfs.io.content import BytesContent
from depotfs.io.s3_client import unquoted
from depotfs.io.s3_errors import seconds_told
from depotfs.types import ABSENT, FileId
from tests.io.contract_sources import METADATA, put
from tests.servers.faults import FaultProxy
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.xdist_group("minio")

FILE = FileId("590f20fd-d941-5e6d-b65e-8496d7f4da20")
OTHER = FileId("7bc271dc-6a12-5a52-981c-d7a3abd00147")
CUT = "<IsTruncated>true</IsTruncated>"
GO_ON = f"{CUT}<NextContinuationToken>more</NextContinuationToken>"
AGAIN = f"{CUT}<NextContinuationToken>again</NextContinuationToken>"


@pytest.fixture
def proxy(minio: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(minio.port) as proxy:
        yield proxy


@pytest.fixture
def storage(minio: S3Server, proxy: FaultProxy) -> Iterator[S3Storage]:
    storage = S3Storage(
        minio.access_key, minio.secret_key, minio.new_bucket(), endpoint_url=proxy.endpoint, attempts=2, timeout=5.0
    )
    yield storage
    storage.close()


def _answer(status: str, body: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


def _refusal(status: str, code: str) -> bytes:
    return _answer(status, f"<Error><Code>{code}</Code><Message>so it is</Message></Error>" if code else "")


def _listing(*entries: str, more: str = "") -> bytes:
    return _answer("200 OK", f"<ListBucketResult>{more}{''.join(entries)}</ListBucketResult>")


def _entry(key: str, size: str = "1", moment: str = "2026-01-01T00:00:00.000Z") -> str:
    told = f"<Key>{key}</Key><Size>{size}</Size><ETag>x</ETag><LastModified>{moment}</LastModified>"
    return f"<Contents>{told}</Contents>"


@pytest.mark.parametrize(
    "pages",
    [
        [_listing(_entry(FILE), more=CUT)],
        [_listing(_entry(FILE), more=GO_ON), _listing(_entry(OTHER), more=GO_ON)],
        [_listing(_entry(OTHER), more=GO_ON), _listing(_entry(FILE), more=AGAIN)],
    ],
    ids=["no token", "the same token", "back again"],
)
def test_a_listing_that_is_cut_is_an_error(storage: S3Storage, proxy: FaultProxy, pages: list[bytes]) -> None:
    proxy.answers += pages
    with pytest.raises(StorageUnavailable):
        storage.list()


@pytest.mark.parametrize("size", ["1e300", "-1", "", "9" * 40, "many"])
@pytest.mark.parametrize("moment", ["2026-01-01T00:00:00Z", "", "yesterday"])
def test_one_odd_entry_is_listed_with_what_makes_sense(
    storage: S3Storage, proxy: FaultProxy, size: str, moment: str
) -> None:
    proxy.answers.append(_listing(_entry(FILE, size, moment), _entry(OTHER)))
    (page,) = storage.pages()
    odd, other = page
    assert (odd.file_id, odd.size) == (FILE, None)
    assert (odd.revision is None) == (moment in ("", "yesterday"))
    assert (other.file_id, other.size) == (OTHER, 1)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("400 Bad Request", ""),
        ("400 Bad Request", "ExpiredToken"),
        ("400 Bad Request", "SomethingNew"),
        ("403 Forbidden", "AccessDenied"),
        ("403 Forbidden", "RequestTimeTooSkewed"),
        ("404 Not Found", "NoSuchBucket"),
        ("408 Request Timeout", ""),
        ("409 Conflict", "OperationAborted"),
        ("409 Conflict", "ConditionalRequestConflict"),
        ("412 Precondition Failed", "PreconditionFailed"),
        ("413 Request Entity Too Large", ""),
        ("501 Not Implemented", "NotImplemented"),
        ("302 Found", ""),
        ("507 Insufficient Storage", ""),
    ],
)
@pytest.mark.parametrize("expect", [None, ABSENT])
def test_what_a_server_refuses_for_a_while_can_be_cured(
    storage: S3Storage, proxy: FaultProxy, status: str, code: str, expect: str | None
) -> None:
    """Nothing that is there was changed, so whatever the server says, the same put may succeed later."""
    proxy.answers = [_refusal(status, code)] * 40
    proxy.refused_methods = (b"PUT",)
    with pytest.raises(DepotError) as raised:
        storage.put(BytesContent(b"bytes"), METADATA, file_id=FILE, expect=expect, commit="c")
    assert raised.value.curable, raised.value
    proxy.answers = []
    assert storage.put(BytesContent(b"bytes"), METADATA, file_id=FILE, expect=expect, commit="c").size == 5
    assert not storage._lacking


def test_a_flipped_byte_is_noticed(storage: S3Storage, proxy: FaultProxy) -> None:
    data = os.urandom(100_000)
    stat = put(storage, data, FILE)
    proxy.flip = 5000
    with pytest.raises(ContentDamaged):
        storage.load(stat.file_id, 1 << 20)
    assert storage.load(stat.file_id, 1 << 20)[1] == data


def test_a_file_that_is_always_changed_ends_with_an_error(storage: S3Storage, proxy: FaultProxy) -> None:
    file = storage.get(put(storage, b"bytes", FILE).file_id)
    proxy.answers = [_refusal("412 Precondition Failed", "PreconditionFailed")] * 200
    proxy.refused_methods = (b"GET",)
    with pytest.raises(VersionChanged):
        file.read()


@pytest.mark.parametrize("told", ["inf", "nan", "-5", "1e9", "²", "99999999", "soon", ""])
def test_an_odd_retry_after_is_none(told: str) -> None:
    assert seconds_told(told) is None


def test_weak_etags() -> None:
    assert unquoted('W/"abc"') == unquoted('"abc"') == "abc"


def test_attempts_are_not_used_up_by_what_was_asked_before(storage: S3Storage, proxy: FaultProxy) -> None:
    for _ in range(120):
        proxy.answers.append(_refusal("503 Slow Down", "SlowDown"))
        assert not storage.exists(FILE)


def test_a_touch_right_after_a_put_waits_for_nothing_and_is_another_revision(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slept(seconds: float) -> None:
        raise AssertionError(f"slept {seconds} s")

    monkeypatch.setattr("time.sleep", slept)
    revisions = {put(storage, b"bytes", FILE).revision}
    for modified in range(5):
        revisions.add(storage.update(storage.stat(FILE), modified=modified).revision)
    assert len(revisions) == 6
    (page,) = storage.pages()
    assert page[0].revision not in revisions


def test_an_update_keeps_what_another_one_changed_meanwhile(storage: S3Storage) -> None:
    stat = put(storage, b"bytes", FILE)
    storage.update(stat, filename="theirs.txt", content_type="text/x-theirs")
    updated = storage.update(stat, modified=5)
    assert updated.metadata == replace(stat.metadata, filename="theirs.txt", content_type="text/x-theirs", modified=5)
    assert storage.stat(FILE).metadata == updated.metadata


@pytest.mark.parametrize("lost", [b"PUT", b"DELETE"])
def test_a_move_whose_reply_was_lost_keeps_the_content_once(storage: S3Storage, proxy: FaultProxy, lost: bytes) -> None:
    stat = put(storage, b"bytes", FILE)
    proxy.lost_replies = {lost: 1}
    moved = storage.move(stat, OTHER, stat.metadata, expect=ABSENT, commit="c")
    assert (moved.file_id, storage.list()) == (OTHER, [OTHER])
    assert storage.get(OTHER).read() == b"bytes"


@pytest.mark.parametrize("options", [{"bucket": "s3://x/y"}, {"bucket": "a/b"}, {"bucket": "b", "kms_key_id": "k"}])
def test_options_that_cannot_work(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"bucket|kms_key_id"):
        S3Storage("key", "secret", **options)


@pytest.mark.parametrize("held", ["_client", "_clock", "_making"])
def test_a_fork_while_a_thread_holds_a_lock(storage: S3Storage, held: str) -> None:
    put(storage, b"bytes", FILE)
    part = getattr(storage._requests, held)
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with getattr(part, "_lock", part) if held != "_making" else part:
            taken.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(30)
    child = os.fork()
    if not child:
        try:
            os._exit(0 if storage.exists(FILE) else 1)
        finally:
            os._exit(2)
    status = _ended(child)
    done.set()
    thread.join()
    assert status == 0


def _ended(child: int) -> int:
    """The status of a child process, which is killed if it hangs."""
    waiter = threading.Timer(30, os.kill, (child, 9))
    waiter.start()
    try:
        return os.waitpid(child, 0)[1]
    finally:
        waiter.cancel()
