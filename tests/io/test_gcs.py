"""Google Cloud Storage: the contract on two servers, and what is this backend's alone."""

from __future__ import annotations

import gzip
import inspect
import json
import os
import threading
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from depotfs.errors import AccessDenied, ConfigurationError, StorageUnavailable
from depotfs.io import gcs_client
from depotfs.io.gcs import GCSStorage
from depotfs.io.gcs_upload import PIECE
from depotfs.io.ids import new_uuid
from depotfs.types import ABSENT, UNNAMED, FileMetadata
from tests.io.contract import StorageContract
from tests.io.contract_sources import ABSENT_IDS, METADATA, content_of, noise, put
from tests.io.faults import in_child
from tests.servers.gcs import FakeGcsServer, GcsServer
from tests.servers.process import free_port

FILE, OTHER_FILE = ABSENT_IDS
IGNORED = "fake-gcs-server ignores the preconditions of "


def new_storage(server: GcsServer, **options: Any) -> GCSStorage:
    """A storage in a bucket of its own."""
    return GCSStorage(**{"prefix": "files/", **server.storage_options(server.new_bucket()), **options})


@pytest.mark.xdist_group("gcs_fake")
class TestFake(StorageContract):
    @pytest.fixture
    def storage(self, gcs_fake: FakeGcsServer) -> Iterator[GCSStorage]:
        storage = new_storage(gcs_fake)
        yield storage
        storage.close()


@pytest.mark.xdist_group("fake_gcs_server")
class TestFakeGcsServer(StorageContract):
    lacks: ClassVar[dict[str, str]] = {
        "test_large_put_expecting": IGNORED + "resumable uploads",
        "test_update": "fake-gcs-server does not count metagenerations",
        "test_update_of_another_version": IGNORED + "metadata updates",
        "test_copy_expecting": IGNORED + "rewrites",
        "test_remove_expecting": IGNORED + "deletions",
        "test_move_expecting": IGNORED + "rewrites",
        "test_move_to_its_own_id": "fake-gcs-server does not count metagenerations",
        "test_what_comes_to_the_target_meanwhile_is_not_undone": IGNORED + "deletions",
    }

    @pytest.fixture
    def storage(self, fake_gcs_server: GcsServer) -> Iterator[GCSStorage]:
        storage = new_storage(fake_gcs_server)
        yield storage
        storage.close()


