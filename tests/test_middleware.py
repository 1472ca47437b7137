"""The middleware as a WSGI application: its addresses, and the answers that RFC 9110 asks for."""

from __future__ import annotations

import email
import io
import logging
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depotfs.errors import AccessDenied, FileNotStored, StorageUnavailable, VersionChanged
from depotfs.http_policy import MAX_RANGES, presigned_seconds, select_spans
from depotfs.io.interfaces import FileStorage, StoredFile
from depotfs.io.memory import MemoryFileStorage
from depotfs.io.utils import FileIntent
from depotfs.manager import DepotManager
from depotfs.middleware import DepotMiddleware
from depotfs.types import FileId, FileStat

DATA = bytes(range(100))
DATE = "Sat, 14 Nov 2026 10:20:30 GMT"
EARLIER = "Sat, 14 Nov 2026 10:20:29 GMT"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    problem: BaseException | None = None


def get(app: Callable[..., Any], path: str, method: str = "GET", **headers: str) -> Answer:
    """The answer of the application, checked against PEP 3333; `problem` is what ended its body early."""
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": ""}
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    setup_testing_defaults(environ)
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., Any]:
        started.append((int(status.split()[0]), headers))
        return lambda data: None

    pieces: list[bytes] = []
    problem = None
    answer = validator(app)(environ, start_response)
    try:
        pieces.extend(answer)
    except Exception as error:
        problem = error
    finally:
        answer.close()  # type: ignore[attr-defined]
    ((status, found),) = started
    assert len({name for name, _ in found}) == len(found)
    return Answer(status, dict(found), b"".join(pieces), problem)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"the application"]


@pytest.fixture(autouse=True)
def _manager() -> Iterator[None]:
    DepotManager._clear()
    yield
    DepotManager._clear()


@pytest.fixture(params=["memory", "local"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    options = {
        "memory": {"depot.backend": "depotfs.io.memory.MemoryFileStorage"},
        "local": {"depot.storage_path": str(tmp_path)},
    }
    return DepotManager.configure("files", options[request.param])


@pytest.fixture
def memory() -> Any:
    return DepotManager.configure("files", {"depot.backend": "depotfs.io.memory.MemoryFileStorage"})


@pytest.fixture
def app() -> DepotMiddleware:
    return DepotMiddleware(application)


class Given(StoredFile):
    """Content, for storing it under an id and a time of one's own."""

    def __init__(self, data: bytes, modified: datetime, file_id: str, name: str = "a.bin") -> None:
        super().__init__(file_id, name, "application/octet-stream", modified, len(data))
        self._stream = io.BytesIO(data)

    def read(self, n: int | None = -1) -> bytes:
        return self._stream.read(n)


ID = "590f20fd-d941-5e6d-b65e-8496d7f4da20"


def put(storage: Any, data: bytes = DATA, name: str = "a.bin") -> str:
    content = Given(data, datetime(2026, 11, 14, 10, 20, 30), ID, name)
    storage.replace(content, content)
    return f"/depot/files/{ID}"


# --- addresses ------------------------------------------------------------------------------------------------


def test_a_stored_file_is_sent_with_its_metadata(storage: Any, app: DepotMiddleware) -> None:
    name = 'Привет "мир", 🎉;.txt'
    file_id = storage.create(FileIntent(DATA, name, "text/plain; charset=utf-8"))
    answer = get(app, app.url_for(f"files/{file_id}"))
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Content-Length"] == "100"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Cache-Control"] == "max-age=604800, public"
    kind, plain, encoded = answer.headers["Content-Disposition"].split("; ")
    assert (kind, plain.isascii(), unquote(encoded)) == ("inline", True, f"filename*=UTF-8''{name}")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/depot", 404),
        ("/depot/", 404),
        ("/depot/files", 404),
        ("/depot/files/", 404),
        ("/depot/files/not-an-id", 404),
        ("/depot/files/00000000-0000-0000-0000-000000000000", 404),
        (f"/depot/nothing/{ID}", 404),
        (f"/depot/x/files/{ID}", 404),
        (f"/depot/files/{ID}/", 404),
        (f"/depot/files/../files/{ID}", 404),
        (f"/depot/files/{ID}", 200),
        (f"/depot//files/{ID}", 200),
        (f"/depot/alias/{ID}", 200),
        (f"/depot/files/{ID.upper()}", 200),
    ],
)
def test_only_a_storage_and_an_id_below_the_mountpoint_name_a_file(
    memory: Any, app: DepotMiddleware, path: str, status: int
) -> None:
    put(memory)
    DepotManager.alias("alias", "files")
    answer = get(app, path)
    assert answer.status == status
    assert answer.body != b"the application"


