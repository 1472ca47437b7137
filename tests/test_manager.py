"""DepotManager: names, aliases, defaults, classes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import depotfs.manager
from depotfs.errors import FileNotStored, UnknownDepot
from depotfs.io.local import LocalFileStorage
from depotfs.io.memory import MemoryFileStorage
from depotfs.manager import DepotManager, configure, get_depot, get_file, set_default

MEMORY = {"depot.backend": "depotfs.io.memory.MemoryFileStorage"}


class Own:
    """A storage class of somebody's."""

    def __init__(self, place: str, size: int = 1) -> None:
        self.place = place
        self.size = size


class Broken:
    def __init__(self) -> None:
        raise OSError("cannot be made")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    DepotManager._clear()
    yield
    DepotManager._clear()


def test_first_is_default() -> None:
    assert DepotManager.get() is None
    assert DepotManager.get("a") is None
    with pytest.raises(RuntimeError, match="No depots"):
        DepotManager.get_default()
    a = DepotManager.configure("a", MEMORY)
    b = DepotManager.configure("b", MEMORY)
    assert (DepotManager.get(), DepotManager.get("a"), DepotManager.get("b")) == (a, a, b)
    assert DepotManager.get_default() == "a"
    DepotManager.set_default("b")
    assert DepotManager.get() is b
    assert DepotManager.get("c") is None
    with pytest.raises(RuntimeError, match="not been configured"):
        DepotManager.set_default("c")


def test_name_is_configured_once() -> None:
    a = DepotManager.configure("a", MEMORY)
    with pytest.raises(RuntimeError, match="already been configured"):
        DepotManager.configure("a", MEMORY)
    assert DepotManager.get("a") is a


def test_failed_first_configuration_leaves_no_trace() -> None:
    with pytest.raises(OSError, match="cannot be made"):
        DepotManager.configure("a", {"depot.backend": f"{__name__}.Broken"})
    with pytest.raises(RuntimeError, match="No depots"):
        DepotManager.get_default()
    assert DepotManager.get() is None
    b = DepotManager.configure("b", MEMORY)
    assert (DepotManager.get_default(), DepotManager.get()) == ("b", b)
    DepotManager.configure("a", MEMORY)


def test_local_is_the_default_backend(tmp_path: Path) -> None:
    storage = DepotManager.configure("a", {"depot.storage_path": str(tmp_path), "depot.durable": True})
    assert isinstance(storage, LocalFileStorage)
    assert (storage.storage_path, storage.durable) == (str(tmp_path), True)


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("depot.io.local.LocalFileStorage", "depotfs.io.local"),
        ("depotfs.io.local.LocalFileStorage", "depotfs.io.local"),
        ("depot.io.memory.MemoryFileStorage", "depotfs.io.memory"),
        ("depot.io.gridfs.GridFSStorage", "depotfs.io.gridfs"),
        ("depot.io.boto3.S3Storage", "depotfs.io.boto3"),
        ("depot.io.gcs.GCSStorage", "depotfs.io.gcs"),
        ("depot.middleware.DepotMiddleware", "depotfs.middleware"),
    ],
)
def test_filedepots_paths_mean_ours(path: str, ours: str) -> None:
    assert depotfs.manager.class_at(path).__module__ == ours


def test_own_class_by_path_or_itself() -> None:
    by_path = DepotManager.configure("a", {"depot.backend": f"{__name__}.Own", "depot.place": "x", "depot.size": 2})
    itself = DepotManager.configure("b", {"depot.backend": Own, "depot.place": "y"})
    assert [type(storage) for storage in (by_path, itself)] == [Own, Own]
    assert (by_path.place, by_path.size, itself.place, itself.size) == ("x", 2, "y", 1)
    assert DepotManager.get("a") is by_path


def test_what_cannot_be_a_backend() -> None:
    for wrong, error in (
        ("nodot", ValueError),
        ("no.such.module.Class", ModuleNotFoundError),
        ("depotfs.io.memory.NoSuchClass", AttributeError),
        ("depot.io.nosuch.Class", ModuleNotFoundError),
        (7, TypeError),
    ):
        with pytest.raises(error):
            DepotManager.configure("a", {"depot.backend": wrong})
    with pytest.raises(TypeError, match="unknown_option"):
        DepotManager.configure("a", {"depot.storage_path": "x", "depot.unknown_option": 1})


