"""The checksum of a file is that of its bytes, in whatever order they were written."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile

import pytest

from depotfs.spool.checksum import RunningChecksum


@pytest.mark.parametrize("algorithm", ["crc32", "crc32c"])
def test_the_usual_check_value(algorithm: str) -> None:
    running = RunningChecksum(algorithm)
    running.add(b"1234", 0)
    running.add(bytearray(b"567"), 4)
    running.add(memoryview(b"89"), 7)
    assert (str(running), running.end) == ({"crc32": "crc32:cbf43926", "crc32c": "crc32c:e3069283"}[algorithm], 9)
    assert RunningChecksum.parsed(str(running), 9).agrees(running)


def test_what_cannot_be_understood_is_of_no_bytes() -> None:
    for text in ("", "crc32", "crc32:", "crc32:xyz", "sha256:00"):
        assert RunningChecksum.parsed(text, 9).end == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_writes_and_cuts(seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryFile() as file:
        fd, size, running = file.fileno(), 0, RunningChecksum()
        for _ in range(40):
            offset = chance.choice((0, size, running.end, chance.randrange(5000)))
            if chance.random() < 0.2:
                os.ftruncate(fd, offset)
                running.cut(offset)
                size = offset
            else:
                data = chance.randbytes(chance.randrange(1, 1000))
                os.pwrite(fd, data, offset)
                running.add(data, offset)
                size = max(size, offset + len(data))
            expected = RunningChecksum()
            expected.read_on(fd, running.end)
            assert running.agrees(expected)
        running.read_on(fd, size)
        expected.give_up()
        expected.add(os.pread(fd, size, 0), 0)
        assert running.agrees(expected)
        running.read_on(fd, size + 1)
        assert running.end == size


def test_without_the_extension_it_is_zlib_that_sums_up() -> None:
    script = (
        "import sys; sys.modules['google_crc32c'] = None; from depotfs.spool.checksum import RunningChecksum;"
        "print(RunningChecksum(), RunningChecksum.parsed('crc32c:00000001', 9).end)"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "crc32:00000000 0\n"
