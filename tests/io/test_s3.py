"""S3: the contract on three servers, and what is S3's alone."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from depotfs.errors import (
    AlreadyStored,
    ConfigurationError,
    ContentDamaged,
    StorageMissing,
    StorageUnavailable,
    TooLarge,
    VersionChanged,
)
from depotfs.io import boto3, s3_parts
from depotfs.io.boto3 import S3Storage
from depotfs.io.content import BytesContent
from depotfs.io.ids import new_uuid
from depotfs.io.interfaces import FileStorage
from depotfs.io.s3_clock import ServerClock
from depotfs.io.s3_parts import LARGEST_OBJECT, part_size, pieces_of
from depotfs.io.utils import make_content_disposition
from depotfs.types import ABSENT, FileId, FileStat
from tests.io.contract import StorageContract
from tests.io.contract_sources import ABSENT_IDS, METADATA, content_of, noise, put
from tests.servers.faults import FaultProxy
from tests.servers.s3 import S3Server

FILE = FileId("590f20fd-d941-5e6d-b65e-8496d7f4da20")


def new_storage(server: S3Server, prefix: str = "files/", **options: object) -> S3Storage:
    """A storage in a bucket of its own."""
    return S3Storage(
        server.access_key,
        server.secret_key,
        server.new_bucket(),
        endpoint_url=server.endpoint,
        prefix=prefix,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.xdist_group("minio")
class TestMinIO(StorageContract):
    @pytest.fixture
    def storage(self, minio: S3Server) -> Iterator[S3Storage]:
        storage = new_storage(minio)
        yield storage
        storage.close()


@pytest.mark.xdist_group("moto")
class TestMoto(StorageContract):
    @pytest.fixture
    def storage(self, moto_s3: S3Server) -> Iterator[S3Storage]:
        storage = new_storage(moto_s3)
        yield storage
        storage.close()


@pytest.mark.xdist_group("swift")
class TestSwift(StorageContract):
    """Swift decides conditions of writes that come at the same time only afterwards: several of them may win."""

    @pytest.fixture
    def storage(self, swift_s3: S3Server) -> Iterator[S3Storage]:
        storage = new_storage(swift_s3)
        yield storage
        storage.close()

    def test_one_of_many_makers_wins(self, storage: FileStorage) -> None:
        self._race(storage, ABSENT, AlreadyStored)

    def test_one_of_many_replacers_of_a_version_wins(self, storage: FileStorage) -> None:
        self._race(storage, put(storage, b"first", FILE).version, VersionChanged)

    def _race(self, storage: FileStorage, expect: str, loses_by: type[Exception]) -> None:
        def store(number: int) -> bytes | None:
            data = b"%d" % number * 1000
            try:
                put(storage, data, FILE, expect=expect)
            except loses_by:
                return None
            return data

        with ThreadPoolExecutor(8) as pool:
            stored = list(pool.map(store, range(8)))
        assert any(stored)
        assert content_of(storage, FILE) in stored


@pytest.fixture
def proxy(minio: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(minio.port) as proxy:
        yield proxy


@pytest.mark.xdist_group("minio")
class TestRequests:
    """How many requests an operation takes, counted on the wire."""

    @pytest.fixture
    def storage(self, minio: S3Server, proxy: FaultProxy) -> Iterator[S3Storage]:
        storage = S3Storage(minio.access_key, minio.secret_key, minio.new_bucket(), endpoint_url=proxy.endpoint)
        yield storage
        storage.close()

    def test_counts(self, storage: S3Storage, proxy: FaultProxy) -> None:
        def made(call: Callable[[], Any]) -> list[str]:
            proxy.requests.clear()
            call()
            return [line.split(b" ", 1)[0].decode() for line in proxy.requests]

        assert proxy.requests == []  # the constructor makes none
        assert made(lambda: storage.create(b"x" * 300_000, "a.txt")) == ["PUT"]
        file_id = FileId(storage.list()[0])
        assert made(lambda: storage.stat(file_id)) == ["HEAD"]
        assert made(lambda: storage.exists(file_id)) == ["HEAD"]
        assert made(lambda: storage.exists(ABSENT_IDS[0])) == ["HEAD"]
        assert made(lambda: storage.get(file_id).read()) == ["HEAD", "GET"]
        assert made(lambda: storage.load(file_id, 300_000)) == ["GET"]
        assert made(lambda: storage.replace(file_id, b"y", "b.txt")) == ["PUT"]
        assert made(lambda: storage.replace(file_id, b"z")) == ["HEAD", "PUT"]
        assert made(storage.list) == ["GET"]
        assert made(lambda: storage.open_content(storage.stat(file_id)).pread(0, 10)) == ["HEAD", "GET"]
        empty = storage.stat(FileId(storage.create(b"")))
        assert made(lambda: storage.open_content(empty).pread(0, 10)) == []
        assert made(lambda: storage.delete(file_id)) == ["DELETE"]
        assert made(lambda: storage.delete(file_id)) == ["DELETE"]

    def test_bodies_are_sent_at_once_unless_large_and_conditional(self, storage: S3Storage) -> None:
        asked: list[tuple[str, bool]] = []

        def note(request: Any, **_: Any) -> None:
            asked.append((request.method, "Expect" in request.headers))

        client = storage._requests._client.current()
        client.meta.events.register("before-send.s3", note)
        small = put(storage, noise(200_000), FILE, expect=ABSENT)
        large = put(storage, noise(300_000), FILE, expect=small.version)
        with pytest.raises(VersionChanged):
            put(storage, noise(10_000_000), FILE, expect=small.version)
        put(storage, noise(20 << 20), FILE, expect=large.version)
        asking = [expects for method, expects in asked if method == "PUT"]
        assert asking == [False, True, True, False, False, False]

    def test_stats_of_many_puts_cost_little(self, storage: S3Storage, proxy: FaultProxy) -> None:
        """LastModified, which a PUT does not tell, is known once the server's clock is."""
        stats = [put(storage, b"x") for _ in range(40)]
        assert len(proxy.requests) < 2 * len(stats)
        listed = {entry.file_id: entry.changed_ns for page in storage.pages() for entry in page}
        assert listed == {stat.file_id: stat.changed_ns for stat in stats}

    def test_lines_come_with_one_request(self, storage: S3Storage, proxy: FaultProxy) -> None:
        file = storage.get(storage.create(b"line\n" * 2000))
        proxy.requests.clear()
        assert list(file) == [b"line\n"] * 2000
        assert len(proxy.requests) == 1

    def test_list_of_full_pages(self, storage: S3Storage, minio: S3Server, proxy: FaultProxy) -> None:
        """1,000 keys exactly, then some more: a request for each 1,000, and an empty last page does no harm."""
        ids = sorted(new_uuid() for _ in range(1003))
        for file_id in ids[:1000]:
            storage._requests.put(file_id, b"", {}, {})
        proxy.requests.clear()
        assert storage.list() == ids[:1000]
        assert len(proxy.requests) <= 2
        for file_id in ids[1000:]:
            storage._requests.put(file_id, b"", {}, {})
        proxy.requests.clear()
        assert storage.list() == ids
        assert len(proxy.requests) == 2