def test_everything_else_is_the_applications(memory: Any, app: DepotMiddleware) -> None:
    path = put(memory)
    for method, other in (("GET", "/"), ("GET", "/depots/files/x"), ("POST", path), ("OPTIONS", path), ("PUT", path)):
        assert get(app, other, method).body == b"the application"


@pytest.mark.parametrize("mountpoint", ["/", "/depot/", "/a/b"])
def test_url_for_names_what_is_served(memory: Any, mountpoint: str) -> None:
    put(memory)
    app = DepotManager.make_middleware(application, mountpoint=mountpoint)
    url = DepotManager.url_for(f"files/{ID}")
    assert "//" not in url
    assert get(app, url).body == DATA
    assert get(app, "/elsewhere/files").body == b"the application"


def test_a_mountpoint_is_absolute() -> None:
    with pytest.raises(ValueError, match="absolute path"):
        DepotMiddleware(application, mountpoint="depot")


def test_a_storage_whose_name_is_not_ascii_is_found(app: DepotMiddleware) -> None:
    storage = DepotManager.configure("фото", {"depot.backend": "depotfs.io.memory.MemoryFileStorage"})
    put(storage)
    assert get(app, f"/depot/фото/{ID}".encode().decode("latin-1")).body == DATA


# --- conditions and ranges ------------------------------------------------------------------------------------

CONDITIONS = [
    ({"if_none_match": "{etag}"}, 304),
    ({"if_none_match": "W/{etag}"}, 304),
    ({"if_none_match": '"x,y", {etag}'}, 304),
    ({"if_none_match": "*"}, 304),
    ({"if_none_match": '"other"'}, 200),
    ({"if_modified_since": DATE}, 304),
    ({"if_modified_since": EARLIER}, 200),
    ({"if_modified_since": "yesterday"}, 200),
    ({"if_modified_since": "Sat, 14 Nov 99999 10:20:30 GMT"}, 200),
    ({"if_none_match": '"other"', "if_modified_since": DATE}, 200),
    ({"if_none_match": "{etag}", "if_modified_since": EARLIER}, 304),
    ({"if_match": "{etag}"}, 200),
    ({"if_match": '"other", {etag}'}, 200),
    ({"if_match": "*"}, 200),
    ({"if_match": '"other"'}, 412),
    ({"if_match": "W/{etag}"}, 412),
    ({"if_unmodified_since": DATE}, 200),
    ({"if_unmodified_since": EARLIER}, 412),
    ({"if_unmodified_since": "nonsense"}, 200),
    ({"if_match": "{etag}", "if_unmodified_since": EARLIER}, 200),
    ({"if_match": '"other"', "if_none_match": "{etag}"}, 412),
    ({"if_none_match": "{etag}", "range": "bytes=0-1"}, 304),
    ({"if_match": '"other"', "range": "bytes=0-1"}, 412),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("headers", "status"), CONDITIONS, ids=str)
def test_preconditions(memory: Any, app: DepotMiddleware, headers: dict[str, str], status: int, method: str) -> None:
    path = put(memory)
    etag = get(app, path).headers["ETag"]
    answer = get(app, path, method, **{name: value.format(etag=etag) for name, value in headers.items()})
    assert answer.status == status
    assert answer.headers["ETag"] == etag
    assert answer.headers["Last-Modified"] == DATE
    if status != 412:
        assert answer.headers["Cache-Control"] == "max-age=604800, public"
    if status == 304:
        assert answer.body == b""
        assert "Content-Length" not in answer.headers


