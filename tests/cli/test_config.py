"""`depotfs config check`."""

import pytest

from depotfs.daemon.exits import Exit
from tests.cli.conftest import Command

GOOD = "storages: {a: {storage_path: files}, b: {storage_path: more}}\naliases: {c: b}\ndefault: c\n"


def test_a_good_configuration_is_summed_up(command: Command) -> None:
    (command.directory / "depotfs.yaml").write_text(GOOD)
    ended = command.run("config", "check")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == (
        "depotfs.yaml: no mistakes\n"
        "  a: depotfs.io.local.LocalFileStorage\n"
        "  b: depotfs.io.local.LocalFileStorage (default)\n"
        "  c -> b\n"
    )


def test_without_one_the_embedded_one_is_told(command: Command) -> None:
    ended = command.run("config", "check")
    assert ended.returncode == 0
    assert ended.stdout.startswith("no configuration: the embedded one is used\n  default: ")


def test_mistakes_are_printed_with_the_name_that_was_given(command: Command) -> None:
    (command.directory / "other.yaml").write_text(
        "storages: {a: {storage_path: x, mount: {commit: soon}}}\ndefault: b\n"
    )
    ended = command.run("config", "check", "other.yaml")
    assert ended.returncode == Exit.USAGE
    assert ended.stderr == (
        "other.yaml:1: storages.a.mount.commit: expected close or background, found 'soon'\n"
        "other.yaml:2: default: expected a storage or an alias (a), found 'b'\n"
    )


def test_a_single_mistake_reads_like_any_other_message(command: Command) -> None:
    ended = command.run("config", "check", "none.yaml")
    assert ended.returncode == Exit.USAGE
    assert ended.stderr == "depotfs: none.yaml: cannot be read: No such file or directory\n"


def test_what_only_the_classes_know_to_be_wrong_is_named_all_at_once(command: Command) -> None:
    (command.directory / "depotfs.yaml").write_text(
        "storages:\n"
        "  scans: {backend: depotfs.io.gridfs.GridFSStorage, mongouri: 'mongodb://localhost'}\n"
        "  faces: {backend: depotfs.io.boto3.S3Storage}\n"
        "  texts:\n"
        "    backend: depotfs.io.boto3.S3Storage\n"
        "    bucket: s3://texts/old\n"
        "    attempts: 0\n"
        "    timeout: 500ms\n"
        "    presign: 99d\n"
        "    kms_key_id: key\n"
        "    policy: 5\n"
        "    access_key_id: key\n"
        "  ideas: {backend: depotfs.io.gcs.GCSStorage, bucket: ideas, presign: 99d, attempts: 3.5, credentials: none}\n"
    )
    ended = command.run("config", "check")
    assert ended.returncode == Exit.USAGE
    assert [line.split(": ")[:2] for line in ended.stderr.splitlines()] == [
        ["depotfs.yaml:2", "storages.scans.mongouri"],
        ["depotfs.yaml:3", "storages.faces"],
        ["depotfs.yaml:6", "storages.texts.bucket"],
        ["depotfs.yaml:7", "storages.texts.attempts"],
        ["depotfs.yaml:9", "storages.texts.presign"],
        ["depotfs.yaml:10", "storages.texts.kms_key_id"],
        ["depotfs.yaml:11", "storages.texts.policy"],
        ["depotfs.yaml:12", "storages.texts.access_key_id"],
        ["depotfs.yaml:13", "storages.ideas.attempts"],
        ["depotfs.yaml:13", "storages.ideas.credentials"],
        ["depotfs.yaml:13", "storages.ideas.presign"],
    ]
    assert "attempts: expected a whole number, found a number" in ended.stderr


def test_with_a_mountpoint_it_says_whether_the_configuration_can_be_mounted_there(command: Command) -> None:
    (command.directory / "depotfs.yaml").write_text("storages: {a: {storage_path: mnt/files}}\nmount: {spool: spool}\n")
    assert command.run("config", "check", "--mountpoint", "other").returncode == 0
    ended = command.run("config", "check", "--mountpoint", "mnt")
    assert ended.returncode == Exit.USAGE
    assert ended.stderr == (
        f"depotfs: storage a: storage_path {command.mountpoint}/files lies in the mountpoint {command.mountpoint}:"
        " whoever used it would wait for itself\n"
    )


@pytest.mark.parametrize("words", [("config", "check"), ("mount", "mnt"), ("backup", "a", "b")])
def test_a_file_that_others_may_write_to_is_not_believed_unless_it_is_named(
    command: Command, words: tuple[str, ...]
) -> None:
    path = command.directory / "depotfs.yaml"
    path.write_text("storages: {evil: {backend: evil.Storage}}\n")
    path.chmod(0o666)
    ended = command.run(*words)
    assert ended.returncode == Exit.USAGE
    assert ended.stderr == (
        "depotfs: depotfs.yaml: can be written to by others (its mode is 0666), and it may name code to run:"
        " if it is right, say --config depotfs.yaml\n"
    )
    path.write_text(GOOD)
    assert command.run("config", "check", "depotfs.yaml").returncode == 0
    assert command.run("config", "check", DEPOTFS_CONFIG="depotfs.yaml").returncode == 0
