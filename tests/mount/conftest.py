"""Mounts that tests share: one daemon for each kind of storage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.harness import Mount
from tests.mount.shared import SharedMount
from tests.mount.storages import StorageUnderTest, make_storage
from tests.posix.place import Place


@pytest.fixture(scope="session")
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of storage: local, unless a test is parametrised by it."""
    return str(getattr(request, "param", "local"))


@pytest.fixture(scope="session")
def shared(
    kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[SharedMount]:
    directory = tmp_path_factory.mktemp(f"mount-{kind}").resolve()
    files, other = (make_storage(kind, directory, request) for _ in range(2))
    storages = {"files": files.config, "other": other.config}
    with Mount(directory, storages, aliases={"same": "files"}) as mount:
        yield SharedMount(mount, files, other)


@pytest.fixture
def checked(shared: SharedMount) -> Iterator[SharedMount]:
    """The shared mount; the daemon is alive after the test and has logged nothing that it should not."""
    start = len(shared.mount.log_text())
    with shared.mount.watched():
        yield shared
    assert shared.mount.running, shared.mount.log_text()[-6000:]
    shared.mount.check_log(start)


@pytest.fixture
def place(checked: SharedMount) -> Iterator[Place]:
    """The directory of the first storage; what a test left in it is removed."""
    place = checked.place()
    yield place
    place.clean()


@pytest.fixture
def storage(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> StorageUnderTest:
    """A storage of the test's own."""
    return make_storage(kind, tmp_path.resolve(), request)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """An empty directory that is not in the mount."""
    directory = tmp_path / "outside"
    directory.mkdir()
    return directory