RANGES = [
    ("bytes=0-0", [(0, 1)]),
    ("bytes=10-19", [(10, 20)]),
    ("bytes=90-", [(90, 100)]),
    ("bytes=-5", [(95, 100)]),
    ("bytes=-500", [(0, 100)]),
    ("bytes=99-1000", [(99, 100)]),
    ("BYTES = 0-1", [(0, 2)]),
    ("bytes=0-1,2-3", [(0, 4)]),  # they touch
    ("bytes=5-20,0-9", [(0, 21)]),  # they overlap
    ("bytes=0-9,500-600", [(0, 10)]),  # the second is not there
    ("bytes=0-1,50-51,-2", [(0, 2), (50, 52), (98, 100)]),
    ("bytes=50-51,0-1", [(50, 52), (0, 2)]),
    ("bytes=100-", []),
    ("bytes=-0", []),
    ("bytes=-00, 100-", []),
    ("bytes=-0,0-1", [(0, 2)]),
    ("bytes=100-200,300-", []),
    ("bytes=5-4", None),
    ("bytes=a-b", None),
    ("bytes=-", None),
    ("bytes=", None),
    ("bytes 0-1", None),
    ("bytes=0-1,", None),
    ("bytes=0-1;2-3", None),
    ("lines=0-1", None),
    ("bytes=1-1,1-x", None),
    ("bytes=" + ",".join(f"{i}-{i}" for i in range(0, 40, 2)), None),  # too many
]


@pytest.mark.parametrize(("header", "spans"), RANGES, ids=[header[:30] for header, _ in RANGES])
def test_ranges(storage: Any, app: DepotMiddleware, header: str, spans: list[tuple[int, int]] | None) -> None:
    answer = get(app, put(storage), range=header)
    if spans is None:
        assert (answer.status, answer.body) == (200, DATA)
    elif not spans:
        assert answer.status == 416
        assert answer.headers["Content-Range"] == "bytes */100"
    else:
        assert answer.status == 206
        assert int(answer.headers["Content-Length"]) == len(answer.body)
        assert parts(answer) == [(f"bytes {a}-{b - 1}/100", DATA[a:b]) for a, b in spans]


def parts(answer: Answer) -> list[tuple[str, bytes]]:
    """(Content-Range, bytes) of every part of the answer."""
    if not answer.headers["Content-Type"].startswith("multipart/byteranges"):
        return [(answer.headers["Content-Range"], answer.body)]
    assert "Content-Range" not in answer.headers
    boundary = b"\r\n--" + answer.headers["Content-Type"].partition("boundary=")[2].encode()
    before, *found, end = answer.body.split(boundary)
    assert (before, end) == (b"", b"--\r\n")
    heads = [part.partition(b"\r\n\r\n") for part in found]
    messages = [(email.message_from_bytes(head.lstrip()), data) for head, _, data in heads]
    assert all(message["Content-Type"] == "application/octet-stream" for message, _ in messages)
    return [(message["Content-Range"], data) for message, data in messages]


_NUMBER = st.integers(0, 60)
_ASKED = st.one_of(
    st.tuples(_NUMBER, st.none()), st.tuples(st.none(), st.integers(1, 60)), st.tuples(_NUMBER, _NUMBER).map(sorted)
)


@settings(deadline=None)
@given(st.integers(0, 40), st.lists(_ASKED, min_size=1, max_size=MAX_RANGES))
def test_spans_hold_just_what_was_asked_for_once(size: int, asked: list[Any]) -> None:
    wanted: set[int] = set()
    for first, last in asked:
        start = max(0, size - last) if first is None else first
        stop = size if first is None or last is None else min(size, last + 1)
        wanted |= set(range(start, stop))
    header = ",".join(f"{'' if a is None else a}-{'' if b is None else b}" for a, b in asked)
    spans = select_spans(f"bytes={header}", size)
    assert spans is not None
    got = [position for span in spans for position in range(span.start, span.stop)]
    assert (len(got), set(got)) == (len(wanted), wanted)
    assert all(a.stop != b.start for a in spans for b in spans)