@pytest.mark.xdist_group("moto")
class TestExposure:
    def test_nothing_is_public_unless_said(self, moto_s3: S3Server) -> None:
        client = moto_s3.client()
        for policy, public in ((None, False), ("private", False), ("public-read", True)):
            storage = new_storage(moto_s3, policy=policy)
            bucket = storage._settings.bucket
            stat = put(storage, b"content")
            stat = storage.update(stat, filename="new.txt")
            grants = client.get_object_acl(Bucket=bucket, Key=f"files/{stat.file_id}")["Grants"]
            assert any("AllUsers" in grant["Grantee"].get("URI", "") for grant in grants) is public
            url = storage.get(stat.file_id).public_url
            assert url == (f"{moto_s3.endpoint}/{bucket}/files/{stat.file_id}" if public else None)

    def test_host_styles(self) -> None:
        for options, start in (
            ({"bucket": "plain", "region": "eu-west-1"}, "https://plain.s3.eu-west-1.amazonaws.com/"),
            ({"bucket": "with.dots"}, "https://s3.amazonaws.com/with.dots/"),
            ({"bucket": "b", "endpoint_url": "https://s3.example.com"}, "https://s3.example.com/b/"),
        ):
            storage = S3Storage("key", "secret", policy="public-read", **options)  # type: ignore[arg-type]
            stat = FileStat(FILE, 0, "v", "r", METADATA, 0)
            assert str(storage.public_url(stat)).startswith(start)

    def test_update_keeps_what_is_not_ours(self, moto_s3: S3Server) -> None:
        storage, client = new_storage(moto_s3), moto_s3.client()
        where = {"Bucket": storage._settings.bucket, "Key": f"files/{FILE}"}
        client.put_object(
            **where,
            Body=b"content",
            ACL="public-read",
            ContentType="text/plain",
            CacheControl="max-age=5",
            ContentLanguage="ru",
            ContentDisposition="attachment",
            StorageClass="STANDARD_IA",
            ServerSideEncryption="AES256",
            Tagging="a=1&b=2",
            Metadata={"own": "value", "x-depot-filename": "a.txt", "x-depot-modified": "2001-02-03 04:05:06"},
        )
        acl = client.get_object_acl(**where)["Grants"]
        storage.update(storage.stat(FILE), modified=7)
        head = client.head_object(**where)
        assert head["Metadata"] == {
            "own": "value",
            "x-depot-filename": "a.txt",
            "x-depot-modified": "1970-01-01 00:00:07",
        }
        kept = ("ContentType", "CacheControl", "ContentLanguage", "ContentDisposition", "StorageClass")
        assert [head[name] for name in (*kept, "ServerSideEncryption")] == [
            "text/plain",
            "max-age=5",
            "ru",
            "attachment",
            "STANDARD_IA",
            "AES256",
        ]
        tags = {tag["Key"]: tag["Value"] for tag in client.get_object_tagging(**where)["TagSet"]}
        assert tags == {"a": "1", "b": "2"}
        assert sorted(map(str, client.get_object_acl(**where)["Grants"])) == sorted(map(str, acl))


