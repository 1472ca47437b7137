"""What the programs that people use do in a directory of files, each as a function of a place.

Each takes a place and an empty directory outside of it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.posix.place import Place, opened, pattern

LONG_AGO = 1_234_567_890
NAMES = ("report.pdf", "with space.txt", "Привет-мир-🎉.txt", "empty", "noextension")


def run(*command: str | Path, cwd: Path | None = None, stdin: bytes = b"") -> str:
    """What the program printed. AssertionError with its complaints if it failed or printed any."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, input=stdin, capture_output=True, timeout=300)
    complaint = done.stderr.decode(errors="replace")
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {complaint}"
    assert not complaint, f"{command} complains: {complaint}"
    return done.stdout.decode(errors="replace")


def make_files(directory: Path) -> dict[str, bytes]:
    """Files of several sizes and names, all of one time long ago, and their content by name."""
    directory.mkdir(exist_ok=True)
    contents = {name: pattern(size, size) for name, size in zip(NAMES, (3_000_001, 100, 4096, 0, 70_000), strict=True)}
    for name, content in contents.items():
        (directory / name).write_bytes(content)
        os.utime(directory / name, (LONG_AGO, LONG_AGO))
    return contents


def assert_holds(place: Place, contents: dict[str, bytes], *, seconds: int | None = None) -> None:
    """Each file is there with its content, and with that mtime."""
    for name, content in contents.items():
        path = place / name
        assert path.stat().st_size == len(content), name
        assert path.read_bytes() == content, name
        assert seconds is None or path.stat().st_mtime == seconds, name


def tool_cp(place: Place, outside: Path) -> None:
    contents = make_files(outside / "in")
    run("cp", *sorted((outside / "in").iterdir()), place.directory)
    assert_holds(place, contents)
    run("cp", place / "report.pdf", place / "copy.pdf")
    run("cp", place / "report.pdf", outside / "back.pdf")
    assert (place / "copy.pdf").read_bytes() == (outside / "back.pdf").read_bytes() == contents["report.pdf"]
    run("cp", place / "empty", place / "copy.pdf")
    assert (place / "copy.pdf").read_bytes() == b""


def tool_cp_archive(place: Place, outside: Path) -> None:
    contents = make_files(outside / "in")
    run("cp", "-a", f"{outside}/in/.", place.directory)
    assert_holds(place, contents, seconds=LONG_AGO)
    run("cp", "-a", *(place / name for name in contents), outside)
    for name, content in contents.items():
        assert (outside / name).read_bytes() == content
        assert (outside / name).stat().st_mtime == LONG_AGO


def tool_mv(place: Place, outside: Path) -> None:
    contents = make_files(outside / "in")
    run("mv", *sorted((outside / "in").iterdir()), place.directory)
    assert not list((outside / "in").iterdir())
    assert_holds(place, contents, seconds=LONG_AGO)
    run("mv", place / "report.pdf", place / "final.pdf")
    run("mv", place / "final.pdf", place / "noextension")
    assert not (place / "report.pdf").exists()
    assert not (place / "final.pdf").exists()
    run("mv", place / "noextension", outside / "out.pdf")
    assert (outside / "out.pdf").read_bytes() == contents["report.pdf"]
    assert (outside / "out.pdf").stat().st_mtime == LONG_AGO
    assert not (place / "noextension").exists()


def tool_dd(place: Place, outside: Path) -> None:
    source, target = outside / "in", place / "disk"
    model = bytearray(pattern(400_003))
    source.write_bytes(model)
    run("dd", f"if={source}", f"of={target}", "bs=777", "status=none")
    assert target.read_bytes() == model
    piece = pattern(5 * 333, 5)
    run("dd", f"of={target}", "bs=333", "seek=501", "conv=notrunc", "status=none", stdin=piece)
    model[501 * 333 : 501 * 333 + len(piece)] = piece
    assert target.read_bytes() == model
    run("dd", f"if={target}", f"of={outside / 'out'}", "bs=1001", "skip=17", "count=100", "status=none")
    assert (outside / "out").read_bytes() == model[17 * 1001 : 117 * 1001]
    run("dd", f"if={target}", f"of={target}", "bs=1000", "count=1", "seek=400", "conv=notrunc,fsync", "status=none")
    model[400_000:] = model[:1000]
    assert target.read_bytes() == model


