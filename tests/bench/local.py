"""The mount over a local storage, beside the same files in their directory and through bindfs."""

from __future__ import annotations

import contextlib
import functools
import itertools
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import measure, work
from tests.bench.measure import Contestant, Row
from tests.bench.scale import Scale
from tests.mount.harness import Mount
from tests.posix.place import derived_uuid

GIB = 1 << 30


class Local:
    """Directories with the same files: one native, one as a local storage."""

    def __init__(self, directory: Path, scale: Scale) -> None:
        self.directory = directory
        self.scale = scale
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def depotfs(self, store: Path) -> Iterator[Path]:
        """The directory of a storage in that directory, freshly mounted."""
        storage = {"storage_path": str(store)}
        with Mount(self.directory / f"mount-{next(self._numbers)}", {"files": storage}) as mount:
            yield mount.path / "files"

    @contextlib.contextmanager
    def bindfs(self, directory: Path) -> Iterator[Path]:
        """The directory through bindfs, freshly mounted, with the options that make it fast."""
        path = self.directory / f"bindfs-{next(self._numbers)}"
        path.mkdir()
        subprocess.run(["bindfs", "--multithreaded", "-o", "big_writes", directory, path], check=True)
        try:
            yield path
        finally:
            subprocess.run(["umount", path], check=True)

    @contextlib.contextmanager
    def native(self, directory: Path) -> Iterator[Path]:
        """The directory itself."""
        yield directory

    def lay_aside(self, directory: Path) -> None:
        """It is gone from there, and removed at the end of all.

        ext4 without a journal passes over the inodes that were freed within the last minutes one by one: who makes
        files soon after somebody removed many is measured for that.
        """
        directory.rename(self.directory / f"aside-{next(self._numbers)}")

    def contest(self, name: str, bench: Callable[[Path], float], store: Path, plain: Path) -> dict[str, Contestant]:
        """The same work by each way in, each time freshly mounted."""

        def by(way: Callable[[Path], contextlib.AbstractContextManager[Path]], directory: Path) -> float:
            with way(directory) as path:
                return bench(path)

        contestants: dict[str, Contestant] = {"depotfs": functools.partial(by, self.depotfs, store)}
        if shutil.which("bindfs"):
            contestants["bindfs"] = functools.partial(by, self.bindfs, plain)
        contestants["native"] = functools.partial(by, self.native, plain)
        return contestants

    def compare(self, name: str, contestants: dict[str, Contestant], target: float) -> Row:
        return measure.compare(name, contestants, rounds=self.scale.rounds, against="bindfs", target=target)


def bench_local(directory: Path, scale: Scale) -> Iterator[Row]:
    """Reading, writing, copying, listing, starting, and memory."""
    local = Local(directory, scale)
    yield from _large(local)
    yield from _small(local)
    yield from _listing(local)
    yield from _daemon(local)


def _large(local: Local) -> Iterator[Row]:
    store, plain = local.directory / "large-store", local.directory / "large-plain"
    plain.mkdir()
    work.make_large_file(plain / "large", local.scale.large)
    with local.depotfs(store) as path:
        shutil.copyfile(plain / "large", path / "large")
    work.read_in_order(plain / "large")
    work.read_in_order(store / derived_uuid("large") / "file")
    size = f"{local.scale.large / GIB:g} GiB"
    reading = local.contest("read", lambda path: work.read_in_order(path / "large"), store, plain)
    yield local.compare(f"local: read {size}", reading, 0.9)
    writing = local.contest("write", lambda path: work.write_in_order(path / "new", local.scale.large), store, plain)
    yield local.compare(f"local: write {size}", writing, 0.9)
    shutil.rmtree(store)
    shutil.rmtree(plain)


def _small(local: Local) -> Iterator[Row]:
    count = local.scale.files
    store, plain = local.directory / "small-store", local.directory / "small-plain"
    work.make_small_files(plain, count)
    with local.depotfs(store) as path:
        work.copy_tree(plain, path)

    def copy_out(path: Path) -> float:
        target = local.directory / "out"
        target.mkdir()
        try:
            return work.copy_tree(path, target)
        finally:
            local.lay_aside(target)

    out = local.contest("out", copy_out, store, plain)
    yield local.compare(f"local: cp -r of {count} × 20 KiB out", out, 0.5)
    stores, plains = local.directory / "in-store", local.directory / "in-plain"

    def copy_in(path: Path) -> float:
        return work.copy_tree(plain, path)

    def fresh(directory: Path, contestant: Contestant) -> float:
        directory.mkdir()
        try:
            return contestant()
        finally:
            local.lay_aside(directory)

    within = local.contest("in", copy_in, stores, plains)
    prepared: dict[str, Contestant] = {
        name: functools.partial(fresh, stores if name == "depotfs" else plains, contestant)
        for name, contestant in within.items()
    }
    yield local.compare(f"local: cp -r of {count} × 20 KiB in", prepared, 0.4)
    shutil.rmtree(store)
    shutil.rmtree(plain)


def _listing(local: Local) -> Iterator[Row]:
    count = local.scale.listed
    store, plain = local.directory / "list-store", local.directory / "list-plain"
    work.make_small_files(plain, count, 10)
    with local.depotfs(store) as path:
        work.copy_tree(plain, path)
    listing = local.contest("list", work.list_long, store, plain)
    yield local.compare(f"local: ls -l of {count}", listing, 0.5)
    shutil.rmtree(store)
    shutil.rmtree(plain)


def _daemon(local: Local) -> Iterator[Row]:
    directory = local.directory / "daemon"
    starts = []
    for number in range(local.scale.rounds):
        mount = Mount(directory / str(number), {"files": {"storage_path": str(directory / "store")}})
        start = time.perf_counter()
        with mount:
            starts.append(time.perf_counter() - start)
            idle = mount.peak_memory() / work.MIB
    yield measure.limit("local: mount answers", sorted(starts)[len(starts) // 2], "s", 1)
    yield measure.limit("local: memory of an idle daemon", idle, "MiB", 100)
    size = local.scale.huge
    source = directory / "sparse"
    with source.open("wb") as file:
        file.truncate(size)
    with Mount(directory / "huge", {"files": {"storage_path": str(directory / "store")}}) as mount:
        target = mount.path / "files" / "huge"
        subprocess.run(["cp", "--sparse=never", source, target], check=True)
        yield measure.limit(f"local: memory, {size / GIB:g} GiB copied in", mount.peak_memory() / work.MIB, "MiB", 200)
        work.read_in_order(target)
        yield measure.limit(f"local: memory, {size / GIB:g} GiB read", mount.peak_memory() / work.MIB, "MiB", 200)
        target.unlink()
