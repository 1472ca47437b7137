"""S3 on a bad day: every failure is an error of ours by its cause, what can be retried is, nothing is half stored."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from depotfs.errors import (
    AccessDenied,
    ConfigurationError,
    FileNotStored,
    InvalidMetadata,
    StorageMissing,
    StorageUnavailable,
    VersionChanged,
)
from depotfs.io.boto3 import S3Storage
from depotfs.io.content import BytesContent, StreamContent
from depotfs.io.s3_client import _Patience
from depotfs.types import ABSENT, FileId, FileMetadata
from tests.io.contract_sources import METADATA, OneWay, content_of, noise, put
from tests.servers.faults import FaultProxy
from tests.servers.process import free_port
from tests.servers.s3 import S3Server

pytestmark = pytest.mark.xdist_group("minio")

FILE = FileId("590f20fd-d941-5e6d-b65e-8496d7f4da20")


def _answer(status: str, code: str, headers: str = "") -> bytes:
    body = f"<Error><Code>{code}</Code><Message>so it is</Message></Error>"
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n{headers}"
        f"Connection: close\r\n\r\n{body}"
    ).encode()


@pytest.fixture
def proxy(minio: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(minio.port) as proxy:
        yield proxy


@pytest.fixture
def storage(minio: S3Server, proxy: FaultProxy) -> Iterator[S3Storage]:
    storage = _storage(minio, minio.new_bucket(), endpoint_url=proxy.endpoint)
    yield storage
    storage.close()


def _storage(server: S3Server, bucket: str, **options: Any) -> S3Storage:
    given: dict[str, Any] = {"endpoint_url": server.endpoint, "attempts": 3, "timeout": 5.0, **options}
    return S3Storage(server.access_key, options.pop("secret", server.secret_key), bucket, **given)


def _uploads(server: S3Server, storage: S3Storage) -> list[Any]:
    """Multipart uploads of that storage's bucket that were neither finished nor aborted (MinIO lists them by key)."""
    answer = server.client().list_multipart_uploads(Bucket=storage._settings.bucket, Prefix=FILE)
    return list(answer.get("Uploads", []))


def test_wrong_secret(minio: S3Server) -> None:
    storage = S3Storage(minio.access_key, "not-the-secret", minio.new_bucket(), endpoint_url=minio.endpoint)
    for call in (lambda: storage.stat(FILE), lambda: storage.create(b"x"), storage.list, lambda: storage.delete(FILE)):
        with pytest.raises(AccessDenied, match=minio.endpoint) as caught:
            call()
        assert "not-the-secret" not in str(caught.value)


def test_expired_token(storage: S3Storage, proxy: FaultProxy) -> None:
    for call in (lambda: storage.stat(FILE), lambda: storage.create(b"x"), storage.list, lambda: storage.delete(FILE)):
        proxy.answers.append(_answer("400 Bad Request", "ExpiredToken"))
        with pytest.raises(AccessDenied):
            call()


def test_missing_bucket(minio: S3Server) -> None:
    storage = S3Storage(minio.access_key, minio.secret_key, "no-such-bucket", endpoint_url=minio.endpoint)
    for call in (lambda: storage.stat(FILE), lambda: storage.create(b"x"), storage.list):
        with pytest.raises(StorageMissing, match="no-such-bucket"):
            call()


def test_nobody_listens(minio: S3Server) -> None:
    storage = _storage(minio, "bucket", endpoint_url=f"http://127.0.0.1:{free_port()}", attempts=2)
    with pytest.raises(StorageUnavailable, match="bucket"):
        storage.create(b"x")