def tool_shell(place: Place, outside: Path) -> None:
    text = place / "text"
    (outside / "more").write_bytes(b"more\n")
    run("sh", "-ec", 'echo first > "$1"; cat "$2" >> "$1"; cat < "$2" >> "$1"', "sh", text, outside / "more")
    assert text.read_bytes() == b"first\nmore\nmore\n"
    run("sh", "-ec", '{ echo a; /bin/echo b; (echo c); } > "$1"', "sh", text)
    assert text.read_bytes() == b"a\nb\nc\n"
    run("sh", "-ec", 'sort -r "$1" -o "$1"; tee -a "$1" < "$2" > /dev/null', "sh", text, outside / "more")
    assert text.read_bytes() == b"c\nb\na\nmore\n"
    run("sh", "-ec", ': > "$1"; test -e "$1"; test ! -s "$1"', "sh", text)
    run("touch", "-d", "@1000000000", text, place / "touched")
    assert text.stat().st_mtime == (place / "touched").stat().st_mtime == 1_000_000_000
    run("truncate", "-s", "100K", text)
    assert text.read_bytes() == bytes(102_400)
    run("rm", text, place / "touched")
    assert not text.exists()


def tool_sed(place: Place, outside: Path) -> None:
    text = place / "config.ini"
    text.write_bytes(b"key = old\n" * 1000)
    run("sed", "-i", "s/old/new/", text)
    assert text.read_bytes() == b"key = new\n" * 1000
    run("sed", "-i", "-e", "2,$d", text)
    assert text.read_bytes() == b"key = new\n"


def tool_tar(place: Place, outside: Path) -> None:
    contents = make_files(outside / "in")
    run("tar", "cf", outside / "in.tar", "-C", outside / "in", *contents)
    run("tar", "xf", outside / "in.tar", "-C", place.directory)
    assert_holds(place, contents, seconds=LONG_AGO)
    run("tar", "xf", outside / "in.tar", "-C", place.directory, "--overwrite")
    assert_holds(place, contents, seconds=LONG_AGO)
    run("tar", "cf", outside / "out.tar", "-C", place.directory, ".")
    run("tar", "cf", outside / "named.tar", "-C", place.directory, *contents)
    with tarfile.open(outside / "out.tar") as all_of_it, tarfile.open(outside / "named.tar") as named:
        for name, content in contents.items():
            for archive, member in ((all_of_it, f"./{place.listed_as(name)}"), (named, name)):
                file = archive.extractfile(member)
                assert file is not None
                assert file.read() == content
                assert archive.getmember(member).mtime == LONG_AGO
    run("tar", "df", outside / "named.tar", "-C", place.directory)


def _rsync(*arguments: str | Path) -> list[str]:
    """The files that `rsync -a` touched; what it says of the directory's own time does not count."""
    lines = run("rsync", "-a", "--itemize-changes", *arguments).splitlines()
    return [line for line in lines if line[1:2] == "f"]


def tool_rsync(place: Place, outside: Path) -> None:
    contents = make_files(outside / "in")
    assert len(_rsync(f"{outside}/in/", f"{place.directory}/")) == len(contents)
    assert_holds(place, contents, seconds=LONG_AGO)
    assert _rsync(f"{outside}/in/", f"{place.directory}/") == []
    (outside / "in" / "empty").write_bytes(b"no longer")
    contents["empty"] = b"no longer"
    assert len(_rsync(f"{outside}/in/", f"{place.directory}/")) == 1
    with opened(outside / "in" / "report.pdf", os.O_WRONLY) as fd:
        os.pwrite(fd, b"changed", 1_000_000)
    contents["report.pdf"] = (outside / "in" / "report.pdf").read_bytes()
    assert len(_rsync("--inplace", "--no-whole-file", f"{outside}/in/", f"{place.directory}/")) == 1
    assert_holds(place, contents)
    assert _rsync("--checksum", f"{outside}/in/", f"{place.directory}/") == []