@settings(deadline=None)
@given(st.text("0123456789-,=\t absx²", max_size=30))
def test_no_range_header_is_an_error(header: str) -> None:
    for text in (header, f"bytes={header}"):
        assert all(0 <= span.start < span.stop <= 100 for span in select_spans(text, 100) or ())


def test_if_range_needs_the_same_strong_tag(memory: Any, app: DepotMiddleware) -> None:
    path = put(memory)
    etag = get(app, path).headers["ETag"]
    status = {
        value: get(app, path, range="bytes=1-2", if_range=value).status
        for value in (etag, f"W/{etag}", '"other"', DATE, "nonsense")
    }
    assert status == {etag: 206, f"W/{etag}": 200, '"other"': 200, DATE: 200, "nonsense": 200}


def test_of_an_empty_file_no_range_can_be_had(storage: Any, app: DepotMiddleware) -> None:
    path = put(storage, b"")
    assert (get(app, path).status, get(app, path).headers["Content-Length"], get(app, path).body) == (200, "0", b"")
    answer = get(app, path, range="bytes=0-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */0")


def test_head_says_what_get_would_say_and_ignores_ranges(storage: Any, app: DepotMiddleware) -> None:
    path = put(storage)
    whole, head = get(app, path), get(app, path, "HEAD", range="bytes=0-1")
    assert (head.status, head.body) == (200, b"")
    del whole.headers["Expires"], head.headers["Expires"]
    assert head.headers == whole.headers
    assert get(app, "/depot/files/x", "HEAD").body == b""


@pytest.mark.parametrize("change", ["content", "filename"])
def test_the_tag_changes_with_a_replacement_of_the_same_second_and_length(
    storage: Any, app: DepotMiddleware, change: str
) -> None:
    old = get(app, put(storage)).headers["ETag"]
    path = put(storage, DATA[::-1]) if change == "content" else put(storage, name="b.bin")
    answer = get(app, path, if_none_match=old)
    assert answer.status == 200
    assert answer.headers["ETag"] != old


@pytest.mark.parametrize(("age", "expected"), [(60, "max-age=60, public"), (0, "max-age=0, public"), (None, None)])
def test_cache_max_age(memory: Any, age: int | None, expected: str | None) -> None:
    answer = get(DepotMiddleware(application, cache_max_age=age), put(memory))
    assert answer.headers.get("Cache-Control") == expected
    assert ("Expires" in answer.headers) == (expected is not None)


# --- what must not be believed --------------------------------------------------------------------------------


def test_no_stored_text_becomes_a_header_line(memory: Any, app: DepotMiddleware) -> None:
    evil = 'x"\r\nSet-Cookie: a=b\r\n\r\n<script>'
    file_id = memory.create(FileIntent(DATA, evil, f"text/plain\r\nSet-Cookie: a=b{evil}"))
    answer = get(app, f"/depot/files/{file_id}")
    assert answer.status == 200
    assert not [value for value in answer.headers.values() if "\r" in value or "\n" in value]
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert unquote(answer.headers["Content-Disposition"]).endswith(f"filename*=UTF-8''{evil}")


