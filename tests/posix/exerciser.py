"""Random operations on one file beside a model of it: whatever was done, both hold the same bytes."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

LARGEST = 600_000
"""Bytes that the file may grow to: many pages and more than one request of the kernel, yet fast to compare."""


class Exerciser:
    """One file, its model, and the random steps. Everything follows from the seed, which each failure names."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        self._random = random.Random(seed)
        self._model = bytearray()
        self._history: list[str] = [f"seed {seed}"]
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC)
        self._steps: list[tuple[int, Callable[[], str]]] = [
            (30, self._write),
            (25, self._read),
            (6, self._truncate),
            (6, self._write_mapped),
            (6, self._read_mapped),
            (4, self._append),
            (4, self._sync),
            (5, self._reopen),
            (3, self._write_by_other_descriptor),
            (3, self._rename),
            (2, self._compare),
        ]

    def run(self, steps: int) -> None:
        """All steps done and the whole content compared, through the name too. AssertionError with the last steps."""
        weights = [weight for weight, _ in self._steps]
        try:
            for step in self._random.choices([step for _, step in self._steps], weights, k=steps):
                self._history.append(step.__name__)
                self._history[-1] += " " + step()
            self._reopen()
            self._compare()
            assert self._path.read_bytes() == self._model, self._story()
        finally:
            os.close(self._fd)

    def _story(self) -> str:
        return "\n".join([self._history[0], *self._history[-25:]])

    def _range(self, limit: int) -> tuple[int, int]:
        """A random place: often small, often at an edge of a page."""
        size = self._random.choice((1, 7, 511, 4096, 4097, 30_000, 140_000))
        size = self._random.randint(1, size)
        start = self._random.randint(0, max(0, limit - 1))
        if self._random.random() < 0.3:
            start = start // 4096 * 4096
        return start, min(size, LARGEST - start)

    def _check_size(self) -> None:
        assert os.fstat(self._fd).st_size == len(self._model), self._story()

    def _put(self, start: int, data: bytes) -> None:
        self._model.extend(bytes(max(0, start + len(data) - len(self._model))))
        self._model[start : start + len(data)] = data

    def _write(self) -> str:
        start, size = self._range(min(LARGEST - 1, len(self._model) + 20_000))
        data = self._random.randbytes(size)
        assert os.pwrite(self._fd, data, start) == size, self._story()
        self._put(start, data)
        self._check_size()
        return f"{start}+{size}"

    def _append(self) -> str:
        size = min(self._random.randint(1, 5000), LARGEST - len(self._model))
        data = self._random.randbytes(size)
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, data)
        os.close(fd)
        self._put(len(self._model), data)
        self._check_size()
        return f"{size}"

    def _read(self) -> str:
        start, size = self._range(len(self._model) + 5000)
        place = f"{start}+{size}"
        self._history[-1] = f"_read {place}"
        got = os.pread(self._fd, size, start)
        assert got == self._model[start : start + size], self._difference(got, start, size)
        self._history[-1] = "_read"
        return place

    def _difference(self, got: bytes, start: int, size: int) -> str:
        wanted = self._model[start : start + size]
        first = next(
            (i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted))
        )
        return f"{len(got)} of {len(wanted)} bytes at {start}, first difference at {start + first}\n{self._story()}"

    def _truncate(self) -> str:
        size = self._random.choice((0, self._random.randint(0, len(self._model)), self._random.randint(0, LARGEST)))
        if self._random.random() < 0.5:
            os.ftruncate(self._fd, size)
        else:
            os.truncate(self._path, size)
        del self._model[size:]
        self._model.extend(bytes(size - len(self._model)))
        self._check_size()
        return f"{size}"

    def _write_mapped(self) -> str:
        if not self._model:
            return "nothing"
        start, size = self._range(len(self._model))
        data = self._random.randbytes(min(size, len(self._model) - start))
        with mmap.mmap(self._fd, len(self._model)) as view:
            view[start : start + len(data)] = data
            if self._random.random() < 0.5:
                view.flush()
        self._put(start, data)
        return f"{start}+{len(data)}"

    def _read_mapped(self) -> str:
        if not self._model:
            return "nothing"
        start, size = self._range(len(self._model))
        with mmap.mmap(self._fd, len(self._model), prot=mmap.PROT_READ) as view:
            got = view[start : start + size]
        assert got == self._model[start : start + size], self._difference(got, start, size)
        return f"{start}+{size}"

    def _sync(self) -> str:
        self._random.choice((os.fsync, os.fdatasync))(self._fd)
        return ""

    def _reopen(self) -> str:
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_RDWR)
        self._check_size()
        return ""

    def _write_by_other_descriptor(self) -> str:
        start, size = self._range(min(LARGEST - 1, len(self._model) + 1000))
        data = self._random.randbytes(size)
        fd = os.open(self._path, os.O_WRONLY)
        os.pwrite(fd, data, start)
        os.close(fd)
        self._put(start, data)
        return f"{start}+{size}"

    def _rename(self) -> str:
        other = self._path.with_name(self._path.name + "-renamed")
        os.rename(self._path, other)
        self._check_size()
        os.rename(other, self._path)
        self._check_size()
        return ""

    def _compare(self) -> str:
        self._check_size()
        got = os.pread(self._fd, len(self._model) + 1, 0)
        assert got == self._model, self._difference(got, 0, len(self._model))
        return ""
