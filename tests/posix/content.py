"""What reading, writing, truncating and mapping do to the bytes of a file."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys

from tests.posix.place import Place, opened, pattern, read_all, refused

ODD_PIECES = ((0, 1), (1, 4095), (4095, 2), (4097, 65537), (70000, 131071), (300001, 3), (299990, 40), (1 << 20, 4096))


def check_odd_offsets(place: Place) -> None:
    path = place / "odd"
    model = bytearray()
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        for offset, size in ODD_PIECES:
            data = pattern(size, offset)
            assert os.pwrite(fd, data, offset) == size
            model.extend(bytes(max(0, offset + size - len(model))))
            model[offset : offset + size] = data
            assert os.fstat(fd).st_size == len(model)
            around = max(0, offset - 50)
            assert os.pread(fd, size + 100, around) == model[around : around + size + 100]
        assert read_all(fd, len(model), 7777) == model
    assert path.read_bytes() == model
    with opened(path, os.O_RDONLY) as fd:
        for offset, size in ODD_PIECES:
            assert os.pread(fd, size, offset) == model[offset : offset + size]
        assert os.pread(fd, 100, len(model)) == b""
        assert os.pread(fd, 100, len(model) - 10) == model[-10:]


def check_partial_overwrite_of_stored(place: Place) -> None:
    """A few bytes changed in the middle of a file that was closed before: all others stay."""
    path = place / "partial"
    model = bytearray(pattern(1_500_007))
    path.write_bytes(model)
    for offset, data in ((0, b"head"), (1_000_003, b"middle"), (1_500_000, b"behind the end")):
        with opened(path, os.O_WRONLY) as fd:
            os.pwrite(fd, data, offset)
        model[offset : offset + len(data)] = data
        assert path.stat().st_size == len(model)
    assert path.read_bytes() == model


def check_vectors(place: Place) -> None:
    path = place / "vectors"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        assert os.pwritev(fd, [b"one", b"", b"two", b"three"], 5) == 11
        first, second = bytearray(4), bytearray(100)
        assert os.preadv(fd, [first, second], 3) == 13
        assert bytes(first) + bytes(second[:9]) == b"\0\0onetwothree"


def check_backwards(place: Place) -> None:
    path = place / "backwards"
    data = pattern(1_234_567)
    with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
        for start in range(len(data) // 100_000 * 100_000, -1, -100_000):
            os.pwrite(fd, data[start : start + 100_000], start)
    with opened(path, os.O_RDONLY) as fd:
        for start in range(len(data) // 50_001 * 50_001, -1, -50_001):
            assert os.pread(fd, 50_001, start) == data[start : start + 50_001]


def check_truncate(place: Place) -> None:
    path = place / "truncate"
    data = pattern(300_000)
    path.write_bytes(data)
    for size in (200_001, 4096, 4095, 1):
        os.truncate(path, size)
        assert path.stat().st_size == size
        assert path.read_bytes() == data[:size]
    os.truncate(path, 100_000)
    assert path.read_bytes() == data[:1] + bytes(99_999)
    os.truncate(path, 0)
    assert path.read_bytes() == b""
    with refused(errno.EINVAL):
        os.truncate(path, -1)


def check_ftruncate(place: Place) -> None:
    path = place / "ftruncate"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"0123456789")
        os.ftruncate(fd, 4)
        assert os.fstat(fd).st_size == path.stat().st_size == 4
        os.ftruncate(fd, 8)
        assert os.pread(fd, 100, 0) == b"0123\0\0\0\0"
        os.write(fd, b"end")
        assert os.pread(fd, 100, 0) == b"0123\0\0\0\0\0\0end"
    assert path.read_bytes() == b"0123\0\0\0\0\0\0end"


def check_truncated_bytes_do_not_return(place: Place) -> None:
    path = place / "forgotten"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"x" * 10_000)
        os.ftruncate(fd, 100)
        os.pwrite(fd, b"y", 9_000)
        assert os.pread(fd, 10_000, 0) == b"x" * 100 + bytes(8_900) + b"y"
    assert path.read_bytes() == b"x" * 100 + bytes(8_900) + b"y"


def check_holes(place: Place) -> None:
    path = place / "holes"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"a", 100_000)
        os.pwrite(fd, b"b", 3_000_000)
        assert os.lseek(fd, 0, os.SEEK_END) == 3_000_001
        assert os.lseek(fd, 0, os.SEEK_HOLE) <= 3_000_001
        assert os.lseek(fd, 0, os.SEEK_DATA) <= 100_000
        with refused(errno.ENXIO):
            os.lseek(fd, 3_000_001, os.SEEK_DATA)
    content = path.read_bytes()
    assert len(content) == 3_000_001
    assert content.count(0) == len(content) - 2
    assert (content[100_000:100_001], content[-1:]) == (b"a", b"b")


def check_preallocation(place: Place) -> None:
    path = place / "preallocated"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"start")
        os.posix_fallocate(fd, 0, 100_000)
        assert os.fstat(fd).st_size == 100_000
    assert path.read_bytes() == b"start" + bytes(99_995)


def check_large_in_odd_pieces(place: Place) -> None:
    path = place / "large"
    data = pattern((9 << 20) + 17)
    with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
        for start in range(0, len(data), 300_007):
            assert os.write(fd, data[start : start + 300_007]) == min(300_007, len(data) - start)
    assert path.stat().st_size == len(data)
    assert path.read_bytes() == data


def check_mapped_write(place: Place) -> None:
    path = place / "mapped"
    data = pattern(20_000)
    path.write_bytes(data)
    with opened(path, os.O_RDWR) as fd:
        with mmap.mmap(fd, 0) as view:
            assert view[:] == data
            view[5000:5005] = b"12345"
            view[19_990:] = b"0123456789"
            view.flush()
            assert os.pread(fd, 5, 5000) == b"12345"
            os.pwrite(fd, b"by the descriptor", 100)
            assert view[100:117] == b"by the descriptor"
        os.fsync(fd)
    expected = bytearray(data)
    expected[5000:5005], expected[19_990:], expected[100:117] = b"12345", b"0123456789", b"by the descriptor"
    assert path.read_bytes() == expected


def check_mapped_after_close(place: Place) -> None:
    """A map lives on after its descriptor is closed, and what is written to it arrives."""
    path = place / "map-alone"
    path.write_bytes(bytes(10_000))
    fd = os.open(path, os.O_RDWR)
    view = mmap.mmap(fd, 10_000)
    os.close(fd)
    view[4000:4004] = b"late"
    view.flush()
    assert path.read_bytes()[4000:4004] == b"late"
    view.close()
    assert path.read_bytes() == bytes(4000) + b"late" + bytes(5996)


def check_mapped_private(place: Place) -> None:
    path = place / "private"
    path.write_bytes(b"a" * 5000)
    with opened(path, os.O_RDONLY) as fd:
        view = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        view[:4] = b"mine"
        view.close()
    assert path.read_bytes() == b"a" * 5000


def check_map_sees_other_writer(place: Place) -> None:
    path = place / "watched"
    path.write_bytes(b"old " * 2000)
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0) as view:
        assert view[:4] == b"old "
        with opened(path, os.O_WRONLY) as writer:
            os.pwrite(writer, b"new ", 4000)
            assert view[4000:4004] == b"new "
        assert view[4000:4008] == b"new old "


def check_sync(place: Place) -> None:
    path = place / "synced"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        for number in range(3):
            os.write(fd, b"%d" % number)
            os.fsync(fd)
            os.fdatasync(fd)
            assert path.read_bytes() == b"012"[: number + 1]
    with opened(path, os.O_RDONLY) as fd:
        os.fsync(fd)
    with opened(path, os.O_WRONLY | os.O_SYNC | os.O_APPEND) as fd:
        os.write(fd, b"3")
    assert path.read_bytes() == b"0123"


def check_duplicates(place: Place) -> None:
    """Duplicates share the offset; closing one of them ends nothing."""
    path = place / "duplicates"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    other = os.dup(fd)
    os.write(fd, b"one ")
    os.write(other, b"two ")
    os.close(fd)
    assert path.read_bytes() == b"one two "
    os.write(other, b"three")
    assert os.pread(other, 100, 0) == b"one two three"
    os.close(other)
    assert path.read_bytes() == b"one two three"


def check_inherited_descriptor(place: Place) -> None:
    """As a shell's redirection: the child writes through the descriptor, then the parent goes on."""
    path = place / "inherited"
    with opened(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC) as fd:
        for word in ("one", "two"):
            subprocess.run([sys.executable, "-c", f"print({word!r}, flush=True)"], stdout=fd, check=True)
        os.write(fd, b"three\n")
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def check_two_writers(place: Place) -> None:
    path = place / "shared"
    path.write_bytes(bytes(200_000))
    with opened(path, os.O_WRONLY) as one, opened(path, os.O_RDWR) as other:
        for number in range(0, 200_000, 20_000):
            os.pwrite(one, b"1" * 10_000, number)
            os.pwrite(other, b"2" * 10_000, number + 10_000)
        assert read_all(other, 200_000) == (b"1" * 10_000 + b"2" * 10_000) * 10
    assert path.read_bytes() == (b"1" * 10_000 + b"2" * 10_000) * 10


