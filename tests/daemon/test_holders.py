"""Who keeps a mount from being unmounted."""

import subprocess
from pathlib import Path

from depotfs.daemon.holders import find_holders


def test_open_files_and_working_directories_are_told(tmp_path: Path) -> None:
    assert find_holders(str(tmp_path)) == []
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "file"
    with (
        file.open("wb") as opened,
        subprocess.Popen(["cat"], cwd=file.parent, stdin=subprocess.PIPE, pass_fds=[opened.fileno()]) as cat,
    ):
        assert find_holders(str(tmp_path)) == [f"cat (process {cat.pid}): working directory, {file}"]
        assert find_holders(str(tmp_path / "su")) == []
        cat.communicate()
