"""A local storage whose every step fails, or is the process's last: files are the old or the new ones, whole."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from depotfs.errors import DepotError, FileNotStored, VersionChanged
from depotfs.io.content import BytesContent, FileContent
from depotfs.io.local import LocalFileStorage
from depotfs.types import ABSENT, FileId, FileMetadata
from tests.io.contract_sources import ABSENT_IDS, METADATA, content_of, put
from tests.io.faults import Steps, in_child, without_exchange

FILE, OTHER = ABSENT_IDS
NEW = FileMetadata("new.png", "image/png", 2)
KILLED = 9
State = tuple[bytes, FileMetadata] | None
Act = Callable[[LocalFileStorage], object]

OLD_STATE: State = (b"old content", METADATA)
NEW_STATE: State = (b"the new content", NEW)


def _put(storage: LocalFileStorage) -> None:
    storage.put(BytesContent(b"the new content"), NEW, file_id=FILE)


def _put_staged(storage: LocalFileStorage) -> None:
    _put_out_of(storage, f"{storage.staging_directory()}/spool-1")


def _put_staged_inside(storage: LocalFileStorage) -> None:
    """As a mount of an earlier version left it."""
    _put_out_of(storage, f"{storage.storage_path}/.depotfs/spool-1")


def _put_out_of(storage: LocalFileStorage, directory: str) -> None:
    fd = os.open(f"{directory}/file", os.O_RDWR)
    try:
        storage.put(FileContent(f"{directory}/file", fd, 15, movable=True), NEW, file_id=FILE)
    finally:
        os.close(fd)


def _update(storage: LocalFileStorage) -> None:
    storage.update(storage.stat(FILE), filename=NEW.filename, content_type=NEW.content_type, modified=NEW.modified)


def _copy(storage: LocalFileStorage) -> None:
    storage.copy(storage.stat(OTHER), FILE, NEW)


def _remove(storage: LocalFileStorage) -> None:
    storage.remove(FILE)


# name -> what is done, the state before, the state after
CASES: dict[str, tuple[Act, State, State]] = {
    "create": (_put, None, NEW_STATE),
    "create staged": (_put_staged, None, NEW_STATE),
    "replace": (_put, OLD_STATE, NEW_STATE),
    "create staged inside": (_put_staged_inside, None, NEW_STATE),
    "replace staged": (_put_staged, OLD_STATE, NEW_STATE),
    "replace staged inside": (_put_staged_inside, OLD_STATE, NEW_STATE),
    "update": (_update, OLD_STATE, (b"old content", NEW)),
    "copy over": (_copy, OLD_STATE, (b"another file", NEW)),
    "remove": (_remove, OLD_STATE, None),
}


class Scene:
    """A storage with one bystander, and perhaps the file that something happens to."""

    def __init__(self, root: Path, case: str, durable: bool) -> None:
        self.act, self.before, self.after = CASES[case]
        self.root = root
        self.storage = LocalFileStorage(root, durable)
        put(self.storage, b"another file", OTHER)
        if self.before is not None:
            put(self.storage, self.before[0], FILE, metadata=self.before[1])
        beside = root.parent / f".{root.name}.depotfs"
        self.places = [beside, root / ".depotfs"]
        self.spool = (self.places[1] if self.act is _put_staged_inside else beside) / "spool-1"
        self.spool.mkdir(parents=True)
        (self.spool / "file").write_bytes(b"the new content")

    def check(self, may_be: list[State]) -> None:
        """Seen by a storage that starts afresh: one of these states, the bystander, and nothing else."""
        storage = LocalFileStorage(self.root)
        listed = sorted(storage.list())
        state = _state(storage)
        assert state in may_be
        assert listed == sorted([OTHER] + ([FILE] if state else []))
        assert storage.exists(FILE) is (state is not None)
        assert content_of(storage, OTHER) == b"another file"
        if self.act in (_put_staged, _put_staged_inside) and state != self.after:
            assert (self.spool / "file").read_bytes() == b"the new content"
        # The next one to write sweeps what is left; a mount's directory is the mount's.
        put(storage, b"x", FILE)
        assert {path for place in self.places for path in place.glob("*")} <= {self.spool}
        assert {path.name for path in self.root.iterdir()} <= {FILE, OTHER, ".depotfs"}


def _state(storage: LocalFileStorage) -> State:
    try:
        stat = storage.stat(FILE)
    except FileNotStored:
        return None
    return content_of(storage, stat), stat.metadata


def _scenes(directory: Path, case: str, durable: bool) -> Iterator[tuple[int, Scene]]:
    """A fresh scene for every step, until whoever uses them stops."""
    for number in range(1, 200):
        root = directory / str(number)
        yield number, Scene(root, case, durable)
    pytest.fail("the work never ends")


def _fail() -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: thousands of flushes to a disk would only take time here."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield Path(path)


@pytest.mark.parametrize("exchange", [True, False], ids=["", "no exchange"])
@pytest.mark.parametrize("durable", [False, True], ids=["", "durable"])
@pytest.mark.parametrize("case", CASES)
def test_every_step_fails(directory: Path, case: str, durable: bool, exchange: bool) -> None:
    for number, scene in _scenes(directory, case, durable):
        steps = Steps(number, _fail)
        failed = False
        descriptors = set(os.listdir("/proc/self/fd"))
        with pytest.MonkeyPatch.context() as patch:
            if not exchange:
                without_exchange(patch)
            steps.install(patch)
            try:
                scene.act(scene.storage)
            except (DepotError, OSError):
                failed = True
        scene.storage.close()
        assert set(os.listdir("/proc/self/fd")) <= descriptors  # those of other tests may be closed meanwhile
        # A durable write that is in its place and cannot be flushed has failed, and is there.
        scene.check([scene.after] if not failed else [scene.before, scene.after] if durable else [scene.before])
        if steps.reached is None:
            assert number > 5
            return


@pytest.mark.parametrize("exchange", [True, False], ids=["", "no exchange"])
@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_step(directory: Path, case: str, exchange: bool) -> None:
    for number, scene in _scenes(directory, case, durable=True):

        def work(number: int = number, scene: Scene = scene) -> None:
            patch = pytest.MonkeyPatch()
            if not exchange:
                without_exchange(patch)
            Steps(number, lambda: os._exit(KILLED)).install(patch)
            scene.act(scene.storage)

        code = in_child(work)
        assert code in (0, KILLED)
        scene.check([scene.after] if code == 0 else [scene.before, scene.after])
        if code == 0:
            assert number > 5
            return


class Move:
    """A storage whose file is about to move, to where another one may be."""

    content: State = (b"another file", NEW)

    def __init__(self, root: Path, over: bool) -> None:
        self.root, self.over = root, over
        self.storage = LocalFileStorage(root)
        self.source = put(self.storage, b"another file", OTHER, metadata=METADATA)
        self.base = put(self.storage, b"old content", FILE) if over else None

    def make(self) -> None:
        self.storage.move(self.source, FILE, NEW, expect=self.base.version if self.base else ABSENT)

    def check(self, *, done: bool) -> None:
        """Seen by a storage that starts afresh: nothing happened, or all, or both names have the content, whole."""
        storage = LocalFileStorage(self.root)
        target = _state(storage)
        source = content_of(storage, OTHER) if storage.exists(OTHER) else None
        before: State = OLD_STATE if self.over else None
        expected: list[tuple[State, bytes | None]] = [(self.content, None)]
        if not done:
            expected += [(before, b"another file"), (self.content, b"another file")]
        assert (target, source) in expected
        put(storage, b"x", FILE)
        assert {path.name for path in self.root.iterdir()} <= {FILE, OTHER}
        assert not (self.root.parent / f".{self.root.name}.depotfs").exists()


@pytest.mark.parametrize("exchange", [True, False], ids=["", "no exchange"])
@pytest.mark.parametrize("over", [False, True], ids=["", "over another"])
@pytest.mark.parametrize("killed", [False, True], ids=["failing", "killed"])
def test_move_that_ends_at_every_step(directory: Path, over: bool, exchange: bool, killed: bool) -> None:
    for number in range(1, 200):
        move = Move(directory / str(number), over)
        steps = Steps(number, (lambda: os._exit(KILLED)) if killed else _fail)

        def work(move: Move = move, steps: Steps = steps) -> None:
            with pytest.MonkeyPatch.context() as patch:
                if not exchange:
                    without_exchange(patch)
                steps.install(patch)
                move.make()

        if killed:
            done = in_child(work) == 0
        else:
            try:
                work()
                done = True
            except (DepotError, OSError):
                done = False
        move.check(done=done)
        if done and (killed or steps.reached is None):
            assert number > 5
            return
    pytest.fail("the work never ends")


def test_processes_count_together(tmp_path: Path) -> None:
    """Each adds one, on the condition that nobody else did: nothing is lost if comparing and storing are one step."""
    storage = LocalFileStorage(tmp_path)
    put(storage, b"0", FILE)

    def count(storage: LocalFileStorage) -> None:
        done = 0
        while done < 15:
            stat = storage.stat(FILE)
            try:
                put(storage, b"%d" % (int(content_of(storage, stat)) + 1), FILE, expect=stat.version)
            except VersionChanged:
                continue
            done += 1

    children = _start(3, lambda: count(LocalFileStorage(tmp_path)))
    count(storage)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    assert content_of(storage, FILE) == b"60"
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE]


def _start(number: int, run: Callable[[], None]) -> list[int]:
    """The pids of that many forked processes; each ends with 0 if the call returned."""
    pids = []
    for _ in range(number):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                run()
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    return pids


def test_processes_create_replace_and_remove(tmp_path: Path) -> None:
    """Each process's readers see whole files only, whatever the others do at that moment."""

    def churn() -> None:
        storage = LocalFileStorage(tmp_path)
        for round_ in range(25):
            size = 1 + (os.getpid() + round_) % 5
            put(storage, b"%d" % size * size * 10_000, FileId(FILE), metadata=FileMetadata(str(size), "a/b", 1))
            try:
                stat = storage.stat(FILE)
                data = content_of(storage, stat)
            except (FileNotStored, VersionChanged):
                continue
            assert data == stat.metadata.filename.encode() * int(stat.metadata.filename) * 10_000
            if round_ % 3 == 0:
                storage.remove(FILE)

    children = _start(3, churn)
    churn()
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    assert {path.name for path in tmp_path.iterdir()} <= {FILE}
