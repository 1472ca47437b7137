"""One run of a case: mounts, programs, crashes, and what has to hold at the end of each."""

from __future__ import annotations

import errno
import os
import random
import re
import tempfile
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from depotfs.catalog import Catalog
from depotfs.errors import ContentDamaged, FileNotStored, InvalidMetadata, SpoolDamaged, Stale
from depotfs.spool import SpoolFile, State
from depotfs.vfs.nodes import ROOT
from depotfs.vfs.options import VolumeOptions
from tests.simulation import storage as storages
from tests.simulation.content import Sparse, of_bytes
from tests.simulation.disk import Disk
from tests.simulation.inodes import Refused, place_of, raw_name, stored_as
from tests.simulation.model import File, Model, Place, Unknowable
from tests.simulation.plan import SCRATCH, Case, Operation
from tests.simulation.programs import Program
from tests.simulation.system_calls import SystemCalls
from tests.simulation.world import Dead, Violation, World, actor, logged
from tests.vfs.harness import Tree, mounted

_MEMORY: Final = Path("/dev/shm")
_QUIET: Final = 700.0
"""Seconds after which nothing that was begun is still under way: longer than two of the longest delays of a retry."""
_CHUNK: Final = 1 << 20
_QUICK: Final = 60.0
"""Seconds within which what an earlier daemon left is stored, but for scratch files, where nothing fails."""
_STARTS: Final = 20
"""How often a mount may fail to start, one after the other, where a disk is broken now and then."""
_DRAWN: Final = re.compile("[0-9a-f]{8,}")
_DISK_ERRORS: Final = (
    ("no room", errno.ENOSPC, ("open", "write", "mkdir")),
    ("bad disk", errno.EIO, ("open", "write", "ftruncate", "fsync", "mkdir", "unlink", "rename")),
)
"""Kind of fault, errno, and the steps of the spool's disk that it happens to."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a run: `violation` is None if all held."""

    violation: str | None
    lines: list[str]
    fired: list[str]


