"""A listing of Google Cloud Storage: its pages in their order, or an error. A part of it never looks like the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from depotfs.errors import StorageUnavailable
from depotfs.io.gcs_answers import Json

KIND: Final = "storage#objects"
_EMPTY_PAGES: Final = 1000
"""Pages without an object that may follow each other: the service sends some where it skips what was not asked for."""


def listed(what: str, ask: Callable[[str], Json], skipped: Callable[[int], None]) -> Iterator[list[Json]]:
    """The objects of each page, in the order of their names; all of them once the iterator ends.

    Args:
        what: is listed, for messages.
        ask: the answer to the request for the page of that token ("": the first one).
        skipped: is told how many entries of a page have no name.
    Raises:
        StorageUnavailable: a page is none, or does not say how to go on, or leads back; and what `ask` raises.
    """
    token, last, empty = "", "", 0
    while True:
        page = ask(token)
        items, following = page.get("items") or [], page.get("nextPageToken") or ""
        if page.get("kind") != KIND or not isinstance(items, list) or not isinstance(following, str):
            raise StorageUnavailable(f"{what}: the server sent something else than a part of a listing")
        found = [item for item in items if isinstance(item, dict) and _name_of(item)]
        skipped(len(items) - len(found))
        names = [last, *(item["name"] for item in found)]
        empty = 0 if found else empty + 1
        if names != sorted(set(names)) or (following and following == token) or empty > _EMPTY_PAGES:
            raise StorageUnavailable(f"{what}: the listing does not move on behind {names[0]!r}")
        yield found
        if not following:
            return
        token, last = following, names[-1]


def _name_of(item: Json) -> str:
    name = item.get("name")
    return name if isinstance(name, str) else ""
