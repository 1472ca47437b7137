"""`depotfs backup` between storages of a configuration."""

import sys
from pathlib import Path

import pytest

from depotfs.cli import main
from depotfs.daemon.exits import Exit
from depotfs.io.local import LocalFileStorage
from tests.cli.conftest import Command


def configure(command: Command) -> tuple[LocalFileStorage, LocalFileStorage]:
    """A configuration with the storages `one` and `two`, and `other`, an alias of `two`."""
    text = "storages: {one: {storage_path: one}, two: {storage_path: two}}\naliases: {other: two}\n"
    (command.directory / "depotfs.yaml").write_text(text)
    return LocalFileStorage(str(command.directory / "one")), LocalFileStorage(str(command.directory / "two"))


def test_files_are_copied_once_and_deleted_if_asked(command: Command) -> None:
    one, two = configure(command)
    ids = [one.create(f"content {n}".encode(), f"{n}.txt") for n in range(3)]
    extra = two.create(b"extra")
    first = command.run("backup", "one", "other")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == "3 copied (27 bytes), 0 unchanged, 0 deleted, 0 gone meanwhile, 0 failed\n"
    assert [two.get(file_id).filename for file_id in ids] == ["0.txt", "1.txt", "2.txt"]
    second = command.run("backup", "one", "other", "--delete")
    assert second.stdout == "0 copied (0 bytes), 3 unchanged, 1 deleted, 0 gone meanwhile, 0 failed\n"
    assert not two.exists(extra)


def test_a_file_that_cannot_be_copied_is_named(command: Command) -> None:
    one, _ = configure(command)
    file_id = one.create(b"content")
    Path(command.directory, "one", file_id, "file").write_bytes(b"other content, longer than its metadata says")
    Path(command.directory, "one", file_id, "metadata.json").write_text("{")
    ended = command.run("backup", "one", "two")
    assert ended.returncode == Exit.BACKUP_INCOMPLETE
    assert file_id in ended.stderr
    assert "1 failed" in ended.stdout


def test_on_a_terminal_progress_has_a_line_of_its_own(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = configure(command)
    one.create(b"content")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["backup", "--config", str(command.directory / "depotfs.yaml"), "one", "two"]) == Exit.OK
    assert capsys.readouterr().err == "\r1 copied, 0 unchanged\n"


def test_an_unknown_storage_is_told_with_those_there_are(command: Command) -> None:
    configure(command)
    ended = command.run("backup", "one", "three")
    assert ended.returncode == Exit.USAGE
    assert ended.stderr == "depotfs: No storage or alias is named 'three'; the configured ones are one, two, other\n"


@pytest.mark.parametrize("target", ["two", "other"])
def test_a_storage_is_no_backup_of_itself(command: Command, target: str) -> None:
    configure(command)
    ended = command.run("backup", "two", target)
    assert ended.returncode == Exit.USAGE
    assert ended.stderr == f"depotfs: two and {target} are the same storage\n"


def test_a_class_that_fails_with_anything_is_one_line(command: Command) -> None:
    (command.directory / "own.py").write_text(
        "class Tape:\n"
        "    def __init__(self): raise KeyError('robot')\n"
        "    get = create = replace = delete = exists = list = lambda self: None\n"
    )
    (command.directory / "depotfs.yaml").write_text(
        "storages: {one: {backend: own.Tape}, two: {storage_path: two}}\npython_path: .\n"
    )
    for words in (("backup", "one", "two"), ("mount", "mnt")):
        ended = command.run(*words)
        assert ended.returncode == Exit.USAGE
        assert ended.stderr == f"depotfs: storage one: own.Tape: KeyError: 'robot' ({command.directory}/own.py:2)\n"
