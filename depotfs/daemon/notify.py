"""Notify: what systemd is told of the daemon's state (sd_notify(3)); nothing where no systemd asks."""

from __future__ import annotations

import os
import socket


def ready() -> None:
    """The mount answers."""
    _send(b"READY=1")


def stopping() -> None:
    """The daemon stores what it has and ends."""
    _send(b"STOPPING=1")


def _send(state: bytes) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(state, "\0" + address[1:] if address.startswith("@") else address)