def test_no_credentials(minio: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(AccessDenied, match="redentials"):
        S3Storage(None, None, "bucket", endpoint_url=minio.endpoint).list()


def test_credential_chain(minio: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio.secret_key)
    storage = S3Storage(None, "", minio.new_bucket(), endpoint_url=minio.endpoint)
    assert storage.get(storage.create(b"x")).read() == b"x"


@pytest.mark.parametrize(
    "answer",
    [
        _answer("503 Slow Down", "SlowDown"),
        _answer("429 Too Many Requests", "TooManyRequests", "Retry-After: 0\r\n"),
        _answer("500 Internal Server Error", "InternalError"),
    ],
    ids=["SlowDown", "429", "500"],
)
def test_throttled_once(storage: S3Storage, proxy: FaultProxy, answer: bytes) -> None:
    proxy.answers.append(answer)
    file_id = storage.create(b"content")
    proxy.answers.append(answer)
    assert storage.get(file_id).read() == b"content"
    assert not proxy.answers


@pytest.mark.parametrize("after", [100, 700_000, 2_500_000])
def test_cut_between_pieces(storage: S3Storage, proxy: FaultProxy, after: int) -> None:
    data = noise(3_000_017)
    reader = storage.open_content(put(storage, data))
    proxy.cut_after = after
    proxy.requests.clear()
    assert b"".join(map(bytes, reader.pieces(0, len(data), 1 << 20))) == data
    assert proxy.cut_after is None
    assert 2 <= len(proxy.requests) <= 3


def test_ranges_are_signed_once(storage: S3Storage, proxy: FaultProxy) -> None:
    reader = storage.open_content(put(storage, noise(1000)))
    proxy.requests.clear()
    for offset in range(3):
        assert reader.pread(offset, 100) == noise(1000)[offset : offset + 100]
    assert len(proxy.requests) == 3
    assert len(set(proxy.requests)) == 1
    assert b"X-Amz-Signature" in proxy.requests[0]


@pytest.mark.parametrize(
    ("refusal", "then"), [("403 Forbidden", [False]), ("307 Temporary Redirect", [False]), ("503 Slow Down", [True])]
)
def test_signatures_in_headers_where_those_in_urls_are_refused(
    storage: S3Storage, proxy: FaultProxy, refusal: str, then: list[bool]
) -> None:
    reader = storage.open_content(put(storage, noise(1000)))
    proxy.requests.clear()
    for _ in range(3):
        proxy.answers.append(_answer(refusal, "SoItIs"))
        assert reader.pread(1, 100) == noise(1000)[1:101]
    assert reader.pread(2, 100) == noise(1000)[2:102]
    assert [b"X-Amz-Signature" in line for line in proxy.requests] == [True, False] * 3 + then


def test_signatures_in_urls_are_tried_again_later(
    storage: S3Storage, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depotfs.io.s3_signed._PAUSE", 0)
    test_signatures_in_headers_where_those_in_urls_are_refused(storage, proxy, "403 Forbidden", [True])


def test_ranges_come_over_the_connections_of_boto3(storage: S3Storage, proxy: FaultProxy) -> None:
    """So they are asked for with its proxies and certificates, and end with it."""
    reader = storage.open_content(put(storage, noise(1000)))
    assert reader.pread(1, 100) == noise(1000)[1:101]
    assert proxy.connections == 1


def test_a_range_of_a_version_that_is_gone(storage: S3Storage) -> None:
    stat = put(storage, noise(1000))
    reader = storage.open_content(stat)
    assert reader.pread(1, 100) == noise(1000)[1:101]
    storage.replace(stat.file_id, b"new")
    with pytest.raises(VersionChanged):
        reader.pread(1, 100)
    storage.delete(stat.file_id)
    with pytest.raises(VersionChanged):
        list(reader.pieces(0, 100, 10))


def test_throttled_for_good(storage: S3Storage, proxy: FaultProxy) -> None:
    proxy.answers += [_answer("503 Slow Down", "SlowDown", "Retry-After: 77\r\n")] * 3
    with pytest.raises(StorageUnavailable, match=r"SlowDown.*tried 3 times") as caught:
        storage.create(b"content")
    assert caught.value.retry_after == 77
    assert caught.value.transient
    assert storage.list() == []


def test_refused_connections(storage: S3Storage, proxy: FaultProxy) -> None:
    proxy.refused = 2
    assert storage.get(storage.create(b"content")).read() == b"content"
    assert proxy.refused == 0


def test_a_silent_server_is_given_up_early(minio: S3Server, proxy: FaultProxy) -> None:
    storage = _storage(minio, minio.new_bucket(), endpoint_url=proxy.endpoint, timeout=0.5, attempts=9)
    storage.create(b"content")
    for size in (1, 17_000_000):
        proxy.requests.clear()
        proxy.stalled.set()
        with pytest.raises(StorageUnavailable):
            storage.create(noise(size))
        assert len(proxy.requests) == 2
        proxy.stalled.clear()


def test_a_server_that_answers_others_is_not_silent() -> None:
    patience, late = _Patience(attempts=9, timeout=10.0), TimeoutError()
    put = SimpleNamespace(name="PutObject")
    assert patience.delay(attempts=5, caught_exception=late, operation=put) is None
    patience._heard -= 20
    assert patience.delay(attempts=1, caught_exception=late, operation=put) is None
    assert patience.delay(attempts=5, caught_exception=ConnectionResetError(), operation=put) is None
    long = SimpleNamespace(name="CopyObject")
    assert patience.delay(attempts=5, caught_exception=late, operation=long) is None
    with pytest.raises(TimeoutError):
        patience.delay(attempts=2, caught_exception=late, operation=put)


def test_stalled_server(minio: S3Server, proxy: FaultProxy) -> None:
    storage = _storage(minio, minio.new_bucket(), endpoint_url=proxy.endpoint, timeout=0.3, attempts=2)
    file_id = storage.create(b"content")
    proxy.stalled.set()
    with pytest.raises(StorageUnavailable):
        storage.get(file_id)
    proxy.stalled.clear()
    assert storage.get(file_id).read() == b"content"


def test_body_cut_short_is_resumed(storage: S3Storage, proxy: FaultProxy) -> None:
    data = noise(6_000_001)
    reader = storage.open_content(put(storage, data))
    for cut in (600, 5_000_000):  # right behind the headers, and late in the body
        proxy.requests.clear()
        proxy.cut_after = cut
        assert reader.pread(5, 5_999_000) == data[5:5_999_005]
        assert len(proxy.requests) == 2
    file = storage.get(reader.stat.file_id)
    proxy.cut_after = 2_000_000
    assert file.read() == data


def test_body_cut_short_and_replaced_meanwhile(storage: S3Storage, minio: S3Server, proxy: FaultProxy) -> None:
    old = put(storage, noise(3_000_000))
    direct = _storage(minio, storage._settings.bucket)
    reader = storage.open_content(old)
    assert reader.pread(0, 10)
    put(direct, noise(3_000_000)[::-1], old.file_id)
    with pytest.raises(VersionChanged):
        reader.pread(0, 3_000_000)
    direct.delete(old.file_id)
    with pytest.raises(VersionChanged):
        reader.pread(0, 10)


def test_lost_reply_is_no_conflict(storage: S3Storage, proxy: FaultProxy) -> None:
    """The PUT is done, its reply is lost, the SDK sends it again, and its condition fails because of the first."""
    storage.exists(FILE)
    proxy.cut_after = 0
    first = put(storage, b"first", FILE, expect=ABSENT)
    assert (first.size, content_of(storage, first)) == (5, b"first")
    proxy.cut_after = 0
    second = put(storage, b"second", FILE, expect=first.version, commit="commit-2")
    assert second == storage.stat(FILE)
    assert second.commit == "commit-2"


def test_no_etag_is_another_writer_in_the_way(storage: S3Storage, proxy: FaultProxy) -> None:
    """Swift's answer to a PUT that a newer PUT or DELETE goes before: 200, and nothing is stored."""
    date = "Date: Thu, 26 Nov 2026 01:00:00 GMT\r\nContent-Length: 0\r\n"
    proxy.answers.append(f"HTTP/1.1 200 OK\r\n{date}Connection: close\r\n\r\n".encode())
    assert content_of(storage, put(storage, b"ours", FILE)) == b"ours"
    assert not proxy.answers


def test_failed_parts_leave_nothing(storage: S3Storage, minio: S3Server, proxy: FaultProxy) -> None:
    old = put(storage, b"old", FILE)
    broken = OneWay(noise(30_000_000), fail_at=20_000_000, error=RuntimeError("the source failed"))
    with pytest.raises(RuntimeError, match="the source failed"):
        storage.put(StreamContent(broken), METADATA, file_id=FILE)
    denied = _answer("403 Forbidden", "AccessDenied")

    class Denying(BytesContent):
        """Makes the server refuse what comes after the first 20 MB."""

        def read(self, size: int) -> bytes:
            data = super().read(size)
            if self._position >= 20_000_000 and not proxy.answers and not denials:
                proxy.answers.append(denied)
                denials.append(1)
            return data

    denials: list[int] = []
    with pytest.raises(AccessDenied):
        storage.put(Denying(noise(30_000_000)), METADATA, file_id=FILE)
    assert _uploads(minio, storage) == []
    assert content_of(storage, old) == b"old"


def test_lost_reply_to_the_last_request_of_an_upload(storage: S3Storage, minio: S3Server, proxy: FaultProxy) -> None:
    class Cutting(BytesContent):
        """Cuts the connection at the first answer after the content was read, and again until it is done."""

        def read(self, size: int) -> bytes:
            data = super().read(size)
            if not data:
                proxy.cut_after = 0
            return data

    data = noise(17_000_000)
    stat = storage.put(Cutting(data), METADATA, file_id=FILE, expect=ABSENT)
    assert content_of(storage, stat) == data
    assert _uploads(minio, storage) == []


def test_foreign_objects(minio: S3Server) -> None:
    client, bucket = minio.client(), minio.new_bucket()
    storage = _storage(minio, bucket, prefix="p/")
    other = FileId("f" * 24)
    client.put_object(Bucket=bucket, Key=f"p/{FILE}", Body=b"foreign")
    client.put_object(
        Bucket=bucket,
        Key=f"p/{other}",
        Body=b"",
        Metadata={"x-depot-filename": "%FF%zz", "x-depot-modified": "yesterday", "own": "kept"},
        CacheControl="max-age=7",
    )
    for key in ("p/", "p/readme.txt", f"p/{FILE}.bak", f"p/sub/{FILE}", f"{FILE}", f"p/{FILE}".upper(), "p/ä+b c"):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    assert storage.list() == [FILE, other]
    stat = storage.stat(FILE)
    assert (stat.metadata.filename, stat.size) == ("unnamed", 7)
    assert stat.metadata.modified * 10**9 == stat.changed_ns
    broken = storage.stat(other)
    assert broken.metadata.modified * 10**9 == broken.changed_ns
    storage.update(broken, filename="mended")
    head = client.head_object(Bucket=bucket, Key=f"p/{other}")
    assert (head["Metadata"]["own"], head["CacheControl"]) == ("kept", "max-age=7")
    storage.replace(FILE, b"other")
    assert (storage.get(FILE).filename, storage.get(FILE).read()) == ("unnamed", b"other")
    storage.replace(FILE, b"new", "now.txt")
    assert storage.get(FILE).filename == "now.txt"


def test_errors_name_what_failed(storage: S3Storage, minio: S3Server) -> None:
    with pytest.raises(FileNotStored, match=f"{storage._settings.bucket}/{FILE}"):
        storage.get(FILE)
    for unfit in ("text/plain\r\nX-Evil: 1", "text/\0", "text/имя", "text/\udce9"):
        with pytest.raises(InvalidMetadata, match="content type"):
            put(storage, b"x", metadata=FileMetadata("a", unfit, 0))
    with pytest.raises(InvalidMetadata, match="MetadataTooLarge"):
        storage.create(b"x", "a" * 5000)
    assert storage.list() == []


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this system's TCP has no such limit")
def test_little_waits_in_the_kernel_to_be_sent(storage: S3Storage, proxy: FaultProxy) -> None:
    """Else a slow line has 4 MiB of each of eight parts to send before it gets to the answers that are waited for."""
    storage.create(b"content")
    ours = [limit for peer, limit in _unsent_limits() if peer == proxy.port]
    assert ours
    assert all(0 < limit <= 1 << 20 for limit in ours)  # 0: none


def _unsent_limits() -> Iterator[tuple[int, int]]:
    """Peer's port and TCP_NOTSENT_LOWAT of each TCP connection of this process."""
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(fd))) as one:
            yield one.getpeername()[1], one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)


def test_options_that_cannot_be(minio: S3Server) -> None:
    for options in ({"attempts": 0}, {"timeout": 0}, {"timeout": "soon"}, {"timeout": "2h"}):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            _storage(minio, "bucket", **options)


def test_whole_objects_are_loaded_by_signed_urls(storage: S3Storage, proxy: FaultProxy) -> None:
    stat = put(storage, noise(1000))
    proxy.requests.clear()
    assert storage.load(stat.file_id, 1000) == (storage.stat(stat.file_id), noise(1000))
    assert [b"X-Amz-Signature" in line for line in proxy.requests] == [True, False]
    proxy.answers.append(_answer("403 Forbidden", "AccessDenied"))
    assert storage.load(stat.file_id, 999) == (storage.stat(stat.file_id), None)
