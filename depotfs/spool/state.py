"""The states of a spool file: open → sealed → done, held where a person has to decide, missing."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """What may happen to a spool file next; the values are those in the journal."""

    OPEN = "open"
    """Being written; nothing of it was promised. After a crash it is kept for a person, not landed."""
    SEALED = "sealed"
    """Promised: its bytes go to its target, after a crash too."""
    HELD = "held"
    """Its commit failed for good; the bytes are kept until a person says what to do."""
    MISSING = "missing"
    """Its bytes, which were promised to land, are gone: its storage took them, or they are lost. Only in memory: the
    journal keeps the promise until somebody who asked the storage says which of the two."""
    DONE = "done"
    """The storage has the bytes, or nobody wants them."""
