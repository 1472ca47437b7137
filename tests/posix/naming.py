"""Which names files can have."""

from __future__ import annotations

import errno
import os

from tests.posix.place import Place, opened, refused

STRANGE = (
    "with space",
    " leading",
    "trailing ",
    "-rf",
    "*?[a]",
    "quote'and\"double",
    "back\\slash",
    "line\nbreak",
    "tab\tand\x01control\x7f",
    "percent%2Fpercent%00",
    "trailing.",
    "dots...",
    "#hash&ampersand;semicolon",
    "$HOME`id`",
    "a~b",
    "CON",
    "Кириллица и пробелы.txt",
    "Привет-мир-🎉.txt",
    "日本語",
    "é-composed",
    "é-decomposed",
    "👩‍👩‍👧‍👦",
    "‮rtl",
    "0",
)


def check_strange_names(place: Place) -> None:
    names = STRANGE[::3] if place.remote else STRANGE
    for name in names:
        (place / name).write_bytes(name.encode())
    for name in names:
        assert (place / name).read_bytes() == name.encode()
    listed = set(os.listdir(place.directory))
    assert {place.listed_as(name) for name in names} <= listed
    for name in names:
        (place / name).unlink()
        assert not (place / name).exists()


def check_case_and_form_matter(place: Place) -> None:
    names = ("name", "Name", "NAME", "n\u00e4me", "na\u0308me")
    for name in names:
        (place / name).write_bytes(name.encode())
    assert [(place / name).read_bytes() for name in names] == [name.encode() for name in names]
    assert len({(place / name).stat().st_ino for name in names}) == len(names)


def check_longest_names(place: Place) -> None:
    for name in ("n" * 255, "д" * 127 + "x"):
        path = place / name
        path.write_bytes(b"long")
        assert path.read_bytes() == b"long"
        assert path.stat().st_size == 4
        os.rename(path, place / "short")
        os.rename(place / "short", path)
        path.unlink()


def check_too_long_names(place: Place) -> None:
    """ENAMETOOLONG from every call that takes a name."""
    source = place / "source"
    source.write_bytes(b"x")
    for name in ("n" * 256, "д" * 128):
        path = place.directory / name
        for call in (
            lambda path=path: os.open(path, os.O_RDONLY),
            lambda path=path: os.open(path, os.O_CREAT | os.O_WRONLY),
            lambda path=path: os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY),
            lambda path=path: os.stat(path),
            lambda path=path: os.unlink(path),
            lambda path=path: os.rename(path, source),
            lambda path=path: os.rename(source, path),
            lambda path=path: os.truncate(path, 0),
            lambda path=path: os.utime(path, (1, 1)),
            lambda path=path: os.chmod(path, 0o600),
            lambda path=path: os.mkdir(path),
            lambda path=path: os.rmdir(path),
            lambda path=path: os.symlink("target", path),
            lambda path=path: os.link(source, path),
            lambda path=path: os.mknod(path),
            lambda path=path: os.getxattr(path, "user.x"),
        ):
            with refused(errno.ENAMETOOLONG):
                call()
    assert source.read_bytes() == b"x"


def check_names_that_are_not_utf8(place: Place) -> None:
    source = place / "source"
    source.write_bytes(b"x")
    path = os.fsencode(place.directory) + b"/caf\xe9"
    if not place.utf8_only:
        with opened(path, os.O_CREAT | os.O_WRONLY):
            pass
        os.unlink(path)
        return
    with refused(errno.EILSEQ):
        os.open(path, os.O_CREAT | os.O_WRONLY)
    with refused(errno.EILSEQ):
        os.stat(path)
    with refused(errno.EILSEQ):
        os.rename(os.fsencode(source), path)
    assert source.read_bytes() == b"x"
