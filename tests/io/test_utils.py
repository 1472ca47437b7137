"""depotfs.io.utils: what is detected of a content, and what becomes of names in headers."""

from __future__ import annotations

import gzip
import io
import warnings
from pathlib import Path
from typing import Any

import depot.io.utils
import pytest

from depotfs.errors import InvalidMetadata
from depotfs.io import utils
from depotfs.io.content import BytesContent, FileContent, StreamContent
from depotfs.io.interfaces import StoredFile
from depotfs.io.memory import MemoryFileStorage
from depotfs.io.times import parse_stored
from depotfs.io.utils import (
    FileIntent,
    as_content,
    decode_header_text,
    detect,
    encode_header_text,
    file_from_content,
    fileinfo,
    make_content_disposition,
)
from tests.io.contract_sources import Field, OneWay

OCTETS = "application/octet-stream"


class Upload:
    """A file object with whatever attributes a web framework gives it."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def read(self, size: int = -1) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("source", "arguments", "expected"),
    [
        (b"x", (), ("unnamed", OCTETS)),
        (b"x", ("a.png",), ("a.png", "image/png")),
        (b"x", (None, "x/y"), ("unnamed", "x/y")),
        (b"x", ("a.tar.gz",), ("a.tar.gz", "application/x-tar")),
        (b"x", ("A.JPG",), ("A.JPG", "image/jpeg")),
        (Upload(name="/tmp/dir/b.txt"), (), ("b.txt", "text/plain")),
        (Upload(name=b"/tmp/b.txt"), (), ("b.txt", "text/plain")),
        (Upload(name=7), (), ("unnamed", OCTETS)),
        (Upload(name=7), ("a.txt",), ("a.txt", "text/plain")),
        (Upload(filename="f.txt", name="/tmp/b.png"), (), ("f.txt", "text/plain")),
        (Upload(filename="", name="form field"), (), ("unnamed", OCTETS)),
        (Upload(filename="f.txt", content_type="x/one", type="x/two"), (), ("f.txt", "x/one")),
        (Upload(filename="f.txt", type="x/two"), (), ("f.txt", "x/two")),
        (Upload(filename="f.txt", content_type="x/one"), (None, "x/given"), ("f.txt", "x/given")),
        (FileIntent(b"x", "i.txt", "x/intent"), ("a.png", "x/argument"), ("i.txt", "x/intent")),
        (FileIntent(b"x", None, None), ("a.png", "x/argument"), ("a.png", "x/argument")),
        (FileIntent(Upload(filename="f.txt"), None, None), (), ("f.txt", "text/plain")),
        (StoredFile("id", "s.txt", "x/stored"), (), ("s.txt", "x/stored")),
    ],
)
def test_name_and_type(source: Any, arguments: tuple[Any, ...], expected: tuple[str, str]) -> None:
    assert fileinfo(source, *arguments)[1:] == expected


def test_existing_file_gives_what_nothing_tells() -> None:
    existing = StoredFile("id", "old.png", "image/png")
    assert fileinfo(b"x", None, None, existing)[1:] == ("old.png", "image/png")
    assert fileinfo(b"x", None, "x/y", existing)[1:] == ("old.png", "x/y")
    assert fileinfo(b"x", "a.unknownending", None, existing)[1:] == ("a.unknownending", "image/png")
    assert fileinfo(b"x", "", "", existing)[1:] == ("old.png", "image/png")


def test_nothing_is_asked_that_warns() -> None:
    """`filename` of a GzipFile is deprecated: whoever turns warnings into errors could store none."""
    packed = gzip.GzipFile("/tmp/dir/a.txt.gz", "rb", fileobj=io.BytesIO(gzip.compress(b"data")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source, name, _ = fileinfo(packed)
        assert (name, as_content(source).read(9)) == ("a.txt.gz", b"data")


def test_content_of_a_field_is_its_file() -> None:
    field = Field(b"data", "f.txt")
    assert detect(field)[0] is field.file
    assert detect(FileIntent(field, "a", "b/c"))[0] is field.file
    plain = Upload(filename="f.txt", file=None)
    assert detect(plain)[0] is plain


@pytest.mark.parametrize(("name", "kind"), [(7, None), (b"a.txt", None), ("a", 7), ("a", b"text/plain")])
def test_name_or_type_of_another_type(name: Any, kind: Any) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        detect(b"x", name, kind)


def test_as_content() -> None:
    for source in (b"data", bytearray(b"data"), memoryview(b"data")):
        content = as_content(source)
        assert isinstance(content, BytesContent)
        assert (content.size, content.read(3), content.read(3), content.read(3)) == (4, b"dat", b"a", b"")
    stream = io.BytesIO(b"..data")
    stream.seek(2)
    content = as_content(stream)
    assert isinstance(content, StreamContent)
    assert content.read(10) == b"data"
    assert content.restart()
    assert content.read(10) == b"data"
    one_way = as_content(OneWay(b"x" * 200_000))
    assert len(one_way.read(150_000)) == 150_000, "short reads of the source are not the end"
    assert not one_way.restart()
    assert as_content(content) is content
    for wrong in ("data", io.StringIO("data"), None, 7, Path("data"), object()):
        with pytest.raises(TypeError, match="Only bytes"):
            as_content(wrong)


def test_file_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        content = FileContent(str(path), file.fileno(), 10)
        assert (content.read(4), content.pread(2, 3), content.pread(8, 9), content.read(99)) == (
            b"0123",
            b"234",
            b"89",
            b"456789",
        )
        assert content.restart()
        path.write_bytes(b"cut")
        with pytest.raises(Exception, match="became shorter"):
            content.read(10)


def test_file_from_content_that_cannot_seek_is_a_copy() -> None:
    for source in (b"data", bytearray(b"data"), OneWay(b"data"), FileIntent(b"data", "a", "b/c")):
        must_close, copy = file_from_content(source)
        assert (must_close, copy.tell(), copy.read()) == (True, 0, b"data")
        copy.seek(0)
        assert copy.read(2) == b"da"
        copy.close()
    _, large = file_from_content(OneWay(b"x" * (utils.INMEMORY_FILESIZE + 1)))
    assert len(large.read()) == utils.INMEMORY_FILESIZE + 1
    large.close()


def test_file_from_content_that_can_seek_is_itself(tmp_path: Path) -> None:
    for kind in (FileIntent, depot.io.utils.FileIntent):
        file = io.BytesIO(b"..data")
        file.seek(2)
        for source in (file, kind(file, "a", "b/c")):
            assert file_from_content(source) == (False, file)
            assert (file.tell(), file.read()) == (0, b"..data")
    field = Field(b"data", "f")
    assert file_from_content(field) == (False, field.file)
    path = tmp_path / "text"
    path.write_bytes(b"data")
    with path.open() as text:
        assert file_from_content(text) == (False, text.buffer)
    stored = MemoryFileStorage()
    assert file_from_content(stored.get(stored.create(b"data")))[1].read() == b"data"


@pytest.mark.parametrize("wrong", ["text", None, 7, io.StringIO("text")])
def test_file_from_what_is_no_content(wrong: Any) -> None:
    with pytest.raises(TypeError):
        file_from_content(wrong)


def test_intents_of_filedepot_are_intents() -> None:
    theirs = depot.io.utils.FileIntent
    assert fileinfo(theirs(b"x", "a.txt", "x/y"), "other", "x/other") == (b"x", "a.txt", "x/y")
    assert fileinfo(theirs(Field(b"x", "f.png"), None, None))[1:] == ("f.png", "image/png")
    assert MemoryFileStorage().create(theirs(io.BytesIO(b"x"), "a.txt", None))


def test_timestamp_is_what_is_stored() -> None:
    assert parse_stored(utils.timestamp()) is not None


@pytest.mark.parametrize("text", ["a b%/.txt", "и🎉", "a+b", "\r\n\0", "'\"", ""])
def test_header_text_round_trip(text: str) -> None:
    encoded = encode_header_text(text)
    assert encoded.isascii()
    assert decode_header_text(encoded) == text
    assert set(encoded) & set(" \"'\r\n\0/") == set()


def test_header_text_is_filedepots() -> None:
    assert encode_header_text("a!#$&+-.^_`|~ /%\"';,") == "a!#$&+-.^_`|~%20%2F%25%22%27%3B%2C"
    with pytest.raises(InvalidMetadata):
        encode_header_text("caf\udce9")


def test_content_disposition_cannot_be_broken_out_of() -> None:
    value = make_content_disposition("attachment", 'a"; x="\r\nSet-Cookie: и.txt\udce9')
    assert value.isascii()
    assert value.isprintable()
    assert value.count('"') == 2
    assert value.startswith("attachment; filename=\"a__ x=___Set-Cookie: _.txt_\"; filename*=UTF-8''a%22%3B")