class Run:
    """One run.

    Attributes:
        storage: what it is now; after a crash another one goes on with what was stored.
    """

    def __init__(self, case: Case, directory: Path) -> None:
        self.case = case
        self.world = World(case.settings, case.suppressed, str(directory))
        self.directory = directory
        self.disk = Disk(str(directory / "disk"))
        Path(self.disk.root, "files").mkdir(parents=True)
        self.storage = storages.make(self.world, self.disk.root)
        places = list(dict.fromkeys(place_of(name) for name in case.settings.names))
        self.model = Model(self.world, places, [place for place in places if place in SCRATCH])
        self.catalog = Catalog(str(directory / "catalog"))
        programs = sorted({operation.program for operation in case.operations})
        self._todo = {p: [o for o in case.operations if o.program == p] for p in programs}
        self._scope: trio.CancelScope | None = None
        self._survivor: storages.Watched | None = None
        self._mounts = 0
        self._power = False
        self._powers = 0
        self._unclosed: set[int] = set()
        self.world.die = self._die

    def result(self) -> Result:
        """The whole case was run."""
        violation: str | None = None
        with logged(self.world), self.disk:
            self.disk.refuse = self._refuse
            try:
                self.world.run(self._main)
            except BaseException as error:
                causes = [cause for cause in _leaves(error) if not isinstance(cause, _Ended | Unknowable)]
                if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
                    raise
                violation = "\n".join(_told(cause) for cause in causes) or None
        if self.world.violations:
            violation = self.world.violations[0]
        return Result(violation, self.world.lines, self.world.fired)

    async def _main(self) -> None:
        while True:
            crashed = await self._session()
            self._check()
            if not crashed and not any(self._todo.values()):
                break
        await self._last_mount()
        self._check()

    def _check(self) -> None:
        if self.world.violations:
            raise _Ended

    # --- one mount ---------------------------------------------------------------------------------------------------

    def _options(self) -> VolumeOptions:
        settings = self.case.settings
        return VolumeOptions(
            background=settings.background, attr_timeout=settings.attr_timeout, scratch_delay=settings.scratch_delay
        )

    async def _session(self) -> bool:
        """Programs run until nothing is left to do, the daemon is restarted or dies. Returns whether it died."""
        self.world.say(f"mount {self._mounts}")
        self.world.restarting = False
        with suppress_dead(self.world), trio.CancelScope() as self._scope:
            async with self._mounted() as tree:
                self._unclosed = {file.number for file in tree.spool.files() if file.state is State.OPEN}
                if self._mounts:
                    await self._look_after_end(tree)
                self._mounts += 1
                async with trio.open_nursery() as nursery:
                    kernel = SystemCalls(self.world, self.model, tree.fs, self.storage, await _roots(tree), nursery)
                    tree.notes.entry_gone = kernel.entry_gone  # type: ignore[method-assign]
                    programs = await self._run_programs(kernel)
                    if not any(self._todo.values()):
                        await self._calm_down(kernel)
                    await self._end(kernel, programs)
                    if not any(self._todo.values()):
                        await self._look_at_all(kernel)
                        await self._end(kernel, programs)
                        await self._compare_all(tree)
                    nursery.cancel_scope.cancel()
                self._check()
                if not any(self._todo.values()):
                    await tree.fs.finish()
                    self._check_leaks(tree)
        self._scope = None
        if self._survivor is None:
            return False
        self.storage, self._survivor = self._survivor, None
        self.world.dead = False
        self.disk.start()
        self.world.say("the daemon is dead")
        return True

    @asynccontextmanager
    async def _mounted(self) -> AsyncIterator[Tree]:
        """The tree serves while inside; its start is tried again while the disk is broken or full."""
        async with AsyncExitStack() as stack:
            failures = 0
            while True:
                mounting = mounted(self.storage, self.directory / "disk", self._options(), self.catalog)
                try:
                    tree = await stack.enter_async_context(mounting)
                    break
                except OSError as error:
                    failures += 1
                    if failures > _STARTS or self.world.dead:
                        raise
                    self.world.say(f"the mount does not start: {error}")
            yield tree

    async def _run_programs(self, kernel: SystemCalls) -> list[Program]:
        programs: list[Program] = []
        async with trio.open_nursery() as nursery:
            for number, todo in self._todo.items():
                program = Program(self.world, kernel, number)
                programs.append(program)
                nursery.start_soon(self._run_program, program, todo)
        return programs

    async def _run_program(self, program: Program, todo: list[Operation]) -> None:
        while todo and not self.world.restarting:
            await program.do(todo.pop(0))
            self._check_parts(program.kernel)
            self._check()

    def _check_parts(self, kernel: SystemCalls) -> None:
        try:
            kernel.fs.check_invariants()
        except AssertionError:
            self.world.violate(f"a part contradicts itself: {traceback.format_exc()}")

    async def _calm_down(self, kernel: SystemCalls) -> None:
        """Nothing fails any more."""
        self.world.calm = True
        self.world.weather.clear()
        self.world.say("calm")

    async def _end(self, kernel: SystemCalls, programs: list[Program]) -> None:
        """Programs end: what they had open is closed, and the kernel forgets."""
        for program in programs:
            actor.set(f"end {program.pid % 100}")
            await program.close_all()
        await trio.sleep(1.0)  # for releases, too
        kernel.reclaim()
        if self.world.calm:
            await trio.sleep(_QUIET)
            kernel.reclaim()
            self.model.settle()
            if kernel.inodes:
                self.world.violate(f"the kernel still has {kernel.inodes}")
        self._check()

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _look_at_all(self, kernel: SystemCalls) -> None:
        """The mount shows what the model has, and there is but one thing it can be."""
        actor.set("look")
        await kernel.list_names(0)
        for place in self.model.places:
            try:
                opened = await kernel.open(place, 0, os.O_RDONLY, 1)
            except Refused:
                continue
            await kernel.read(opened, 0, 64 << 20)
            await kernel.stat(place, 0)
            await kernel.close(opened)
        self._check()

    async def _compare_all(self, tree: Tree) -> None:
        """What is at each place is known from here on."""
        for place in self.model.places:
            with self.model.looking() as look:
                content = await self._found(tree, place)
                self.model.saw(look, place, partial(_is, content), str(content))
        self._check()

    async def _look_after_end(self, tree: Tree) -> None:
        """What an end of the daemon left is what it may leave."""
        calm, self.world.calm = self.world.calm, True
        weather, self.world.weather = self.world.weather, set()
        actor.set("recovery")
        self.model.compare(await self._found_all(tree), power=self._power)
        await trio.sleep(_QUICK)
        found = await self._found_all(tree)
        self.model.compare(found, power=self._power)
        self.world.calm, self.world.weather = calm, weather
        self.model.recover(found, {place for place in found if self._is_durable(place, found[place])})
        self._power = False
        self._check()

    def _is_durable(self, place: Place, content: Sparse | None) -> bool:
        """Whether that outlasts a loss of power: where power was lost already, or in another machine's storage."""
        far = self.case.settings.kind != "local"
        return content is not None and (far or self._power) and content == self._record(place)

    async def _found_all(self, tree: Tree) -> dict[Place, Sparse | None]:
        return {place: await self._found_or_damaged(tree, place) for place in self.model.places}

    async def _found_or_damaged(self, tree: Tree, place: Place) -> Sparse | None:
        """What the mount shows; what a loss of power damaged is removed, if it was not to outlast that."""
        try:
            return await self._found(tree, place)
        except (InvalidMetadata, ContentDamaged):
            if not self._power or self.case.settings.kind != "local":
                raise
            await tree.fs.unlink(tree.directory, raw_name(place), 0)
            return None

    async def _found(self, tree: Tree, place: Place) -> Sparse | None:
        """What the mount shows at a place; asked once more where it changes meanwhile, or has to be found out."""
        try:
            return await self._read(tree, place)
        except Stale:
            return await self._read(tree, place)
        except SpoolDamaged:
            await trio.sleep(_QUICK)
            return await self._read(tree, place)

    @staticmethod
    async def _read(tree: Tree, place: Place) -> Sparse | None:
        try:
            attr = await tree.fs.lookup(tree.directory, raw_name(place), 0)
        except FileNotStored:
            return None
        fh = await tree.fs.open(attr.node_id, os.O_RDONLY)
        content = Sparse()
        while data := bytes(await tree.fs.read(fh, content.size, _CHUNK)):
            more = of_bytes(data)
            content = Sparse(
                content.size + more.size, (*content.extents, *((o + content.size, d) for o, d in more.extents))
            )
        await tree.fs.release(fh)
        tree.fs.forget(attr.node_id, 1)
        return of_joined(content)

    def _record(self, place: Place) -> Sparse | None:
        return self.storage.stored(stored_as(place))

    # --- the end -----------------------------------------------------------------------------------------------------

    def _check_leaks(self, tree: Tree) -> None:
        """Nothing is left of what programs did."""
        volume = tree.volume
        left: dict[str, object] = {
            "due": tree.fs.committer.queue.scheduled(),
            "handles": tree.fs._handles.files(),
            "leftovers": len(volume.leftovers),
        }
        if "leaks" in self.case.settings.checks:
            left.update(files=list(volume.directory), table=len(volume.table) - 3)
        if any(left.values()):
            self.world.violate(f"left behind: {left}")
        if kept := [file for file in tree.spool.files() if not self._may_be_held(file)]:
            self.world.violate(f"left in the spool: {kept}")

    def _may_be_held(self, file: SpoolFile) -> bool:
        """Whether a person has to decide about it: it was never closed, or lost a race."""
        if file.number in self._unclosed:
            return file.state is State.OPEN
        if errno.ESTALE in self.world.errnos:
            return file.state is not State.SEALED
        return file.state is State.HELD and self._powers > 0

    async def _last_mount(self) -> None:
        """What was shown before the last unmount is stored, and shown by the next mount."""
        self.world.say("last mount")
        for place in self.model.places:
            self._check_stored(place)
        known = {stored_as(place) for place in self.model.places}
        if extra := self.storage.stored_ids() - known:
            self.world.violate(f"the storage has {extra}")
        self._check()
        async with self._mounted() as tree:
            for place in self.model.places:
                self._check_is(place, await self._found(tree, place), "the next mount shows")

    def _check_stored(self, place: Place) -> None:
        self._check_is(place, self._record(place), "the storage has")

    def _check_is(self, place: Place, content: Sparse | None, where: str) -> None:
        files = self.model.at(place)
        if not any(_is(content, file) for file in files) and not self._excused(place):
            shown = " or ".join("nothing" if file is None else file.describe() for file in files)
            self.world.violate(f"{where} {content} at {place}, the mount had shown {shown}")

    def _excused(self, place: Place) -> bool:
        """Whether what a scratch name led to may still be under its old id."""
        if "scratch" in self.case.settings.checks:
            return False
        files = [file for scratch in self.model.scratch for file in self.model.at(scratch)]
        return place in self.model.scratch or any(file is not None and place in file.origins for file in files)

    # --- the end of a daemon -----------------------------------------------------------------------------------------

    def _die(self) -> None:
        """The daemon is killed at this moment: what it does from here on reaches nobody."""
        if self._scope is None or self._survivor is not None:
            return
        self.world.land_some()
        self.world.dead = True
        self._survivor = self.storage.surviving()
        if "power" in self.case.settings.ends and self.world.draw(f"power/{self._mounts}") < 0.5:
            self._power = True
            self.world.say("the power is lost")
            self._powers += 1
            self.disk.lose_power(random.Random(f"{self.case.settings.seed}/power/{self._mounts}"))
        else:
            self.disk.kill()
        self._scope.cancel()

    def _refuse(self, call: str, path: str) -> int:
        """The errno of a step of the disk, 0: it is made."""
        if self.world.dead:
            return 0
        step = self.world.name(f"disk {call} {_directory_of(path)}")
        self.world.point(step)
        for kind, code, calls in _DISK_ERRORS:
            if call in calls and self.world.strikes(kind, step):
                self.world.errnos.add(code)
                self.world.say(f"{step} fails: {kind}")
                return code
        return 0


