"""Exits: the one table of what a command's exit code means."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """Exit codes of every command; one cause each."""

    OK = 0, "done; of `umount`: everything that it had to store is stored"
    UNEXPECTED = 1, "a storage failed, as the message says, or something unforeseen, and the log has a traceback"
    USAGE = 2, "wrong arguments, or a configuration with errors"
    MOUNTPOINT_MISSING = 10, "the mountpoint does not exist"
    NOT_A_DIRECTORY = 11, "the mountpoint is not a directory"
    NOT_EMPTY = 12, "the mountpoint is a directory with something in it"
    ALREADY_MOUNTED = 13, "something is mounted there already"
    NO_FUSE = 14, "no `/dev/fuse`, or `fusermount3` is not installed"
    NO_PERMISSION = 15, "the user may not mount, unmount or enter there"
    SPOOL_BUSY = 16, "another daemon uses the same spool"
    BYTES_KEPT = 17, "unmounted, but some bytes could not be stored; the spool keeps them for the next mount"
    NOT_MOUNTED = 18, "nothing of depotfs is mounted there"
    TIMED_OUT = 19, "`umount` gave up waiting; the daemon goes on storing"
    BACKUP_INCOMPLETE = 20, "some files could not be copied; each was named"
    IN_USE = 21, "`umount` found files or directories of the mount in use; it goes on serving"
    NOT_ASKED = 22, "the daemon of the mount could not be asked, so nothing was done"
    INTERRUPTED = 130, "ended by Ctrl-C before it was done"

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Exit:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


def exit_of(code: int) -> Exit:
    """The exit of that number, as another process told it."""
    return next((known for known in Exit if known == code), Exit.UNEXPECTED)


class CommandFailed(Exception):
    """The command ends here, with one clear sentence for the user.

    Attributes:
        code: what the process exits with.
    """

    def __init__(self, code: Exit, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