@pytest.mark.parametrize(
    ("content_type", "sent", "disposition"),
    [
        ("text/html", "text/html", "attachment"),
        ("TEXT/HTML ; charset=utf-8", "TEXT/HTML ; charset=utf-8", "attachment"),
        ("image/svg+xml", "image/svg+xml", "attachment"),
        ("application/xml", "application/xml", "attachment"),
        ("application/atom+xml", "application/atom+xml", "attachment"),
        ("text/javascript", "text/javascript", "attachment"),
        ("application/pdf", "application/pdf", "inline"),
        ("image/png", "image/png", "inline"),
        ("text/html,", "application/octet-stream", "inline"),
        ("html", "application/octet-stream", "inline"),
        ("text/plain; a=\x01", "application/octet-stream", "inline"),
        ("текст/html", "application/octet-stream", "inline"),
    ],
)
def test_what_a_browser_might_run_is_an_attachment(
    memory: Any, app: DepotMiddleware, content_type: str, sent: str, disposition: str
) -> None:
    file_id = memory.create(FileIntent(DATA, "a", content_type))
    answer = get(app, f"/depot/files/{file_id}")
    assert answer.headers["Content-Type"] == sent
    assert answer.headers["Content-Disposition"].split(";")[0] == disposition


@pytest.mark.parametrize(("types", "disposition"), [([], "inline"), (["*"], "attachment"), (["text/*"], "attachment")])
def test_attachment_types_can_be_chosen(memory: Any, types: list[str], disposition: str) -> None:
    file_id = memory.create(FileIntent(DATA, "a", "text/html"))
    answer = get(DepotMiddleware(application, attachment_types=types), f"/depot/files/{file_id}")
    assert answer.headers["Content-Disposition"].startswith(disposition)


# --- redirects ------------------------------------------------------------------------------------------------


class Public(MemoryFileStorage):
    url = 'https://bucket.test/a b"\r\nX: y/é?sig=%2F&x=<1>'

    def public_url(self, stat: FileStat) -> str | None:
        return self.url


class Presigned(Public):
    url = "https://bucket.test/key?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=3600&X-Amz-Signature=0a"


def test_a_public_file_is_a_permanent_redirect(app: DepotMiddleware) -> None:
    path = put(DepotManager.configure("files", {"depot.backend": f"{__name__}.Public"}))
    answer = get(app, path, if_none_match="*")
    assert answer.status == 301
    assert answer.headers["Location"] == "https://bucket.test/a%20b%22%0D%0AX:%20y/%C3%A9?sig=%2F&x=%3C1%3E"
    assert answer.headers["Cache-Control"] == "max-age=604800, public"
    assert b"<1>" not in answer.body
    assert get(app, path, "HEAD").status == 301
    assert get(app, path, "HEAD").body == b""


@pytest.mark.parametrize(("age", "expected"), [(604800, 1800), (60, 60), (None, 1800)])
def test_a_presigned_url_is_a_redirect_that_ends_before_it(age: int | None, expected: int) -> None:
    app = DepotMiddleware(application, cache_max_age=age)
    path = put(DepotManager.configure("files", {"depot.backend": f"{__name__}.Presigned"}))
    answer = get(app, path)
    assert answer.status == 302
    assert answer.headers["Cache-Control"] == f"max-age={expected}, private"
    # The signature is for GET: HEAD is answered here.
    assert get(app, path, "HEAD").headers["Content-Length"] == "100"


@pytest.mark.parametrize(
    ("query", "seconds"),
    [
        ("X-Amz-Date=20261114T102030Z&X-Amz-Expires=60&X-Amz-Signature=0a", 60),
        ("X-Goog-Expires=604800&X-Goog-Signature=0a", 604_800),
        ("AWSAccessKeyId=a&Signature=b%3D&Expires=1000090", 90),
        ("GoogleAccessId=a&Signature=b&Expires=999000", 0),
        ("", None),
        ("Expires=1000090", None),
        ("X-Amz-Expires=soon", None),
    ],
)
def test_a_presigned_url_tells_how_long_it_is_good(query: str, seconds: float | None) -> None:
    assert presigned_seconds(f"https://bucket.test/key?{query}", now=1_000_000) == seconds


