"""The parts of the house: who may import whom, and what is called in one place only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import depotfs

ROOT = Path(depotfs.__file__).parent

# part -> the parts that it may import; all may import themselves. Types and errors are free to all.
FREE = {"types", "errors", "disk"}
MAY_IMPORT = {
    "types": set(),
    "errors": set(),
    "disk": set(),
    "io": set(),
    "manager": {"io"},
    "http_policy": {"io"},
    "middleware": {"manager", "io", "http_policy"},
    "backup": {"manager", "io"},
    "remote": {"io"},
    "catalog": set(),
    "cache": set(),
    "spool": set(),
    "vfs": {"remote", "catalog", "cache", "spool", "io"},
    "fuse": {"vfs"},
}
TOP = {"daemon", "cli", "__init__", "__main__"}
"""Parts that wire all others."""
LIBRARY = {"types", "errors", "disk", "io", "manager", "http_policy", "middleware", "backup"}
"""Useful without a mount, in plain blocking Python."""
SERVER_ONLY = {"trio", "pyfuse3", "yaml", "sqlite3"}
SDKS = {
    "boto3": ("s3_", "boto3.py", "awss3.py"),
    "botocore": ("s3_", "boto3.py", "awss3.py"),
    "s3transfer": ("s3_", "boto3.py", "awss3.py"),
    "pymongo": ("gridfs",),
    "gridfs": ("gridfs",),
    "bson": ("gridfs",),
    "google": ("gcs",),
}
"""Package of an SDK -> how the names of the modules in io/ begin that may import it."""


def _modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)


def _part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imported(path: Path) -> Iterator[tuple[str, bool]]:
    """(full name of what is imported, whether at run time) for each import of the module."""
    tree = ast.parse(path.read_text())
    checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        at_run_time = id(node) not in checking
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, at_run_time
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", at_run_time


def _parts_imported(path: Path) -> set[str]:
    return {
        name.split(".")[1]
        for name, at_run_time in _imported(path)
        if at_run_time and name.startswith("depotfs.") and not name.startswith("depotfs.__")
    }


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down(path: Path) -> None:
    part = _part(path)
    if part in TOP:
        return
    assert part in MAY_IMPORT, f"{part} has no place in this table"
    allowed = MAY_IMPORT[part] | {part} | FREE
    if part == "manager":  # on demand only, inside its functions: these stand above it
        allowed |= {"middleware", "backup"}
    assert _parts_imported(path) <= allowed


def _importers(package: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in _modules()
        if any(name.split(".")[0] == package for name, _ in _imported(path))
    }


def test_library_is_plain_python() -> None:
    for package in SERVER_ONLY:
        assert {name for name in _importers(package) if name.split("/")[0].removesuffix(".py") in LIBRARY} == set()


def test_library_loads_nothing_of_the_server() -> None:
    """What the table says of source text, seen in a process."""
    import subprocess

    program = (
        "import sys, depotfs.manager, depotfs.middleware, depotfs.backup, depotfs.io.local, depotfs.io.memory\n"
        f"print([name for name in {sorted({*SERVER_ONLY, *SDKS})} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_each_foreign_package_in_its_place() -> None:
    assert {name.split("/")[0] for name in _importers("pyfuse3")} <= {"fuse"}
    assert {name.split("/")[0] for name in _importers("sqlite3")} <= {"catalog"}
    yaml = _importers("yaml")
    assert len(yaml) <= 1
    assert {name.split("/")[0] for name in yaml} <= {"daemon"}


@pytest.mark.parametrize("package", SDKS)
def test_each_sdk_in_its_own_backend(package: str) -> None:
    for name in _importers(package):
        folder, _, module = name.rpartition("/")
        assert folder == "io"
        assert module.startswith(SDKS[package])


def test_only_disk_flushes() -> None:
    def calls(path: Path) -> bool:
        return any(
            isinstance(node, ast.Attribute) and node.attr in ("fsync", "fdatasync", "sync_file_range")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
        )

    assert {path.relative_to(ROOT).as_posix() for path in _modules() if calls(path)} == {"disk.py"}


def test_every_module_says_what_it_is() -> None:
    silent = [
        path for path in _modules() if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []
