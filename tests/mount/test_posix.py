"""The checks of a directory of files, on mounted storages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mount.shared import SharedMount
from tests.mount.storages import KINDS, REMOTE, on_kinds
from tests.posix import CHECKS, tools
from tests.posix.exerciser import Exerciser
from tests.posix.place import Place


@on_kinds(*KINDS)
@pytest.mark.parametrize("name", CHECKS)
def test_check(kind: str, name: str, place: Place) -> None:
    CHECKS[name](place)


@on_kinds("local", "memory")
@pytest.mark.parametrize("seed", range(3))
def test_exerciser(kind: str, seed: int, place: Place) -> None:
    Exerciser(place / "file", seed).run(1500)


@on_kinds(*REMOTE)
def test_exerciser_remote(kind: str, place: Place) -> None:
    Exerciser(place / "file", 7).run(200)


@on_kinds("local")
def test_sparse_file(kind: str, place: Place) -> None:
    tools.sparse_file(place)


@on_kinds(*KINDS)
def test_many_files(kind: str, place: Place) -> None:
    tools.many_files(place, 300 if place.remote else 10_000)


@on_kinds(*KINDS)
@pytest.mark.parametrize("name", tools.TOOLS)
def test_tool(kind: str, name: str, place: Place, outside: Path) -> None:
    tools.TOOLS[name](place, outside)


@on_kinds(*KINDS)
def test_rsync_between(kind: str, place: Place, checked: SharedMount, outside: Path) -> None:
    other = checked.place("other")
    tools.rsync_between(place, other, outside)
    other.clean()
