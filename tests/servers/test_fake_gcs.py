"""The fake Google Cloud Storage does what the service documents, as its own client library sees it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from tests.servers.gcs import FakeGcsServer

pytestmark = pytest.mark.xdist_group("gcs_fake")
UNIT = 256 << 10
ONCE: dict[str, Any] = {"retry": None, "timeout": 20}


@pytest.fixture
def bucket(gcs_fake: FakeGcsServer) -> Any:
    credentials: Any = AnonymousCredentials
    client = storage.Client("test", credentials(), client_options={"api_endpoint": gcs_fake.endpoint})
    return client.bucket(gcs_fake.new_bucket())


def upload(bucket: Any, name: str, data: bytes = b"0123456789", **conditions: Any) -> Any:
    blob = bucket.blob(name)
    blob.upload_from_string(data, content_type="text/x", **ONCE, **conditions)
    return blob


def http(method: str, url: str, headers: dict[str, str], data: bytes | None = None) -> tuple[int, dict[str, str]]:
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers)


def test_resource(bucket: Any) -> None:
    blob = bucket.blob("dé/ñ?#")
    blob.metadata = {"k": "é"}
    blob.storage_class, blob.content_disposition = "NEARLINE", "attachment"
    blob.upload_from_string(b"hello", content_type="text/x", **ONCE)
    found = bucket.get_blob("dé/ñ?#")
    assert (found.size, found.content_type, found.metadata, found.metageneration) == (5, "text/x", {"k": "é"}, 1)
    assert (found.storage_class, found.content_disposition) == ("NEARLINE", "attachment")
    assert base64.b64decode(found.md5_hash) == hashlib.md5(b"hello").digest()
    assert found.crc32c == "mnG7TA=="
    assert found.updated is not None
    assert bucket.get_blob("other") is None
    with pytest.raises(exceptions.NotFound, match="bucket does not exist"):
        bucket.client.get_bucket("none", **ONCE)


def test_ranges(bucket: Any) -> None:
    blob = upload(bucket, "r")
    cases: list[tuple[Any, Any, bytes]] = [(2, 4, b"234"), (8, None, b"89"), (-3, None, b"789"), (5, 99, b"56789")]
    for start, end, expected in cases:
        assert blob.download_as_bytes(start=start, end=end, **ONCE) == expected
    with pytest.raises(exceptions.RequestRangeNotSatisfiable):
        blob.download_as_bytes(start=10, end=12, **ONCE)
    assert upload(bucket, "empty", b"").download_as_bytes(**ONCE) == b""


def _patch(blob: Any, **conditions: Any) -> None:
    blob.metadata = {"x": "y"}
    blob.patch(**ONCE, **conditions)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "upload": lambda bucket, **c: upload(bucket, "a", **c),
    "resumable": lambda bucket, **c: bucket.blob("a", chunk_size=UNIT).upload_from_file(
        io.BytesIO(bytes(UNIT + 1)), **ONCE, **c
    ),
    "download": lambda bucket, **c: bucket.blob("a").download_as_bytes(**ONCE, **c),
    "reload": lambda bucket, **c: bucket.blob("a").reload(**ONCE, **c),
    "patch": lambda bucket, **c: _patch(bucket.blob("a"), **c),
    "rewrite": lambda bucket, **c: bucket.blob("a").rewrite(bucket.blob("other"), **ONCE, **c),
    "source": lambda bucket, **c: bucket.blob("copy").rewrite(
        bucket.blob("a"), **ONCE, **{key.replace("if_", "if_source_"): value for key, value in c.items()}
    ),
    "delete": lambda bucket, **c: bucket.blob("a").delete(**ONCE, **c),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_preconditions(bucket: Any, name: str) -> None:
    upload(bucket, "other")
    upload(bucket, "a")
    current = bucket.get_blob("a").generation
    refusal: Any = exceptions.PreconditionFailed
    unless_changed: Any = exceptions.NotModified if name in ("download", "reload") else refusal
    for condition in ({"if_generation_match": 1}, {"if_metageneration_match": 9}, {"if_generation_match": 0}):
        with pytest.raises(refusal):
            OPERATIONS[name](bucket, **condition)
    unwanted = [{"if_generation_not_match": current}, {"if_metageneration_not_match": 1}]
    for condition in unwanted[: 1 if name in ("upload", "resumable") else 2]:  # the library misspells the second there
        with pytest.raises(unless_changed):
            OPERATIONS[name](bucket, **condition)
    assert bucket.get_blob("a").generation == current
    OPERATIONS[name](bucket, if_generation_match=current, if_metageneration_match=1, if_generation_not_match=0)


def test_absent_objects_have_generation_0(bucket: Any) -> None:
    with pytest.raises(exceptions.PreconditionFailed):
        upload(bucket, "a", if_generation_not_match=0)
    with ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(upload, bucket, "a", b"%d" % n, if_generation_match=0) for n in range(8)]
    assert [type(t.exception()) for t in tries].count(type(None)) == 1
    with pytest.raises(exceptions.NotFound):
        bucket.blob("b").delete(if_generation_match=5, **ONCE)


def test_resumable_upload(bucket: Any) -> None:
    blob = bucket.blob("r")
    blob.metadata = {"m": "1"}
    url = blob.create_resumable_upload_session(content_type="video/x", **ONCE)
    status, headers = http("PUT", url, {"Content-Range": f"bytes 0-{UNIT + 4}/*"}, bytes(UNIT + 5))
    assert (status, headers["Range"]) == (308, f"bytes=0-{UNIT - 1}")  # whole units only
    assert bucket.get_blob("r") is None
    assert http("PUT", url, {"Content-Range": "bytes */*"}, b"")[1]["Range"] == f"bytes=0-{UNIT - 1}"
    assert http("PUT", url, {"Content-Range": f"bytes {UNIT + 1}-{UNIT + 1}/*"}, b"x")[0] == 400
    assert http("PUT", url, {"Content-Range": f"bytes {UNIT}-{UNIT + 2}/{UNIT + 3}"}, b"end")[0] == 200
    assert http("PUT", url, {"Content-Range": "bytes */*"}, b"")[0] == 200
    found = bucket.get_blob("r")
    assert (found.size, found.content_type, found.metadata) == (UNIT + 3, "video/x", {"m": "1"})
    url = blob.create_resumable_upload_session(content_type="video/x", **ONCE)
    assert http("DELETE", url, {})[0] == 499
    assert http("PUT", url, {"Content-Range": "bytes */*"}, b"")[0] == 404


def test_wrong_checksums_are_refused(bucket: Any) -> None:
    for field in ("md5_hash", "crc32c"):
        blob = bucket.blob("c")
        setattr(blob, field, "AAAAAA==")
        with pytest.raises(exceptions.BadRequest):
            blob.upload_from_string(b"x", checksum=None, **ONCE)
    url = bucket.blob("c").create_resumable_upload_session(**ONCE)
    headers = {"Content-Range": "bytes 0-0/1", "X-Goog-Hash": "crc32c=AAAAAA=="}
    assert http("PUT", url, headers, b"x")[0] == 400
    assert bucket.get_blob("c") is None


def test_patch_merges(bucket: Any) -> None:
    blob = bucket.blob("p")
    blob.metadata = {"a": "1", "b": "2"}
    blob.upload_from_string(b"x", **ONCE)
    blob.metadata = {"a": None, "c": "3"}
    blob.content_type = "text/y"
    blob.patch(**ONCE)
    found = bucket.get_blob("p")
    assert (found.metadata, found.content_type) == ({"b": "2", "c": "3"}, "text/y")
    assert (found.metageneration, found.generation) == (2, blob.generation)


def test_listing(bucket: Any) -> None:
    names = [f"p/{n:02}" for n in range(7)] + ["p/q/1", "p/q/2", "p/é", "q"]
    for name in names:
        upload(bucket, name, b"")

    def listed(**options: Any) -> list[str]:
        return [blob.name for blob in bucket.client.list_blobs(bucket, **options)]

    assert listed() == names
    assert listed(prefix="p/", page_size=3) == names[:-1]
    assert listed(prefix="p/", start_offset="p/05", end_offset="p/q") == ["p/05", "p/06"]
    found = bucket.client.list_blobs(bucket, prefix="p/", delimiter="/", page_size=2)
    assert [blob.name for blob in found] == [*names[:7], "p/é"]
    assert found.prefixes == {"p/q/"}
    one = next(iter(bucket.client.list_blobs(bucket, fields="items(name,size),nextPageToken")))
    assert set(one._properties) == {"name", "size"}


def test_rewrite_and_compose(bucket: Any, gcs_fake: FakeGcsServer) -> None:
    source = bucket.blob("s")
    source.metadata = {"k": "v"}
    source.upload_from_string(b"source", content_type="a/b", **ONCE)
    bucket.copy_blob(source, bucket, "copied", **ONCE)
    assert (bucket.get_blob("copied").metadata, bucket.get_blob("copied").content_type) == ({"k": "v"}, "a/b")
    target = bucket.blob("rewritten")
    target.content_type = "c/d"
    with gcs_fake.faults(rewrite_step=4):
        token, done, total = target.rewrite(source, **ONCE)
        assert (done, total, bucket.get_blob("rewritten")) == (4, 6, None)
        assert target.rewrite(source, token=token, **ONCE) == (None, 6, 6)
    assert bucket.get_blob("rewritten").content_type == "c/d"
    bucket.blob("both").compose([source, target], **ONCE)
    assert bucket.get_blob("both").md5_hash is None
    assert bucket.blob("both").download_as_bytes(**ONCE) == b"sourcesource"


def test_versions(bucket: Any) -> None:
    bucket.versioning_enabled = True
    bucket.patch(**ONCE)
    generations = [upload(bucket, "v", data).generation for data in (b"1", b"2")]
    assert len(list(bucket.client.list_blobs(bucket, versions=True))) == 2
    assert bucket.blob("v", generation=generations[0]).download_as_bytes(**ONCE) == b"1"
    bucket.blob("v").delete(**ONCE)
    assert list(bucket.client.list_blobs(bucket)) == []
    bucket.blob("v", generation=generations[1]).delete(**ONCE)
    assert len(list(bucket.client.list_blobs(bucket, versions=True))) == 1


def test_access(bucket: Any, gcs_fake: FakeGcsServer) -> None:
    upload(bucket, "private")
    upload(bucket, "public", predefined_acl="publicRead")
    codes = [http("GET", f"{gcs_fake.endpoint}/{bucket.name}/{name}", {})[0] for name in ("private", "public", "none")]
    assert codes == [403, 200, 404]
    blob = bucket.get_blob("private")
    blob.make_public(**ONCE)
    assert any(entry["entity"] == "allUsers" for entry in bucket.blob("private").acl)
    policy = bucket.get_iam_policy(requested_policy_version=3, **ONCE)
    policy.bindings.append({"role": "roles/storage.objectViewer", "members": {"allUsers"}})
    bucket.set_iam_policy(policy, **ONCE)
    assert "allUsers" in str(bucket.get_iam_policy(requested_policy_version=3, **ONCE).bindings)
    uniform = {"iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}}}
    with pytest.raises(exceptions.BadRequest):
        upload(bucket.client.bucket(gcs_fake.new_bucket(**uniform)), "x", predefined_acl="publicRead")


def test_compressed_and_odd(bucket: Any) -> None:
    blob = bucket.blob("gz")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(b"abc"), **ONCE)
    assert bucket.blob("gz").download_as_bytes(raw_download=True, **ONCE)[:2] == b"\x1f\x8b"
    assert bucket.blob("gz").download_as_bytes(checksum=None, **ONCE) == b"abc"
    upload(bucket, "n" * 1024, b"")
    with pytest.raises(exceptions.BadRequest):
        upload(bucket, "n" * 1025, b"")
    with bucket.client.batch():
        bucket.blob("gz").delete()
        bucket.blob("n" * 1024).delete()
    assert list(bucket.client.list_blobs(bucket)) == []


def test_faults_and_log(bucket: Any, gcs_fake: FakeGcsServer) -> None:
    blob = upload(bucket, "f")
    with gcs_fake.faults({"status": 503, "method": "GET"}, {"cut": 3, "query": "alt=media"}):
        with pytest.raises(exceptions.ServiceUnavailable):
            blob.reload(**ONCE)
        with pytest.raises(OSError, match=r"[Cc]onnection|[Ii]ncomplete"):
            blob.download_as_bytes(**ONCE)
    assert blob.download_as_bytes(**ONCE) == b"0123456789"
    entries = [(entry["method"], entry["path"].rpartition("/")[2]) for entry in gcs_fake.requests(bucket.name)]
    entries = [entry for entry in entries if entry[1] != bucket.name]  # the library looks at the bucket, too
    assert entries == [("POST", "o"), ("GET", "f"), ("GET", "f"), ("GET", "f")]
    assert json.dumps(gcs_fake.requests("another-bucket")) == "[]"