@pytest.mark.xdist_group("minio")
@pytest.mark.parametrize("presign", [None, "1h"])
def test_a_private_bucket_is_served_or_lent_out(minio: Any, app: DepotMiddleware, presign: str | None) -> None:
    options = {"endpoint_url": minio.endpoint, "bucket": minio.new_bucket(), "presign": presign}
    keys = {"access_key_id": minio.access_key, "secret_access_key": minio.secret_key}
    config = {f"depot.{name}": value for name, value in (options | keys).items()}
    path = put(DepotManager.configure("files", {"depot.backend": "depot.io.boto3.S3Storage", **config}))
    answer = get(app, path, range="bytes=5-9")
    if presign is None:
        assert (answer.status, answer.body) == (206, DATA[5:10])
    else:
        assert (answer.status, answer.headers["Cache-Control"]) == (302, "max-age=1800, private")
        with urllib.request.urlopen(answer.headers["Location"], timeout=30) as followed:
            assert followed.read() == DATA
    assert get(app, path, "HEAD").headers["Content-Length"] == "100"


# --- storages that fail ---------------------------------------------------------------------------------------


class Failing(MemoryFileStorage):
    """A storage in which the named methods raise, `get` at once, `read` when the content is opened."""

    get_error: Exception | None = None
    read_error: Exception | None = None

    def stat(self, file_id: FileId) -> FileStat:
        if self.get_error:
            raise self.get_error
        return super().stat(file_id)

    def open_content(self, file: Any) -> Any:
        if self.read_error:
            raise self.read_error
        return super().open_content(file)


@pytest.mark.parametrize("when", ["get_error", "read_error"])
@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (StorageUnavailable("secret server is down"), 503, "5"),
        (StorageUnavailable("secret server is busy", retry_after=1.2), 503, "2"),
        (AccessDenied("secret key is wrong"), 502, None),
        (PermissionError("secret file is not ours"), 502, None),
        (ConnectionResetError("secret peer went away"), 503, "5"),
        (KeyError("secret"), 500, None),
        (FileNotStored("secret"), 404, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_failing_storage_is_a_plain_answer_and_one_line_in_the_log(
    app: DepotMiddleware,
    caplog: pytest.LogCaptureFixture,
    when: str,
    error: Exception,
    status: int,
    retry_after: str | None,
) -> None:
    storage = DepotManager.configure("files", {"depot.backend": f"{__name__}.Failing"})
    path = put(storage)
    setattr(storage, when, error)
    with caplog.at_level(logging.INFO):
        answer = get(app, path)
    assert answer.status == status
    assert answer.headers.get("Retry-After") == retry_after
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body
    assert len(caplog.records) == (0 if status == 404 else 1)


class Racing(MemoryFileStorage):
    """A storage in which a file is replaced each time between its stat and its content, `races` times."""

    races = 1

    def open_content(self, file: Any) -> Any:
        if self.races:
            self.races -= 1
            put(self, DATA * (self.races + 2))
        return super().open_content(file)


def test_a_file_replaced_before_its_first_byte_is_sent_whole_as_it_is_now(app: DepotMiddleware) -> None:
    storage = DepotManager.configure("files", {"depot.backend": f"{__name__}.Racing"})
    answer = get(app, put(storage))
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, DATA * 2, "200")
    storage.races = 100
    assert get(app, put(storage)).status == 503


class Vanishing(MemoryFileStorage):
    """A storage whose content is gone after the first request for it, of 512 KiB."""

    def open_content(self, file: Any) -> Any:
        reader: Any = super().open_content(file)
        whole = reader.pread

        def pread(offset: int, size: int) -> bytes:
            if offset:
                raise VersionChanged("replaced")
            return bytes(whole(offset, size))

        reader.pread = pread
        return reader


def test_a_file_that_goes_while_it_is_sent_ends_short_and_with_an_error(app: DepotMiddleware) -> None:
    storage = DepotManager.configure("files", {"depot.backend": f"{__name__}.Vanishing"})
    path = put(storage, DATA * 10_000)
    answer = get(app, path)
    assert isinstance(answer.problem, VersionChanged)
    assert answer.headers["Content-Length"] == "1000000"
    assert answer.body == (DATA * 10_000)[: 1 << 19]


