"""What the README says of the command."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import depotfs
from depotfs.daemon.backends import Arguments, import_backend
from depotfs.daemon.exits import Exit
from depotfs.daemon.settings import MountSettings
from depotfs.io.local import LocalFileStorage
from depotfs.manager import DepotManager
from tests.cli.conftest import Command

ROOT = Path(__file__).parents[2]


def test_its_exit_codes_are_those_of_the_command() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "README.md").read_text(), re.M)
    assert rows == [(str(code.value), code.meaning) for code in Exit]


@pytest.mark.parametrize("words", [("mount",), ("umount",), ("status",), ("config", "check"), ("backup",)])
def test_its_synopsis_has_every_option(command: Command, words: tuple[str, ...]) -> None:
    synopsis = re.search(rf"^    depotfs {' '.join(words)} .*(?:\n     +.*)*", (ROOT / "README.md").read_text(), re.M)
    assert synopsis is not None
    usage = command.run(*words, "--help").stdout.partition("\n\n")[0]
    assert set(re.findall(r"--[a-z-]+", synopsis[0])) == set(re.findall(r"--[a-z-]+", usage))


@pytest.mark.parametrize(
    "backend",
    ["local.LocalFileStorage", "gridfs.GridFSStorage", "boto3.S3Storage", "gcs.GCSStorage"],
)
def test_it_names_every_argument_of_a_backend(backend: str) -> None:
    chapter = (ROOT / "README.md").read_text().partition("### Backends")[2].partition("\n## ")[0]
    table = chapter.partition(f"`depotfs.io.{backend}`")[2].partition("\n`depotfs")[0]
    columns = re.findall(r"^\| (`.*?) \|", table, re.M)
    named = {key for column in columns for key in re.findall(r"`(\w+)`", column)}
    assert named == set(Arguments(import_backend(f"depotfs.io.{backend}")).names)


def test_it_names_every_key_of_mount() -> None:
    chapter = (ROOT / "README.md").read_text().partition("The keys of `mount:`")[2].partition("\n### ")[0]
    named = {key for column in re.findall(r"^\| (`.*?) \|", chapter, re.M) for key in re.findall(r"`(\w+)`", column)}
    assert named == {*MountSettings.__dataclass_fields__, "allow_other", "spool", "spool_size", "cache_size"}


def test_its_examples_of_the_library_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("face.png").write_bytes(b"not really a picture")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S))
    storage = LocalFileStorage(str(tmp_path / "copies"))
    assert "backup" in code
    try:
        exec(code, {"app": lambda environ, start_response: []})
    finally:
        DepotManager._clear()
    (file_id,) = storage.list()
    stored = storage.get(file_id)
    assert (stored.filename, stored.content_type, stored.read()) == ("face.png", "image/png", b"not really a picture")


def test_the_module_is_the_command_and_knows_its_version() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "depotfs", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == f"depotfs {depotfs.__version__}\n"


def test_the_unit_is_understood_by_systemd() -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is missing")
    unit = ROOT / "systemd" / "depotfs@.service"
    ended = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    complaints = [
        line for line in ended.stderr.splitlines() if "/opt/depotfs/bin/depotfs is not executable" not in line
    ]
    assert [line for line in complaints if "depotfs@" in line] == []
