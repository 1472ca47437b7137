"""`depotfs config check`."""

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


def test_what_only_the_class_knows_to_be_wrong_is_named_too(command: Command) -> None:
    (command.directory / "depotfs.yaml").write_text(
        "storages:\n"
        "  scans: {backend: depotfs.io.gridfs.GridFSStorage, mongouri: 'mongodb://localhost'}\n"
        "  faces: {backend: depotfs.io.boto3.S3Storage}\n"
        "  ideas: {backend: depotfs.io.gcs.GCSStorage, bucket: ideas, presign: 99d}\n"
    )
    ended = command.run("config", "check")
    assert ended.returncode == Exit.USAGE
    assert [line.split(": ")[:2] for line in ended.stderr.splitlines()] == [
        ["depotfs.yaml:2", "storages.scans"],
        ["depotfs.yaml:3", "storages.faces"],
        ["depotfs.yaml:4", "storages.ideas"],
    ]
