"""Who keeps a mount from being unmounted."""

import os
import subprocess
from pathlib import Path

from depotfs.daemon.holders import find_holders


def test_open_files_and_working_directories_are_told(tmp_path: Path) -> None:
    assert find_holders(str(tmp_path)) == []
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "file"
    with (
        file.open("wb"),
        subprocess.Popen(["cat"], cwd=tmp_path / "sub", stdin=subprocess.PIPE) as cat,
    ):
        found = find_holders(str(tmp_path))
        assert len(found) == 2
        assert any(line.endswith(f"(process {os.getpid()}): {file}") for line in found)
        assert f"cat (process {cat.pid}): working directory" in found
        assert find_holders(str(tmp_path / "su")) == []
        cat.communicate()
