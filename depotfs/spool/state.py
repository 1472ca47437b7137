"""The states of a spool file: open → sealed → done, and held where a person has to decide."""

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
    DONE = "done"
    """The storage has the bytes, or nobody wants them."""