# --- classes of others ----------------------------------------------------------------------------------------


class ForeignFile(StoredFile):
    """Has only what filedepot's interface asks for."""

    def __init__(self, data: bytes, length: int | None, modified: datetime | None, name: str | None) -> None:
        super().__init__("1", name, None, modified, length)
        self._stream = io.BytesIO(data)
        self.was_closed = False

    def read(self, n: int | None = -1) -> bytes:
        return self._stream.read(n)

    def close(self) -> None:
        self.was_closed = True
        super().close()


class Foreign(FileStorage):
    file: ForeignFile

    def get(self, file_or_id: Any) -> StoredFile:
        if file_or_id != "1":
            raise OSError("File not existing")
        return self.file

    def create(self, *args: Any, **options: Any) -> str:
        raise NotImplementedError

    def replace(self, *args: Any, **options: Any) -> str:
        raise NotImplementedError

    def delete(self, file_or_id: Any) -> None:
        raise NotImplementedError

    def exists(self, file_or_id: Any) -> bool:
        return bool(file_or_id == "1")

    def list(self) -> list[str]:
        return ["1"]


@pytest.fixture
def foreign() -> Any:
    return DepotManager.configure("files", {"depot.backend": f"{__name__}.Foreign"})


def test_a_class_of_others_is_served_without_ranges(foreign: Any, app: DepotMiddleware) -> None:
    foreign.file = file = ForeignFile(DATA, 100, datetime(2026, 11, 14, 10, 20, 30), "a.txt")
    answer = get(app, "/depot/files/1", range="bytes=0-1")
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.headers["Accept-Ranges"] == "none"
    assert answer.headers["ETag"].startswith("W/")
    assert file.was_closed
    assert get(app, "/depot/files/2").status == 404


def test_a_class_of_others_need_not_tell_names_lengths_or_times(foreign: Any, app: DepotMiddleware) -> None:
    foreign.file = ForeignFile(DATA, None, None, None)
    answer = get(app, "/depot/files/1", if_none_match='"None-None"', if_modified_since=DATE)
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "inline"
    assert not {"Content-Length", "ETag", "Last-Modified"} & set(answer.headers)


@pytest.mark.parametrize(("length", "body"), [(60, DATA[:60]), (101, DATA)])
def test_never_more_nor_silently_less_is_sent_than_was_announced(
    foreign: Any, app: DepotMiddleware, length: int, body: bytes
) -> None:
    foreign.file = ForeignFile(DATA, length, None, "a")
    answer = get(app, "/depot/files/1")
    assert (answer.headers["Content-Length"], answer.body) == (str(length), body)
    assert (answer.problem is not None) == (length > len(body))


# --- the server's file wrapper --------------------------------------------------------------------------------


@pytest.mark.parametrize(("replace", "used"), [(False, True), (True, False)])
def test_the_servers_wrapper_sends_whole_files_of_a_local_disk(tmp_path: Path, replace: bool, used: bool) -> None:
    path = put(DepotManager.configure("files", {"depot.storage_path": str(tmp_path)}))
    DepotManager.configure("memory", {"depot.backend": "depotfs.io.memory.MemoryFileStorage"}).replace(
        content := Given(DATA, datetime(2026, 11, 14), ID), content
    )
    app = DepotMiddleware(application, replace_wsgi_filewrapper=replace)
    wrapped = []

    def wrapper(file: Any, block: int) -> Iterator[bytes]:
        wrapped.append(file.fileno())
        with file:
            yield from iter(lambda: file.read(block), b"")

    def serve(path: str, **headers: str) -> bytes:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.file_wrapper": wrapper, **headers}
        return b"".join(app(environ, lambda *args: None))

    assert serve(path) == DATA
    assert bool(wrapped) == used
    wrapped.clear()
    assert serve(path, HTTP_RANGE="bytes=5-9") == DATA[5:10]
    assert serve(f"/depot/memory/{ID}") == DATA
    assert not wrapped