def check_writers_close_in_turn(place: Place) -> None:
    path = place / "in-turn"
    one, other = os.open(path, os.O_CREAT | os.O_WRONLY), os.open(path, os.O_WRONLY)
    os.pwrite(one, b"aaaa", 0)
    os.close(one)
    assert path.read_bytes() == b"aaaa"
    os.pwrite(other, b"bb", 1)
    assert path.read_bytes() == b"abba"
    os.close(other)
    assert path.read_bytes() == b"abba"


def check_reading_while_writing(place: Place) -> None:
    path = place / "growing"
    with opened(path, os.O_CREAT | os.O_WRONLY) as writer, opened(path, os.O_RDONLY) as reader:
        for number in range(30):
            line = b"line %d\n" % number
            os.write(writer, line)
            assert os.read(reader, 100) == line
            assert os.fstat(reader).st_size == os.fstat(writer).st_size
    with opened(path, os.O_RDONLY) as before:
        assert os.pread(before, 6, 0) == b"line 0"
        with opened(path, os.O_WRONLY) as writer:
            os.pwrite(writer, b"LINE", 0)
            assert os.pread(before, 6, 0) == b"LINE 0"
        assert os.pread(before, 6, 0) == b"LINE 0"


def check_sendfile_and_copy(place: Place) -> None:
    source, target, third = place / "source", place / "target", place / "third"
    data = pattern(700_001)
    source.write_bytes(data)
    with opened(source, os.O_RDONLY) as a, opened(target, os.O_CREAT | os.O_WRONLY) as b:
        sent = 0
        while count := os.sendfile(b, a, sent, len(data)):
            sent += count
    with opened(source, os.O_RDONLY) as a, opened(third, os.O_CREAT | os.O_WRONLY) as b:
        while os.copy_file_range(a, b, 1 << 20):
            pass
    assert target.read_bytes() == third.read_bytes() == data
