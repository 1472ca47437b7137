"""Targets of the spool's tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from depotfs.spool import Target
from depotfs.types import ABSENT, FileId

PHOTO: Final = Target(
    storage="avatars",
    identity="s3:http://localhost:9000/avatars/",
    file_id=FileId("590f20fd-d941-5e6d-b65e-8496d7f4da20"),
    name="photo.jpg",
    filename="Привет-мир-🎉.txt",
    content_type="image/jpeg",
    modified=1_700_000_000,
    expect=ABSENT,
    commit="c1",
)


def target(**changed: Any) -> Target:
    """The photo's target, but for what is given."""
    return replace(PHOTO, **changed)
