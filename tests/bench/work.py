"""Work that is measured: reading, writing, copying and listing below some directory."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

MIB = 1 << 20


def read_in_order(path: Path) -> float:
    """Seconds of reading a file in steps of 1 MiB; what the mount's page cache has of it is dropped before."""
    buffer = bytearray(MIB)
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        while file.readinto(buffer):
            pass
        return time.perf_counter() - start


def write_in_order(path: Path, size: int) -> float:
    """Seconds of writing a new file in steps of 1 MiB, the close included; it is removed afterwards."""
    piece = os.urandom(MIB)
    start = time.perf_counter()
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    for _ in range(size // MIB):
        os.write(fd, piece)
    os.close(fd)
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


def random_reads(path: Path, count: int) -> float:
    """Median seconds of reading 4 KiB somewhere in a file."""
    size = path.stat().st_size
    seconds = []
    chance = random.Random()
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED | os.POSIX_FADV_RANDOM)
        for _ in range(count):
            offset = chance.randrange(size // 4096) * 4096
            start = time.perf_counter()
            os.pread(file.fileno(), 4096, offset)
            seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


def copy_tree(source: Path, target: Path) -> float:
    """Seconds of `cp -r` of what is in the source, into a directory."""
    start = time.perf_counter()
    subprocess.run(["cp", "-r", f"{source}/.", target], check=True)
    return time.perf_counter() - start


def copy_out(source: Path, scratch: Path) -> float:
    """Seconds of `cp -r` of what is in the source, to a directory that is removed afterwards."""
    target = scratch / "out"
    target.mkdir()
    try:
        return copy_tree(source, target)
    finally:
        shutil.rmtree(target)


def list_long(directory: Path) -> float:
    """Seconds of `ls -l`."""
    start = time.perf_counter()
    subprocess.run(["ls", "-l", directory], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def make_small_files(directory: Path, count: int, size: int = 20 * 1024) -> None:
    """So many files of that size in a new directory."""
    directory.mkdir()
    chance = random.Random(count)
    for number in range(count):
        (directory / f"file {number:05}.bin").write_bytes(chance.randbytes(size))


def make_large_file(path: Path, size: int) -> None:
    """A file of random bytes."""
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