@pytest.fixture(scope="module")
def account() -> dict[str, str]:
    """A service account whose key nobody else knows; its token_uri is for the test to set."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return {
        "type": "service_account",
        "project_id": "from-the-key",
        "private_key_id": "1",
        "private_key": pem,
        "client_email": "tester@from-the-key.iam.gserviceaccount.com",
        "client_id": "1",
    }


@pytest.mark.xdist_group("gcs_fake")
class TestRequests:
    """Counted at the server."""

    @pytest.fixture
    def storage(self, gcs_fake: FakeGcsServer) -> Iterator[GCSStorage]:
        storage = new_storage(gcs_fake)
        yield storage
        storage.close()

    def test_each_operation(self, gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
        def cost(call: Any) -> list[str]:
            before = len(gcs_fake.requests(storage.bucket_name))
            call()
            return [entry["method"] for entry in gcs_fake.requests(storage.bucket_name)[before:]]

        assert cost(lambda: storage.create(noise(1000), "a.txt")) == ["POST"]
        stat = put(storage, noise(1000), FILE)
        reader = storage.open_content(stat)
        assert cost(lambda: storage.stat(FILE)) == ["GET"]
        assert cost(lambda: storage.get(FILE)) == ["GET"]
        assert cost(lambda: storage.get(FILE).read()) == ["GET", "GET"]
        assert cost(lambda: storage.exists(FILE)) == ["GET"]
        assert cost(lambda: storage.exists(OTHER_FILE)) == ["GET"]
        assert cost(lambda: reader.pread(3, 500)) == ["GET"]
        assert cost(lambda: reader.pread(1000, 5)) == []
        assert cost(lambda: storage.list()) == ["GET"]
        assert cost(lambda: storage.update(stat, modified=1)) == ["PATCH"]
        assert cost(lambda: storage.copy(stat, OTHER_FILE, METADATA, expect=ABSENT)) == ["POST"]
        assert cost(lambda: storage.replace(FILE, b"x", "a", "b/c")) == ["POST"]
        assert cost(lambda: storage.replace(FILE, b"x")) == ["GET", "POST"]
        assert cost(lambda: storage.delete(FILE)) == ["DELETE"]
        assert cost(lambda: storage.delete(FILE)) == ["DELETE"]
        assert cost(lambda: put(storage, noise(2 * PIECE + 1))) == ["POST", "PUT", "PUT", "PUT"]

    def test_listing(self, gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
        made = [new_uuid() for _ in range(1001)]
        with ThreadPoolExecutor(8) as pool:
            stats = dict(zip(made, pool.map(lambda file_id: put(storage, b"x", file_id), made), strict=True))
        before = len(gcs_fake.requests(storage.bucket_name))
        pages = list(storage.pages())
        assert [len(page) for page in pages] == [1000, 1]
        assert {entry.file_id: entry.stat for page in pages for entry in page} == stats
        assert len(gcs_fake.requests(storage.bucket_name)) == before + 2
        assert next(storage.pages(sorted(made)[999]))[0].file_id == max(made)

    def test_lines_come_with_one_request(self, gcs_fake: FakeGcsServer, storage: GCSStorage) -> None:
        file = storage.get(storage.create(b"line\n" * 2000))
        before = len(gcs_fake.requests(storage.bucket_name))
        assert list(file) == [b"line\n"] * 2000
        assert len(gcs_fake.requests(storage.bucket_name)) == before + 1

    def test_nothing_before_it_is_needed(self, gcs_fake: FakeGcsServer) -> None:
        dead = GCSStorage(bucket="b", endpoint=f"http://127.0.0.1:{free_port()}", policy="public-read")
        assert dead.identity().endswith("/b/")
        name = gcs_fake.new_bucket()
        GCSStorage(**gcs_fake.storage_options(name)).close()
        assert gcs_fake.requests(name) == []


@pytest.mark.xdist_group("gcs_fake")
class TestFormat:
    """What lies in the bucket, and what may lie there."""

    @pytest.fixture
    def storage(self, gcs_fake: FakeGcsServer) -> Iterator[GCSStorage]:
        storage = new_storage(gcs_fake)
        yield storage
        storage.close()

    def test_object(self, storage: GCSStorage) -> None:
        put(storage, b"x", FILE, metadata=FileMetadata('Привет "1%".txt', "text/x", 981173106), commit="c-1")
        blob = storage.bucket.get_blob("files/" + FILE)
        assert blob.metadata == {
            "x-depot-filename": "%D0%9F%D1%80%D0%B8%D0%B2%D0%B5%D1%82%20%221%25%22.txt",
            "x-depot-modified": "2001-02-03 04:05:06",
            "x-depot-content-type": "text/x",
            "x-depot-commit": "c-1",
        }
        assert blob.content_type == "text/x"
        assert blob.content_disposition == (
            'inline; filename="______ _1__.txt"; '
            "filename*=UTF-8''%D0%9F%D1%80%D0%B8%D0%B2%D0%B5%D1%82%20%221%25%22.txt"
        )

    def test_foreign_objects(self, storage: GCSStorage) -> None:
        def upload(name: str, metadata: dict[str, str] | None = None, kind: str = "text/x") -> None:
            blob = storage.bucket.blob(name)
            blob.metadata = metadata
            blob.upload_from_string(b"foreign", content_type=kind)

        for name in ("files/", "files/x", "files/" + FILE.upper(), f"files/{FILE}/deeper", FILE, "files" + FILE, "é"):
            upload(name)
        assert storage.list() == []
        upload("files/" + FILE)
        broken = {"x-depot-modified": "yesterday", "x-depot-filename": "100%.txt%zz", "x-depot-content-type": ""}
        upload("files/" + OTHER_FILE, broken)
        plain, odd = storage.stat(FILE), storage.stat(OTHER_FILE)
        assert plain.metadata == FileMetadata(UNNAMED, "text/x", plain.changed_ns // 10**9)
        assert odd.metadata == FileMetadata("100%.txt%zz", "text/x", odd.changed_ns // 10**9)
        assert plain.changed_ns > 1_700_000_000 * 10**9
        assert [entry.stat for page in storage.pages() for entry in page] == [plain, odd]
        renamed = storage.update(plain, filename="new")
        assert (renamed.metadata.filename, renamed.metadata.content_type) == ("new", "text/x")
        storage.replace(OTHER_FILE, b"y")
        assert storage.stat(OTHER_FILE).metadata.filename == "100%.txt%zz"

    def test_composed_object_has_another_checksum(self, storage: GCSStorage) -> None:
        parts = [storage.bucket.blob(name) for name in ("one", "two")]
        for part in parts:
            part.upload_from_string(b"part")
        storage.bucket.blob("files/" + FILE).compose(parts)
        assert storage.stat(FILE).checksum.startswith("crc32c:")
        assert storage.get(FILE).read() == b"partpart"

    def test_compressed_object_is_read_as_it_is_stored(self, storage: GCSStorage) -> None:
        blob = storage.bucket.blob("files/" + FILE)
        blob.content_encoding = "gzip"
        data = gzip.compress(noise(1000))
        blob.upload_from_string(data)
        assert storage.get(FILE).read() == data
        assert storage.open_content(FILE).pread(5, 7) == data[5:12]

    def test_storage_class(self, gcs_fake: FakeGcsServer) -> None:
        storage = new_storage(gcs_fake, storage_class="NEARLINE")
        stat = put(storage, b"x", FILE)
        storage.copy(stat, OTHER_FILE, METADATA)
        put(storage, noise(PIECE + 1), large := new_uuid())
        assert [storage.bucket.get_blob("files/" + i).storage_class for i in (FILE, OTHER_FILE, large)] == [
            "NEARLINE"
        ] * 3

    def test_versioned_bucket_keeps_old_readers(self, gcs_fake: FakeGcsServer) -> None:
        bucket = gcs_fake.new_bucket(versioning={"enabled": True})
        storage = GCSStorage(**gcs_fake.storage_options(bucket))
        old = put(storage, b"old", FILE)
        put(storage, b"new", FILE)
        assert content_of(storage, old) == b"old"
        storage.delete(FILE)
        assert storage.list() == []
        assert not storage.exists(FILE)


@pytest.mark.xdist_group("gcs_fake")
class TestAccess:
    """Who may read, and with which credentials."""

    def test_nothing_is_public_by_default(self, gcs_fake: FakeGcsServer) -> None:
        for policy in (None, "private"):
            storage = new_storage(gcs_fake, policy=policy)
            file = storage.get(storage.create(b"x"))
            assert file.public_url is None
            assert file.presigned_url(60) is None
            assert "acl" not in json.dumps(gcs_fake.requests(storage.bucket_name)).lower()

    def test_public_read(self, gcs_fake: FakeGcsServer) -> None:
        storage = new_storage(gcs_fake, policy="public-read")
        stat = put(storage, b"public", FILE)
        storage.copy(stat, OTHER_FILE, METADATA)
        large = put(storage, noise(PIECE + 1))
        for file_id in (FILE, OTHER_FILE, large.file_id):
            url = storage.get(file_id).public_url
            assert url == f"{gcs_fake.endpoint}/{storage.bucket_name}/files/{file_id}"
            assert _fetched(url) == content_of(storage, file_id)
        assert all("/iam" not in entry["path"] for entry in gcs_fake.requests(storage.bucket_name))

    def test_signed_urls(self, gcs_fake: FakeGcsServer, account: dict[str, str]) -> None:
        credentials = account | {"token_uri": f"{gcs_fake.endpoint}/token"}
        storage = new_storage(gcs_fake, anonymous=False, credentials=credentials, presign="1h")
        assert storage.presign_seconds == 3600
        file = storage.get(storage.create(b"private", "a b.txt"))
        for url, seconds in ((file.public_url, 3600), (file.presigned_url(60), 60), (file.presigned_url(1e9), 604800)):
            assert url is not None
            assert url.startswith(gcs_fake.endpoint + "/")
            assert f"X-Goog-Expires={seconds}&" in url
            assert _fetched(url) == b"private"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            _fetched(str(file.public_url).partition("?")[0])
        public = new_storage(gcs_fake, policy="public-read", presign="1h")
        assert public.presign_seconds is None  # its URLs are plain ones, good for ever
        unsigned = new_storage(gcs_fake, presign="1h")
        assert unsigned.get(unsigned.create(b"x")).public_url is None

    def test_credentials(
        self, gcs_fake: FakeGcsServer, account: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        info = account | {"token_uri": f"{gcs_fake.endpoint}/token"}
        path = tmp_path / "key.json"
        path.write_text(json.dumps(info))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
        given = new_storage(gcs_fake, anonymous=False, project_id=None, credentials=info).client._credentials
        for credentials in (info, json.dumps(info), str(path), path, given, None, ""):
            storage = new_storage(gcs_fake, anonymous=False, project_id=None, credentials=credentials)
            assert storage.client.project == "from-the-key"
            assert storage.get(storage.create(b"x")).read() == b"x"

    def test_no_credentials(self, gcs_fake: FakeGcsServer, account: dict[str, str], tmp_path: Path) -> None:
        path = tmp_path / "key.json"
        path.write_text(json.dumps(account))
        from_file = new_storage(gcs_fake, anonymous=False, credentials=str(path))
        path.unlink()
        wrong_key = account | {"private_key": "secret key"}
        incomplete = {"type": "service_account", "private_key": "secret key"}
        given: list[Any] = [incomplete, json.dumps(incomplete), wrong_key, json.dumps(wrong_key)]
        for storage in (from_file, *(new_storage(gcs_fake, anonymous=False, credentials=c) for c in given)):
            with pytest.raises((AccessDenied, ConfigurationError)) as raised:
                storage.list()
            assert "secret" not in "".join(traceback.format_exception(raised.value)) + repr(vars(raised.value))

    @pytest.mark.parametrize("by", ["option", "environment"])
    def test_a_file_that_is_no_key_is_named_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
    ) -> None:
        for name, content in {"none": None, "broken": "{", "list": "[]", "empty": "{}", "type": '{"type": 5}'}.items():
            path = tmp_path / f"{name}.json"
            if content is not None:
                path.write_text(content)
            if by == "environment":
                monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
            credentials = str(path) if by == "option" else None
            key = "credentials" if by == "option" else "GOOGLE_APPLICATION_CREDENTIALS"
            with pytest.raises(ConfigurationError, match=f"{key}.*{path}"):
                GCSStorage(bucket="b", credentials=credentials)
            GCSStorage(bucket="b", anonymous=True, credentials=credentials)
        (tmp_path / "binary").write_bytes(b"\xff")
        for path in (tmp_path, tmp_path / "binary"):
            with pytest.raises(ConfigurationError, match=str(path)):
                GCSStorage(bucket="b", credentials=path)
        for wrong in ({}, {"private_key": "x"}, 5, object()):
            with pytest.raises(ConfigurationError, match="GCS credentials"):
                GCSStorage(bucket="b", credentials=wrong)

    @pytest.mark.parametrize(
        "key",
        [
            '{"private_key": "secret"',
            ' \n{"private_key": "secret"}',
            '{"type": "service_account", "private_key": "secret"} secret',
            "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n",
            "secret" * 100,
            "secret\0",
        ],
        ids=repr,
    )
    def test_a_key_in_place_of_a_path_is_never_shown(self, key: str) -> None:
        with pytest.raises(ConfigurationError, match="GCS credentials") as raised:
            GCSStorage(bucket="b", credentials=key)
        assert "secret" not in "".join(traceback.format_exception(raised.value)) + repr(raised.value)

    def test_the_key_is_in_no_text(self, gcs_fake: FakeGcsServer, account: dict[str, str]) -> None:
        secrets = [account["private_key"][40:80], "not to be told"]
        info = account | {"token_uri": f"{gcs_fake.endpoint}/token", "private_key_id": "not to be told"}
        for credentials in (info, json.dumps(info), " " + json.dumps(info)):
            storage = new_storage(gcs_fake, anonymous=False, credentials=credentials, presign="1h")
            file = storage.get(storage.create(b"x"))
            parts = (storage, storage._requests, storage._requests._client, storage._requests._client._given, file)
            texts = [storage.identity(), *map(repr, parts)]
            with gcs_fake.faults({"status": 400, "path": "^/token", "times": 9}), pytest.raises(AccessDenied) as raised:
                new_storage(gcs_fake, anonymous=False, credentials=credentials).list()
            texts += traceback.format_exception(raised.value)
            assert [text for text in texts if any(secret in text for secret in secrets)] == []

    def test_refused_token(self, gcs_fake: FakeGcsServer, account: dict[str, str]) -> None:
        storage = new_storage(
            gcs_fake, anonymous=False, credentials=account | {"token_uri": f"{gcs_fake.endpoint}/token"}
        )
        with gcs_fake.faults({"status": 400, "path": "^/token", "times": 9}), pytest.raises(AccessDenied):
            storage.list()
        assert storage.list() == []

    def test_emulator_of_the_environment(self, gcs_fake: FakeGcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
        for value in (gcs_fake.endpoint, gcs_fake.endpoint.removeprefix("http://")):
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", value)
            storage = GCSStorage(bucket=gcs_fake.new_bucket())
            assert storage.get(storage.create(b"x")).read() == b"x"


@pytest.mark.xdist_group("gcs_fake")
class TestLife:
    """Options, buckets, threads and processes."""

    def test_create_bucket(self, gcs_fake: FakeGcsServer) -> None:
        options = gcs_fake.storage_options("made-" + new_uuid()) | {"create_bucket": True, "storage_class": "COLDLINE"}
        first = GCSStorage(**options, attempts=1)
        assert gcs_fake.requests(first.bucket_name) == []
        with gcs_fake.faults({"status": 503}), pytest.raises(StorageUnavailable):  # nothing final
            first.list()
        with ThreadPoolExecutor(4) as pool:
            ids = set(pool.map(lambda _: first.create(b"x"), range(4)))
        before = len(gcs_fake.requests(first.bucket_name))
        second = GCSStorage(**options)
        assert set(second.list()) == ids
        assert len(gcs_fake.requests(first.bucket_name)) == before + 2
        assert second.client.get_bucket(second.bucket_name).storage_class == "COLDLINE"
        with pytest.raises(ConfigurationError, match="project_id"):
            GCSStorage(**options | {"bucket": "made-" + new_uuid(), "project_id": None}).list()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"bucket": None},
            {"policy": "public"},
            {"presign": "soon"},
            {"presign": "8d"},
            {"timeout": 0},
            {"timeout": "soon"},
            {"attempts": 0},
            {"endpoint": "http://user:password@localhost"},
        ],
        ids=str,
    )
    def test_wrong_options(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            GCSStorage(**{"bucket": "b", **wrong})

    def test_options_are_filedepots(self) -> None:
        names = list(inspect.signature(GCSStorage).parameters)
        assert names[:6] == ["project_id", "credentials", "bucket", "policy", "storage_class", "prefix"]

    def test_identity(self) -> None:
        def identity(**options: Any) -> str:
            return GCSStorage(**{"bucket": "b", "anonymous": True, **options}).identity()

        assert identity() == "gcs:https://storage.googleapis.com/b/"
        others = [{"bucket": "c"}, {"prefix": "p"}, {"endpoint": "http://localhost:1/"}]
        assert len({identity(), *(identity(**other) for other in others)}) == 4

    def test_first_use_by_many_threads(self, gcs_fake: FakeGcsServer) -> None:
        storage = new_storage(gcs_fake)
        start = threading.Barrier(16)

        def act(number: int) -> bytes:
            start.wait()
            return content_of(storage, put(storage, b"%d" % number))

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(act, range(16))) == [b"%d" % number for number in range(16)]
        assert len(storage.list()) == 16

    def test_a_fork_while_another_thread_makes_the_client(
        self, gcs_fake: FakeGcsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The child has not the thread that would end it, and does it by itself."""
        made, begun, go_on = gcs_client._new_session, threading.Event(), threading.Event()

        def slow(*arguments: Any, **options: Any) -> Any:
            begun.set()
            go_on.wait()
            return made(*arguments, **options)

        monkeypatch.setattr(gcs_client, "_new_session", slow)
        options = gcs_fake.storage_options("made-" + new_uuid()) | {"create_bucket": True}
        storage = GCSStorage(**options)
        with ThreadPoolExecutor(1) as pool:
            listed = pool.submit(storage.list)
            begun.wait()

            def use() -> None:
                go_on.set()  # the child's own
                put(storage, b"by the child", FILE)
                storage.close()

            try:
                assert in_child(use) == 0
            finally:
                go_on.set()
            assert listed.result() in ([], [FILE])
        assert content_of(storage, FILE) == b"by the child"

    def test_child_process_has_connections_of_its_own(self, gcs_fake: FakeGcsServer) -> None:
        storage = new_storage(gcs_fake)
        stat = put(storage, noise(100_000), FILE)
        client = storage.client
        child = os.fork()
        if child == 0:
            status = 1
            try:
                same = storage.client is client
                status = 0 if not same and content_of(storage, stat) == noise(100_000) else 2
            finally:
                os._exit(status)
        mine = [content_of(storage, stat) for _ in range(20)]
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert mine == [noise(100_000)] * 20
        assert storage.client is client


def _fetched(url: str | None) -> bytes:
    assert url is not None
    with urllib.request.urlopen(url, timeout=10) as answer:
        data: bytes = answer.read()
    return data
