"""What goes wrong around a mount: each case has its own clear answer, and harms nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from depotfs.daemon.exits import Exit
from tests.mount import third_party
from tests.mount.harness import Mount
from tests.mount.storages import LOCAL, StorageUnderTest
from tests.posix.place import opened, refused

pytestmark = pytest.mark.xdist_group("mount-local")


@pytest.fixture
def prepared(storage: StorageUnderTest, tmp_path: Path) -> Mount:
    """A mount that was not started."""
    return Mount(tmp_path / "m", {"files": storage.config})


def _refused(mount: Mount, code: Exit, *words: str, config: Path | None = None) -> str:
    """`depotfs mount` ends with that code and a sentence on stderr, and leaves nothing behind."""
    answer = mount.run("mount", "--config", config or mount.config, mount.path)
    assert answer.returncode == code, answer.stderr
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    for word in words:
        assert word in answer.stderr
    assert not mount.spool.exists() or not os.listdir(mount.spool)
    return answer.stderr


def test_mountpoint_is_missing(prepared: Mount) -> None:
    prepared.path.rmdir()
    assert len(_refused(prepared, Exit.MOUNTPOINT_MISSING, str(prepared.path)).splitlines()) == 1
    assert not prepared.path.exists()


def test_mountpoint_is_a_file(prepared: Mount) -> None:
    prepared.path.rmdir()
    prepared.path.write_bytes(b"mine")
    assert len(_refused(prepared, Exit.NOT_A_DIRECTORY, str(prepared.path)).splitlines()) == 1
    assert prepared.path.read_bytes() == b"mine"


def test_mountpoint_is_not_empty(prepared: Mount) -> None:
    (prepared.path / "mine").write_bytes(b"content")
    assert len(_refused(prepared, Exit.NOT_EMPTY, str(prepared.path)).splitlines()) == 1
    assert (prepared.path / "mine").read_bytes() == b"content"


def test_already_mounted(prepared: Mount) -> None:
    with prepared, prepared.watched():
        (prepared.path / "files" / "one").write_bytes(b"1")
        answer = prepared.run("mount", "--config", prepared.config, prepared.path)
        assert answer.returncode == Exit.ALREADY_MOUNTED, answer.stderr
        assert str(prepared.path) in answer.stderr
        assert (prepared.path / "files" / "one").read_bytes() == b"1"


def test_spool_of_another_daemon(prepared: Mount, tmp_path: Path) -> None:
    second = Mount(tmp_path / "second", {"files": {"backend": LOCAL, "storage_path": str(tmp_path / "elsewhere")}})
    second.configure({"storages": {"files": {"storage_path": str(tmp_path / "elsewhere")}}})
    second.config.write_text(second.config.read_text().replace(str(second.spool), str(prepared.spool)))
    with prepared, prepared.watched():
        answer = second.run("mount", "--config", second.config, second.path)
        assert answer.returncode == Exit.SPOOL_BUSY, answer.stderr
        assert not os.path.ismount(second.path)
        (prepared.path / "files" / "one").write_bytes(b"1")


def test_configuration_with_errors(prepared: Mount, tmp_path: Path) -> None:
    prepared.config.write_text(
        "storages:\n  files:\n    storage_pat: x\n  twice:\n    storage_path: a\n  twice:\n    storage_path: b\n"
        "aliases:\n  photos: nowhere\nmount:\n  attr_timeout: soon\n  unknown: 1\n"
    )
    said = _refused(prepared, Exit.USAGE)
    for line, key in ((3, "storage_pat"), (6, "twice"), (9, "photos"), (11, "attr_timeout"), (12, "unknown")):
        assert any(f"depotfs.yaml:{line}:" in text and key in text for text in said.splitlines()), said
    _refused(prepared, Exit.USAGE, "missing.yaml", config=tmp_path / "missing.yaml")


def test_storage_class_with_surprises(tmp_path: Path) -> None:
    """What nobody foresaw is EIO and a traceback in the log; the mount and its other storages go on."""
    mount = Mount(
        tmp_path / "m",
        {
            "bad": {"backend": "third_party_storages.Surprising", "directory": str(tmp_path / "bad")},
            "good": {"backend": LOCAL, "storage_path": str(tmp_path / "good")},
        },
        expected=["surprise", "Traceback", "ERROR", "WARNING"],
        python_path=[third_party.install(tmp_path / "lib")],
    )
    with mount, mount.watched():
        with refused(errno.EIO):
            os.listdir(mount.path / "bad")
        with refused(errno.EIO):
            os.stat(mount.path / "bad" / "file")
        (mount.path / "good" / "file").write_bytes(b"fine")
        assert (mount.path / "good" / "file").read_bytes() == b"fine"
        assert sorted(os.listdir(mount.path)) == ["bad", "good"]
        log = mount.log_text()
        assert "Traceback" in log
        assert "a surprise in list" in log
        assert "a surprise in get" in log


def test_storage_class_with_six_methods(tmp_path: Path) -> None:
    backend = {"backend": "third_party_storages.Foreign", "directory": str(tmp_path / "store")}
    mount = Mount(
        tmp_path / "m",
        {"files": backend},
        expected=["file name|with/slash|skipped"],
        python_path=[third_party.install(tmp_path / "lib")],
    )
    with mount, mount.watched():
        path = mount.path / "files" / "photo.jpg"
        path.write_bytes(b"first")
        with opened(path, os.O_RDWR) as fd:
            os.pwrite(fd, b"FI", 0)
            assert os.pread(fd, 10, 0) == b"FIrst"
        assert path.read_bytes() == b"FIrst"
        assert len(os.listdir(path.parent)) == 1
        os.rename(path, path.with_name("moved.jpg"))
        assert path.with_name("moved.jpg").read_bytes() == b"FIrst"
        path.with_name("moved.jpg").unlink()
        assert os.listdir(path.parent) == []


@contextlib.contextmanager
def _silent_server() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield int(listener.getsockname()[1])


def _s3(port: int) -> dict[str, Any]:
    return {
        "backend": "depotfs.io.boto3.S3Storage",
        "access_key_id": "key",
        "secret_access_key": "secret",
        "bucket": "bucket",
        "endpoint_url": f"http://127.0.0.1:{port}",
        "mount": {"deadline": "2s"},
    }


def _gridfs(port: int) -> dict[str, Any]:
    uri = f"mongodb://127.0.0.1:{port}/files"
    return {"backend": "depotfs.io.gridfs.GridFSStorage", "mongouri": uri, "mount": {"deadline": "2s"}}


@pytest.mark.parametrize("make", [_s3, _gridfs])
def test_server_is_down(make: Any, tmp_path: Path) -> None:
    """A server that refuses and one that never answers: EIO after the deadline, the mount starts, nobody else waits."""
    with _silent_server() as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        mount = Mount(
            tmp_path / "m",
            {
                "refusing": make(closed.getsockname()[1]),
                "silent": make(silent),
                "good": {"backend": LOCAL, "storage_path": str(tmp_path / "good")},
            },
            expected=["WARNING", "ERROR", "refused", "127.0.0.1"],
        )
        with mount, mount.watched():
            (mount.path / "good" / "file").write_bytes(b"fine")
            outcomes: dict[str, int | None] = {}

            def attempt(name: str) -> None:
                try:
                    os.stat(mount.path / name / "file")
                    outcomes[name] = 0
                except OSError as error:
                    outcomes[name] = error.errno

            waiting = [threading.Thread(target=attempt, args=(name,)) for name in ("silent", "refusing")]
            for thread in waiting:
                thread.start()
            served = 0
            while any(thread.is_alive() for thread in waiting):
                assert (mount.path / "good" / "file").read_bytes() == b"fine"
                served += 1
            assert served >= 3, "the good storage waits for the bad ones"
            assert outcomes == {"silent": errno.EIO, "refusing": errno.EIO}
            with refused(errno.EIO):
                os.listdir(mount.path / "refusing")
            with refused(errno.EIO):
                fd = os.open(mount.path / "refusing" / "new", os.O_CREAT | os.O_WRONLY)
                os.write(fd, b"lost?")
                os.close(fd)
            assert sorted(os.listdir(mount.path)) == ["good", "refusing", "silent"]
            assert "127.0.0.1" in mount.log_text(), "the log says which server"
            mount.stop(code=None)


@contextlib.contextmanager
def _small_disk(path: Path, size: int = 4 << 20) -> Iterator[Path]:
    """A file system that is full soon."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def _fill(path: Path) -> None:
    """Ends with ENOSPC, from a write, or from the close."""
    with refused(errno.ENOSPC), opened(path, os.O_CREAT | os.O_WRONLY) as fd:
        for _ in range(64):
            os.write(fd, b"x" * 262_144)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a small disk")