@pytest.mark.xdist_group("minio")
def test_presigned(minio: S3Server) -> None:
    storage = new_storage(minio, presign="1h")
    file = storage.get(storage.create(b"content", "имя.txt", "text/plain"))
    url = file.public_url
    assert url is not None
    assert "X-Amz-Expires=3600" in url
    assert storage.presign_seconds == 3600
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"content"
        assert answer.headers["Content-Disposition"] == make_content_disposition("inline", "имя.txt")
    assert "X-Amz-Expires=60" in str(file.presigned_url(60))
    assert minio.secret_key not in url
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(url.partition("?")[0])


@pytest.mark.xdist_group("minio")
def test_large_copy_goes_in_parts(minio: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boto3, "_LARGEST_COPY", 6 << 20)
    monkeypatch.setattr(s3_parts, "_COPY_PART", 5 << 20)
    storage = new_storage(minio)
    data = noise(20_000_000)
    stat = put(storage, data)
    copy = storage.copy(stat, ABSENT_IDS[0], METADATA, expect=ABSENT)
    assert content_of(storage, copy) == data
    assert storage.stat(copy.file_id) == copy
    updated = storage.update(stat, filename="new")
    assert (updated.metadata.filename, content_of(storage, updated)) == ("new", data)


@pytest.mark.xdist_group("minio")
def test_checksums(minio: S3Server) -> None:
    storage = new_storage(minio)
    for data in (noise(1000), noise(17_000_000)):
        stat = put(storage, data)
        assert stat.checksum == f"crc32:{zlib.crc32(data):08x}"
        assert storage.get(stat.file_id).read() == data
    file = storage.get(stat.file_id)
    file.stat = replace(file.stat, checksum="crc32:00000000")  # type: ignore[attr-defined]
    with pytest.raises(ContentDamaged):
        file.read()
    minio.client(request_checksum_calculation="when_required").put_object(
        Bucket=storage._settings.bucket, Key=f"files/{FILE}", Body=b"plain"
    )
    assert storage.stat(FILE).checksum == f"md5:{hashlib.md5(b'plain').hexdigest()}"


@pytest.mark.xdist_group("minio")
def test_threads_and_a_forked_child_have_clients(minio: S3Server) -> None:
    storage = new_storage(minio)
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda n: storage.create(b"%d" % n), range(16)))
    assert sorted(storage.list()) == sorted(ids)
    child = os.fork()
    if not child:
        try:
            os._exit(0 if storage.get(ids[3]).read() == b"3" else 1)
        finally:
            os._exit(2)
    assert storage.get(ids[4]).read() == b"4"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.xdist_group("minio")