def tool_rsync_out(place: Place, outside: Path) -> None:
    contents = make_files(outside / "in")
    run("cp", "-a", f"{outside}/in/.", place.directory)
    named = [place / name for name in contents]
    assert len(_rsync(*named, f"{outside}/named/")) == len(contents)
    assert _rsync(*named, f"{outside}/named/") == []
    for name, content in contents.items():
        assert (outside / "named" / name).read_bytes() == content
    _rsync(f"{place.directory}/", f"{outside}/listed/")
    assert _rsync(f"{place.directory}/", f"{outside}/listed/") == []
    for name, content in contents.items():
        copied = outside / "listed" / place.listed_as(name)
        assert copied.read_bytes() == content
        assert copied.stat().st_mtime == LONG_AGO


def rsync_between(place: Place, other: Place, outside: Path) -> None:
    """A storage copied into another one: the same listing, the same content, and nothing to do the second time."""
    contents = make_files(outside / "in")
    run("cp", "-a", f"{outside}/in/.", place.directory)
    assert len(_rsync(f"{place.directory}/", f"{other.directory}/")) == len(contents)
    assert sorted(os.listdir(place.directory)) == sorted(os.listdir(other.directory))
    assert_holds(other, contents, seconds=LONG_AGO)
    assert _rsync(f"{place.directory}/", f"{other.directory}/") == []


def tool_vim(place: Place, outside: Path) -> None:
    """Two edits with swap file, backup and write-backup, all beside the file."""
    text = place / "letter.txt"
    place / "letter.txt~"
    text.write_bytes(b"one\n")
    options = "set swapfile backup writebackup directory=. backupdir=. backupskip= updatecount=1"
    for old, new in (("one", "two"), ("two", "three")):
        command = ("vim", "-N", "-u", "NONE", "-i", "NONE", "-es", "--cmd", options)
        run(*command, text, "-c", f"%s/{old}/{new}/", "-c", "preserve", "-c", "wq")
        assert text.read_text() == f"{new}\n"
        assert (place / "letter.txt~").read_text() == f"{old}\n"
    assert not [name for name in os.listdir(place.directory) if name.endswith((".swp", "4913"))]


def tool_sqlite(place: Place, outside: Path) -> None:
    for mode in ("delete", "wal", "truncate"):
        path = place / f"{mode}.db"
        for suffix in ("-journal", "-wal", "-shm"):
            place / f"{mode}.db{suffix}"
        database = sqlite3.connect(path, isolation_level=None)
        assert database.execute(f"pragma journal_mode={mode}").fetchone()[0] == mode
        database.execute("create table t (n integer primary key, text)")
        for start in range(0, 300, 100):
            database.execute("begin immediate")
            database.executemany("insert into t values (?, ?)", ((n, "x" * n) for n in range(start, start + 100)))
            database.execute("commit")
        count = run("sqlite3", path, "select count(*), sum(length(text)) from t; pragma integrity_check")
        assert count.split() == ["300|44850", "ok"]
        database.execute("begin immediate")
        database.execute("delete from t")
        database.execute("rollback")
        database.execute("vacuum")
        database.close()
        assert run("sqlite3", path, "insert into t values (1000, ''); select count(*) from t").strip() == "301"