def test_prefixes() -> None:
    config: dict[Any, Any] = {
        "depot.backend": Own,
        "depot.place": "one",
        "depot.avatars.backend": Own,
        "depot.avatars.place": "two",
        "avatars_place": "not ours",
        7: "nor this",
    }
    assert DepotManager.from_config(config).place == "one"
    assert DepotManager.from_config(config, prefix="depot.avatars.").place == "two"
    assert DepotManager.configure("a", {"backend": Own, "place": "three"}, prefix="").place == "three"
    assert DepotManager.get("b") is None
    with pytest.raises(TypeError):
        DepotManager.from_config(None)


def test_aliases() -> None:
    a, b = DepotManager.configure("a", MEMORY), DepotManager.configure("b", MEMORY)
    DepotManager.alias("one", "a")
    assert (DepotManager.get("one"), DepotManager.resolve_alias("one"), DepotManager.resolve_alias("a")) == (
        a,
        "a",
        "a",
    )
    DepotManager.alias("one", "b")
    assert DepotManager.get("one") is b
    assert DepotManager.resolve_alias("two") is None
    assert DepotManager.resolve_alias(None) is None
    for alias, name in (("two", "one"), ("two", "c"), ("a", "b")):
        with pytest.raises(ValueError, match="existing storage"):
            DepotManager.alias(alias, name)
    with pytest.raises(RuntimeError):
        DepotManager.set_default("one")
    c = DepotManager.configure("one", MEMORY)
    assert DepotManager.get("one") is c


def test_get_file() -> None:
    a = DepotManager.configure("a", MEMORY)
    DepotManager.alias("one", "a")
    file_id = a.create(b"data", "a.txt")
    for path in (f"a/{file_id}", f"one/{file_id}"):
        assert DepotManager.get_file(path).read() == b"data"
    with pytest.raises(UnknownDepot, match="nowhere"):
        DepotManager.get_file(f"nowhere/{file_id}")
    with pytest.raises(AttributeError):
        DepotManager.get_file(f"nowhere/{file_id}")
    with pytest.raises(ValueError, match="unpack"):
        DepotManager.get_file("a")
    with pytest.raises(ValueError, match="Invalid file id"):
        DepotManager.get_file("a/")
    a.delete(file_id)
    with pytest.raises(FileNotStored):
        DepotManager.get_file(f"a/{file_id}")


def test_middleware_is_made_once() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        return []

    for call in (DepotManager.get_middleware, lambda: DepotManager.url_for("a/b")):
        with pytest.raises(RuntimeError, match="No WSGI middleware"):
            call()
    middleware = DepotManager.make_middleware(app, mountpoint="/files")
    assert DepotManager.get_middleware() is middleware
    assert DepotManager.url_for("a/b") == "/files/a/b"
    for again in (lambda: DepotManager.make_middleware(app), lambda: DepotManager.set_middleware(app)):
        with pytest.raises(RuntimeError, match="already"):
            again()
    assert DepotManager.get_middleware() is middleware


def test_functions_of_the_module() -> None:
    a = configure("a", MEMORY)
    b = configure("b", MEMORY)
    assert (get_depot(), get_depot("b")) == (a, b)
    set_default("b")
    assert get_depot() is b
    assert get_file(f"a/{a.create(b'x')}").read() == b"x"


def test_backup() -> None:
    a, b = DepotManager.configure("a", MEMORY), DepotManager.configure("b", MEMORY)
    file_id = a.create(b"data", "a.txt")
    DepotManager.backup("a", b)
    assert isinstance(b, MemoryFileStorage)
    assert b.get(file_id).read() == b"data"


def test_threads_configure_together() -> None:
    start = threading.Barrier(8)

    def work(number: int) -> object:
        start.wait()
        try:
            return DepotManager.configure("same", MEMORY)
        except RuntimeError:
            return DepotManager.configure(f"own {number}", MEMORY)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(work, range(8)))
    assert len({id(storage) for storage in made}) == 8
    assert DepotManager.get("same") in made
    assert DepotManager.get() is DepotManager.get(DepotManager.get_default())
