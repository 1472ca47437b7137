"""Life of a mount: how it starts, and that its end loses nothing that was acknowledged."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from depotfs.daemon.exits import Exit
from tests.mount import third_party
from tests.mount.harness import Mount
from tests.mount.storages import StorageUnderTest
from tests.posix.place import opened, refused

pytestmark = pytest.mark.xdist_group("mount-local")


@pytest.fixture
def mount(storage: StorageUnderTest, tmp_path: Path) -> Iterator[Mount]:
    with Mount(tmp_path / "m", {"files": storage.config}) as mount, mount.watched():
        yield mount


class GatedMount:
    """A mount whose uploads, in the background, wait for a gate.

    Attributes:
        store: the directory that holds what was stored.
    """

    def __init__(self, directory: Path) -> None:
        self.store = directory / "store"
        backend = {"backend": "third_party_storages.Gated", "directory": str(self.store)}
        self.mount = Mount(
            directory / "m",
            {"files": {**backend, "mount": {"commit": "background"}}},
            expected=["spool", "kept", "second"],
            python_path=[third_party.install(directory / "lib")],
        )

    def open_gate(self) -> None:
        (self.store / "gate").touch()

    def write(self, name: str, content: bytes) -> None:
        """Acknowledged, and its upload waits at the gate."""
        (self.mount.path / "files" / name).write_bytes(content)
        self.mount.wait_until((self.store / "knocked").exists, "upload")

    def contents(self) -> list[bytes]:
        return sorted(path.read_bytes() for path in self.store.glob("*.bin"))


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[GatedMount]:
    gated = GatedMount(tmp_path)
    with gated.mount, gated.mount.watched():
        yield gated


def test_end_waits_for_uploads(gated: GatedMount) -> None:
    gated.write("one", b"1")
    (gated.mount.path / "files" / "two").write_bytes(b"2")
    assert (gated.mount.path / "files" / "one").read_bytes() == b"1", "readers do not wait for the upload"
    os.kill(gated.mount.pid, signal.SIGTERM)
    gated.mount.wait_log("SIGTERM: storing everything")
    os.kill(gated.mount.pid, signal.SIGHUP)  # a second one of another kind would end it at once
    with pytest.raises(subprocess.TimeoutExpired):
        gated.mount.process.wait(0.5)
    assert gated.contents() == []
    gated.open_gate()
    gated.mount.wait()
    assert gated.contents() == [b"1", b"2"]


def test_second_signal_keeps_the_spool(gated: GatedMount) -> None:
    gated.write("one", b"1")
    (gated.mount.path / "files" / "two").write_bytes(b"2")
    os.kill(gated.mount.pid, signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        gated.mount.process.wait(0.3)
    os.kill(gated.mount.pid, signal.SIGTERM)
    gated.mount.wait(code=Exit.BYTES_KEPT)
    assert gated.contents() == []
    gated.mount.start()
    assert (gated.mount.path / "files" / "two").read_bytes() == b"2"
    gated.open_gate()
    gated.mount.stop()
    assert gated.contents() == [b"1", b"2"]


def test_fsync_waits_for_the_storage(gated: GatedMount) -> None:
    """In the background too: fsync returns when the storage has the bytes."""
    gated.open_gate()
    with opened(gated.mount.path / "files" / "one", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"1")
        os.fsync(fd)
        assert gated.contents() == [b"1"]
    (gated.mount.path / "files" / "two").write_bytes(b"2")
    with opened(gated.mount.path / "files", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)
    assert gated.contents() == [b"1", b"2"]


def test_later_changes_supersede_waiting_ones(gated: GatedMount) -> None:
    """Whether the upload had begun or not: nothing old lands over something newer, and nothing deleted comes back."""
    directory = gated.mount.path / "files"
    gated.write("one", b"old")
    (directory / "two").write_bytes(b"2")
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit((directory / "one").write_bytes, b"new")
        unlinking = pool.submit((directory / "two").unlink)
        gated.open_gate()
        writing.result()
        unlinking.result()
    assert (directory / "one").read_bytes() == b"new"
    gated.mount.stop()
    assert gated.contents() == [b"new"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_unmount(number: signal.Signals, mount: Mount, storage: StorageUnderTest) -> None:
    (mount.path / "files" / ".scratch").write_bytes(b"x")
    os.kill(mount.pid, number)
    mount.wait()
    assert storage.open().get(storage.derive(".scratch")).read() == b"x"
    assert os.listdir(mount.path) == []


def test_depotfs_umount(mount: Mount, storage: StorageUnderTest) -> None:
    (mount.path / "files" / ".scratch").write_bytes(b"x")
    answer = mount.run("umount", mount.path)
    assert (answer.returncode, answer.stderr) == (0, "")
    mount.wait()
    assert storage.open().get(storage.derive(".scratch")).read() == b"x"
    answer = mount.run("umount", mount.path)
    assert answer.returncode == Exit.NOT_MOUNTED
    assert str(mount.path) in answer.stderr


def test_depotfs_umount_while_a_file_is_open(mount: Mount, storage: StorageUnderTest) -> None:
    """As umount(8): the mount stays, and whoever has the file open goes on."""
    mount.expected.append("is in use")
    with opened(mount.path / "files" / "one", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"1")
        answer = mount.run("umount", mount.path)
        assert answer.returncode == Exit.IN_USE
        assert f"(process {os.getpid()}): {mount.path}/files/one" in answer.stderr
        os.write(fd, b"2")
    assert mount.run("umount", mount.path).returncode == 0
    mount.wait()
    assert storage.open().get(storage.derive("one")).read() == b"12"


def test_umount_of_the_system(mount: Mount, storage: StorageUnderTest) -> None:
    (mount.path / "files" / ".scratch").write_bytes(b"x")
    subprocess.run(["umount", mount.path], check=True)
    mount.wait()
    assert storage.open().get(storage.derive(".scratch")).read() == b"x"


def test_busy_mount_is_not_unmounted_by_the_system(mount: Mount) -> None:
    (mount.path / "files" / "one").write_bytes(b"1")
    with opened(mount.path / "files" / "one", os.O_RDONLY) as fd:
        refusal = subprocess.run(["umount", mount.path], check=False, capture_output=True)
        assert refusal.returncode != 0
        assert os.pread(fd, 1, 0) == b"1"
    assert (mount.path / "files" / "one").read_bytes() == b"1"


def test_an_idle_mount_leaves_no_trace_beside_the_storage(mount: Mount, storage: StorageUnderTest) -> None:
    root = Path(storage.options["storage_path"])
    staging = root.parent / f".{root.name}.depotfs"
    path = mount.path / "files" / "a.txt"
    with opened(path, os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"abc")
        assert staging.is_dir()
        assert os.listdir(root) == []  # filedepot takes whatever is listed for a file
    for _ in range(2):
        mount.wait_until(lambda: not staging.exists(), "end of the staging directory")
        path.write_bytes(b"again, after it went")
    path.unlink()
    mount.wait_until(lambda: os.listdir(root) == [], "empty storage")


def test_background(storage: StorageUnderTest, tmp_path: Path) -> None:
    """`--daemon` returns when the mount answers; `umount` when it has ended."""
    mount = Mount(tmp_path / "m", {"files": storage.config})
    try:
        answer = mount.run("mount", "--daemon", "--config", mount.config, mount.path)
        assert answer.returncode == 0, answer.stderr
        assert os.listdir(mount.path) == ["files"]
        (mount.path / "files" / "one").write_bytes(b"1")
        answer = mount.run("umount", mount.path)
        assert answer.returncode == 0, answer.stderr
        assert not os.path.ismount(mount.path)
    finally:
        mount.abort()
        mount.detach()
    assert storage.open().list() == [storage.derive("one")]


def test_without_a_configuration(tmp_path: Path) -> None:
    """One storage, `default`, in `./files`: filedepot's own default."""
    mount = Mount(tmp_path / "m", {})
    mount.config.unlink()
    try:
        answer = mount.run("mount", "--daemon", mount.path)
        assert answer.returncode == 0, answer.stderr
        assert os.listdir(mount.path) == ["default"]
        (mount.path / "default" / "photo.jpg").write_bytes(b"jpeg")
        stored = mount.directory / "files" / "590f20fd-d941-5e6d-b65e-8496d7f4da20"
        assert (stored / "file").read_bytes() == b"jpeg"
        assert sorted(os.listdir(stored)) == ["file", "metadata.json"]
        assert mount.run("umount", mount.path).returncode == 0
    finally:
        mount.abort()
        mount.detach()


def test_idle_memory(mount: Mount) -> None:
    os.listdir(mount.path / "files")
    assert mount.peak_memory() < 150 << 20


def test_open_handle_after_the_end(mount: Mount) -> None:
    path = mount.path / "files" / "one"
    path.write_bytes(b"1" * 10_000_000)
    fd = os.open(path, os.O_RDONLY)
    mount.stop()
    with refused(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
        os.pread(fd, 4096, 9_000_000)
    with contextlib.suppress(OSError):
        os.close(fd)
