"""The directory of a storage as this mount shows it: which file is where. Nobody else writes these tables."""

from __future__ import annotations

from collections.abc import Iterator

from depotfs.types import FileId, FileStat
from depotfs.vfs.file import File, Life


class Directory:
    """Live files by the id where they are shown, and by the id under which the storage has those shown elsewhere.

    A file renamed to a scratch name is shown under the id that its new name derives, while the storage goes on having
    it under the old one until that rename is stored: it is *moved*. Its old id is free for a new file meanwhile.
    """

    def __init__(self) -> None:
        self._files: dict[FileId, File] = {}
        self._moved: dict[FileId, File] = {}

    def find(self, file_id: FileId) -> File | None:
        """The file that is shown under that id."""
        return self._files.get(file_id)

    def find_moved(self, file_id: FileId) -> File | None:
        """The file whose content the storage has under that id, though it is shown under another one."""
        return self._moved.get(file_id)

    def stored_at_free(self, file_id: FileId) -> FileStat | None:
        """What the storage has under an id that nothing is shown under: what moved from there, else nothing."""
        moved = self._moved.get(file_id)
        return None if moved is None else moved.stat

    def is_needed(self, file_id: FileId, *, beside: File) -> bool:
        """Whether what the storage has under that id is another file's, too: to keep, or to replace later."""
        others = (self._files.get(file_id), self._moved.get(file_id))
        return any(other is not None and other is not beside for other in others)

    def enter(self, file: File) -> None:
        """The file is shown under its id, which nobody has."""
        assert file.file_id not in self._files, file
        self._files[file.file_id] = file

    def move(self, file: File, file_id: FileId, scratch: bytes | None, over: FileStat | None = None) -> None:
        """The file is shown under that id, which nobody has, and listed by that scratch name, if any.

        Args:
            over: what is stored there and is not this file's.
        """
        assert self._files.get(file_id) in (None, file), file
        self._take_out(file)
        if file.stat is not None and file.stat.file_id == file_id:
            self._moved.pop(file_id, None)
        file.file_id, file.scratch, file.over = file_id, scratch, over
        self._files[file_id] = file
        self._note_moved(file)
        if file.stat is not None and not file.moved:
            file.over = None  # it is back where it is stored
            if file.draft is None:
                file.scratch = None

    def know(self, file: File, stat: FileStat | None) -> None:
        """The storage has that of the file; None: nothing of it any more."""
        self._let_go(file)
        file.stat = stat
        if file.live:
            self._note_moved(file)
            if stat is not None and not file.moved:
                file.scratch = file.over = None  # stored, a file like any other

    def end(self, file: File, life: Life) -> None:
        """The file is not what its id leads to any more."""
        file.life = life
        self._take_out(file)
        self._let_go(file)
        file.scratch = None

    def _note_moved(self, file: File) -> None:
        if file.stat is not None and file.moved:
            self._moved[file.stat.file_id] = file

    def _take_out(self, file: File) -> None:
        if self._files.get(file.file_id) is file:
            del self._files[file.file_id]

    def _let_go(self, file: File) -> None:
        """What a moved file needs no longer belongs to the file that was made in its place and is to replace it."""
        if file.stat is None or self._moved.get(file.stat.file_id) is not file:
            return
        del self._moved[file.stat.file_id]
        heir = self._files.get(file.stat.file_id)
        if heir is not None and heir.stat is None:
            heir.stat, heir.over = file.stat, None

    def forget(self, file: File) -> None:
        """The file is known no more, though it may be stored."""
        self._take_out(file)
        self._let_go(file)

    def __iter__(self) -> Iterator[File]:
        return iter(list(self._files.values()))

    def __len__(self) -> int:
        return len(self._files)

    def check_invariants(self) -> None:
        """AssertionError if the tables and the files contradict each other."""
        for file_id, file in self._files.items():
            assert file.file_id == file_id, file
            assert file.live, file
            assert not file.moved or self._moved.get(file.stat.file_id) is file, file  # type: ignore[union-attr]
            assert file.scratch is None or file.moved or file.draft is not None, file
        for file_id, file in self._moved.items():
            assert file.live, file
            assert file.stat is not None, file
            assert file.stat.file_id == file_id != file.file_id, file
            assert self._files.get(file.file_id) is file, file