def test_bucket_is_made_by_the_first_request_and_only_when_asked(minio: S3Server, proxy: FaultProxy) -> None:
    def storage(*, create_bucket: bool) -> S3Storage:
        options: dict[str, Any] = {"endpoint_url": proxy.endpoint, "create_bucket": create_bucket, "attempts": 1}
        return S3Storage(minio.access_key, minio.secret_key, bucket, **options)

    bucket = f"made-{new_uuid()}"
    with pytest.raises(StorageMissing):
        storage(create_bucket=False).create(b"x")
    first = storage(create_bucket=True)
    proxy.refused = 1
    with pytest.raises(StorageUnavailable):  # a server that is down when it starts, or later, is nothing final
        first.list()
    with ThreadPoolExecutor(4) as pool:
        ids = set(pool.map(lambda _: first.create(b"x"), range(4)))
    del proxy.requests[:]
    assert set(storage(create_bucket=True).list()) == ids
    assert [line.split()[0] for line in proxy.requests] == [b"HEAD", b"GET"]
    assert storage(create_bucket=False).presigned_url(first.stat(FileId(ids.pop())), 0.5)


@pytest.mark.xdist_group("moto")
def test_bucket_of_another_region(moto_s3: S3Server) -> None:
    bucket = f"made-{new_uuid()}"
    options: dict[str, Any] = {"endpoint_url": moto_s3.endpoint, "create_bucket": True}
    storage = S3Storage(
        moto_s3.access_key, moto_s3.secret_key, bucket, "eu-west-1", "public-read", "STANDARD_IA", **options
    )
    file_id = storage.create(b"x")
    client = moto_s3.client()
    assert client.get_bucket_location(Bucket=bucket)["LocationConstraint"] == "eu-west-1"
    assert client.head_object(Bucket=bucket, Key=file_id)["StorageClass"] == "STANDARD_IA"
    with pytest.raises(client.exceptions.ClientError, match="NoSuchPublicAccessBlock"):
        client.get_public_access_block(Bucket=bucket)  # what guards the bucket is left to its owner


@pytest.mark.xdist_group("minio")
def test_a_url_signed_before_is_no_sign_of_a_bucket(minio: S3Server) -> None:
    storage = S3Storage(minio.access_key, minio.secret_key, "no-such-bucket", endpoint_url=minio.endpoint)
    assert storage.presigned_url(FileStat(FILE, 1, "v", "r", METADATA, 0), 0.5)
    with pytest.raises(StorageMissing):
        storage.stat(FILE)


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "everybody"},
        {"access_key_id": None, "secret_access_key": None},
        {"secret_access_key": ""},
        {"presign": "soon"},
        {"presign": "8d"},
        {"endpoint_url": "https://user:pass@s3.example.com"},
        {"endpoint_url": "s3.example.com:9000"},
        {"endpoint_url": "http://"},
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        S3Storage(**{"access_key_id": "key", "secret_access_key": "secret", **options})
    assert "pass@" not in str(caught.value)


def test_identity_and_default_bucket() -> None:
    storage = S3Storage("KEY", "the-secret", endpoint_url="https://s3.example.com", prefix="p/")
    assert storage.identity() == "s3 https://s3.example.com filedepot-key/p/"
    assert "secret" not in repr(storage._settings)


class _Sized(BytesContent):
    """Claims to be of a size."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self._claimed = size

    @property
    def size(self) -> int:
        return self._claimed


def test_part_sizes_reach_the_largest_object() -> None:
    assert sum(part_size(None, number) for number in range(10_000)) >= LARGEST_OBJECT
    for size in (17 << 20, 80 << 30, LARGEST_OBJECT):
        assert part_size(size, 0) == part_size(size, 1) >= 5 << 20
        assert part_size(size, 0) * 10_000 >= size
    with pytest.raises(TooLarge):
        next(pieces_of(_Sized(b"", LARGEST_OBJECT + 1), "here"))
    for claimed in (2, 4):
        with pytest.raises(ContentDamaged):
            list(pieces_of(_Sized(b"abc", claimed), "here"))


def test_clock() -> None:
    clock = ServerClock()
    assert not clock.was_within(5.0, 1000)
    clock.learn(5.1, 1000)
    assert clock.was_within(5.1, 1000)
    assert not clock.was_within(5.0, 1000)
    assert not clock.was_within(6.0, 1001)
    clock.learn(6.0, 1001)
    assert clock.was_within(7.0, 1002)
    assert not clock.was_within(6.9, 1002)
    clock.learn(70.0, 1000)  # long ago; it was set back since
    assert not clock.was_within(71.0, 1010)
