"""The checks themselves, on a plain directory: what fails here is wrong in the check."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.posix import CHECKS, tools
from tests.posix.exerciser import Exerciser
from tests.posix.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "place").mkdir()
    return Place(tmp_path / "place")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    return tmp_path / "outside"


@pytest.mark.parametrize("name", CHECKS)
def test_check(name: str, place: Place) -> None:
    CHECKS[name](place)
    place.clean()
    assert not list(place.directory.iterdir()), "a check leaves nothing that its place does not know"


def test_exerciser(place: Place) -> None:
    Exerciser(place / "file", 1).run(2000)


@pytest.mark.parametrize("name", tools.TOOLS)
def test_tool(name: str, place: Place, outside: Path) -> None:
    tools.TOOLS[name](place, outside)
    place.clean()
    assert not list(place.directory.iterdir()), "a tool leaves nothing that its place does not know"


def test_rsync_between(place: Place, outside: Path) -> None:
    (outside / "other").mkdir()
    tools.rsync_between(place, Place(outside / "other"), outside)


def test_sparse_file(place: Place) -> None:
    tools.sparse_file(place)


def test_many_files(place: Place) -> None:
    tools.many_files(place, 1000)