def tool_digests(place: Place, outside: Path) -> None:
    content = pattern(2_500_000)
    path = place / "object"
    path.write_bytes(content)
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert run("git", "hash-object", path).strip() == blob
    assert run("md5sum", path).split()[0] == hashlib.md5(content).hexdigest()
    assert run("sh", "-ec", 'sha256sum < "$1"', "sh", path).split()[0] == hashlib.sha256(content).hexdigest()
    (outside / "same").write_bytes(content)
    run("cmp", path, outside / "same")
    run("gzip", "--keep", "-1", path)
    assert run("sh", "-ec", 'gzip -dc "$1" | cmp - "$2"', "sh", place / "object.gz", path) == ""


def tool_copytree(place: Place, outside: Path) -> None:
    contents = make_files(outside / "in")
    shutil.copytree(outside / "in", place.directory, dirs_exist_ok=True)
    assert_holds(place, contents, seconds=LONG_AGO)
    shutil.copytree(place.directory, outside / "out")
    for name, content in contents.items():
        assert (outside / "out" / place.listed_as(name)).read_bytes() == content


def tool_find(place: Place, outside: Path) -> None:
    contents = make_files(outside / "in")
    run("cp", "-a", f"{outside}/in/.", place.directory)
    assert_holds(place, contents)
    listed = {place.listed_as(name) for name in contents}
    assert listed <= set(run("find", place.directory, "-type", "f", "-printf", "%f\\n").splitlines())
    old = run("find", place.directory, "-not", "-newermt", "2010-01-01", "-type", "f", "-printf", "%f\\n").splitlines()
    assert listed <= set(old)
    sizes = {line.split()[-1]: int(line.split()[4]) for line in run("ls", "-lN", place.directory).splitlines()[1:]}
    for name, content in contents.items():
        if " " not in place.listed_as(name):
            assert sizes[place.listed_as(name)] == len(content)
    assert int(run("du", "-bs", place.directory).split()[0]) >= sum(map(len, contents.values()))
    run("df", place.directory)
    run("stat", "-f", place.directory)


def sparse_file(place: Place) -> None:
    """5 GiB with holes: made, read around the holes, cut, removed; costs no more than its written bytes."""
    path = place / "sparse"
    size = 5 << 30
    spots = {0: b"start", (2 << 30) - 3: b"across 2 GiB", (4 << 30) - 5: b"across 4 GiB", size - 3: b"end"}
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, size)
        for offset, data in spots.items():
            os.pwrite(fd, data, offset)
    assert path.stat().st_size == size
    with opened(path, os.O_RDONLY) as fd:
        for offset, data in spots.items():
            assert os.pread(fd, len(data), offset) == data
            assert os.pread(fd, 10, max(0, offset - 10)) == (bytes(10) if offset else b"start" + bytes(5))
            assert not any(os.pread(fd, 1 << 20, offset + len(data)))
    with opened(path, os.O_RDWR) as fd:
        os.pwrite(fd, b"later", 3 << 30)
        os.ftruncate(fd, (3 << 30) + 5)
    assert path.stat().st_size == (3 << 30) + 5
    with opened(path, os.O_RDONLY) as fd:
        assert os.pread(fd, 20, (3 << 30) - 10) == bytes(10) + b"later"


def many_files(place: Place, number: int) -> None:
    """Made, listed, stat'ed and removed."""
    names = [f"many {index}" for index in range(number)]
    for name in names:
        with opened(place / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
            os.write(fd, name.encode())
    wanted = {place.listed_as(name): len(name) for name in names}
    with os.scandir(place.directory) as entries:
        sizes = {entry.name: entry.stat().st_size for entry in entries}
    assert wanted.items() <= sizes.items()
    assert all((place / name).stat().st_size == len(name) for name in names)
    assert run("sh", "-ec", 'ls -l "$1" | wc -l', "sh", place.directory).strip() == str(len(sizes) + 1)
    for name in names:
        (place / name).unlink()
    assert not wanted.keys() & set(os.listdir(place.directory))


TOOLS: dict[str, Callable[[Place, Path], None]] = {
    name.removeprefix("tool_"): tool for name, tool in globals().items() if name.startswith("tool_")
}
"""Every tool by its name."""
