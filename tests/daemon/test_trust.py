"""Whom files and directories must belong to."""

import os
from pathlib import Path

import pytest

from depotfs.daemon import trust
from depotfs.daemon.exits import CommandFailed, Exit

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_what_only_its_owner_may_write_to_is_trusted(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode | 0o100)
    assert trust.find_fault(tmp_path.stat()) is None
    trust.check_directories([tmp_path, tmp_path / "missing"])


@pytest.mark.parametrize("mode", [0o664, 0o602, 0o1777])
def test_what_others_may_write_to_is_not(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "file"
    file.touch()
    file.chmod(mode)
    assert trust.find_fault(file.stat()) == f"can be written to by others (its mode is {mode:04o})"
    with pytest.raises(CommandFailed, match=f"{file} can be written to by others") as caught:
        trust.check_directories([tmp_path, file])
    assert caught.value.code is Exit.NO_PERMISSION


@AS_ROOT
@pytest.mark.parametrize(("uid", "name"), [(1, "daemon"), (54321, "the user 54321")])
def test_what_belongs_to_somebody_else_is_not(tmp_path: Path, uid: int, name: str) -> None:
    os.chown(tmp_path, uid, uid)
    assert trust.find_fault(tmp_path.stat()) == f"belongs to {name}"