@pytest.mark.parametrize("full", ["storage", "spool"])
def test_disk_is_full(full: str, tmp_path: Path) -> None:
    """ENOSPC, what was there before stays, and with space again everything works again."""
    expected = ["No space", "ENOSPC", "full", "spool"]
    with _small_disk(tmp_path / "small") as small:
        if full == "storage":
            store: dict[str, Any] = {"backend": LOCAL, "storage_path": str(small / "store")}
        else:
            store = {"backend": "depotfs.io.memory.MemoryFileStorage"}
        mount = Mount(tmp_path / "m", {"files": store}, expected=expected)
        if full == "spool":
            mount.spool = small / "spool"
            mount.configure({"storages": {"files": store}})
        with mount, mount.watched():
            directory = mount.path / "files"
            (directory / "kept").write_bytes(b"kept")
            for _ in range(2):
                _fill(directory / "large")
                with contextlib.suppress(FileNotFoundError):
                    (directory / "large").unlink()
            assert (directory / "kept").read_bytes() == b"kept"
            with refused(errno.ENOSPC), opened(directory / "kept", os.O_WRONLY) as fd:
                for _ in range(64):
                    os.write(fd, b"y" * 262_144)
            (directory / "kept").unlink()
            (directory / "kept").write_bytes(b"again")
            assert (directory / "kept").read_bytes() == b"again"
            mount.stop(code=None)


def test_storage_directory_vanishes(storage: StorageUnderTest, tmp_path: Path) -> None:
    """An operator moves a local storage away and back: errors meanwhile, no data lost, no other daemon needed."""
    mount = Mount(tmp_path / "m", {"files": storage.config}, expected=["WARNING", "ERROR"], mount={"attr_timeout": "0"})
    with mount, mount.watched():
        path = mount.path / "files" / "one"
        path.write_bytes(b"1")
        away = tmp_path / "away"
        os.rename(storage.options["storage_path"], away)
        with refused(errno.ENOENT, errno.EIO):
            path.read_bytes()
        os.rename(away, storage.options["storage_path"])
        mount.wait_until(path.exists, "file in the storage that is back", 5)
        assert path.read_bytes() == b"1"