class _Ended(Exception):
    """A violation was seen, so there is no point in going on."""


@contextmanager
def suppress_dead(world: World) -> Iterator[None]:
    """What ends inside since the daemon is dead ends there; what else goes wrong then is of no interest."""
    try:
        yield
    except BaseException as error:
        if not any(isinstance(leaf, Dead) for leaf in _leaves(error)) and not world.dead:
            raise


def _is(content: Sparse | None, file: File | None) -> bool:
    if file is None or content is None:
        return file is None and content is None
    return content in {file.states[index] for index in file.live}


def of_joined(content: Sparse) -> Sparse:
    """The content, extents that touch each other made one."""
    return content.write(content.size, b"")


async def _roots(tree: Tree) -> tuple[int, int]:
    return tree.directory, (await tree.fs.lookup(ROOT, b"d", 0)).node_id


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _told(error: BaseException) -> str:
    if isinstance(error, Violation):
        return str(error)
    return "".join(traceback.format_exception(error))


def _directory_of(path: str) -> str:
    """What a path on the disk is for: names of files are drawn, so they tell nothing."""
    name = os.path.basename(path)
    place = name if name in ("journal", "lock", "journal.new") else os.path.basename(os.path.dirname(path))
    return _DRAWN.sub("", place)


@contextmanager
def temporary() -> Iterator[Path]:
    """A directory in memory."""
    with tempfile.TemporaryDirectory(prefix="depotfs-simulation-", dir=_MEMORY if _MEMORY.is_dir() else None) as path:
        yield Path(path)


def run(case: Case) -> Result:
    """What becomes of the case; the same each time."""
    with temporary() as directory:
        return Run(case, directory).result()
