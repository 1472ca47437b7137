"""Storage classes as users write them; copied beside a configuration and imported from there."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from depotfs.io.interfaces import FileStorage, StoredFile


class _Stored(StoredFile):
    def __init__(self, path: Path, file: Any) -> None:
        self._file = file
        name, _, kind = path.with_suffix(".meta").read_text().partition("\n")
        found = path.stat()
        modified = datetime.fromtimestamp(int(found.st_mtime), UTC).replace(tzinfo=None)
        super().__init__(path.stem, name, kind, modified, found.st_size)

    def read(self, n: int | None = -1) -> bytes:
        return bytes(self._file.read(n))

    def close(self) -> None:
        self._file.close()
        super().close()


class SixMethods(FileStorage):
    """Only filedepot's six methods, over a directory."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(exist_ok=True)

    def _path(self, file_or_id: Any) -> Path:
        return self._directory / f"{self.fileid(file_or_id)}.bin"

    def get(self, file_or_id: Any) -> StoredFile:
        try:
            return _Stored(self._path(file_or_id), self._path(file_or_id).open("rb"))
        except FileNotFoundError:
            raise OSError(f"File {self.fileid(file_or_id)} not existing") from None

    def _store(self, file_id: str, content: Any, filename: str | None, content_type: str | None) -> str:
        content, filename, content_type = self.fileinfo(content, filename, content_type)
        temporary = self._directory / f"{file_id}.new"
        temporary.write_bytes(content if isinstance(content, bytes) else content.read())
        self._path(file_id).with_suffix(".meta").write_text(f"{filename}\n{content_type}")
        temporary.rename(self._path(file_id))
        return file_id

    def create(self, content: Any, filename: str | None = None, content_type: str | None = None) -> str:
        import uuid

        return self._store(str(uuid.uuid4()), content, filename, content_type)

    def replace(
        self, file_or_id: Any, content: Any, filename: str | None = None, content_type: str | None = None
    ) -> str:
        if file_or_id is not content and not self.exists(file_or_id):
            raise OSError(f"File {self.fileid(file_or_id)} not existing")
        return self._store(str(self.fileid(file_or_id)), content, filename, content_type)

    def delete(self, file_or_id: Any) -> None:
        self._path(file_or_id).unlink(missing_ok=True)

    def exists(self, file_or_id: Any) -> bool:
        return self._path(file_or_id).exists()

    def list(self) -> list[str]:
        return [path.stem for path in self._directory.glob("*.bin")]


class Gated(SixMethods):
    """Stores nothing before a file named `gate` is there; says with `knocked` that it was asked to."""

    def _store(self, file_id: str, content: Any, filename: str | None, content_type: str | None) -> str:
        (self._directory / "knocked").touch()
        while not (self._directory / "gate").exists():
            time.sleep(0.01)
        return super()._store(file_id, content, filename, content_type)


class Surprising(SixMethods):
    """Raises what nobody expects."""

    def list(self) -> list[str]:
        raise RuntimeError("a surprise in list")

    def get(self, file_or_id: Any) -> StoredFile:
        raise RuntimeError("a surprise in get")


class Foreign(SixMethods):
    """Lists names that cannot be those of files, beside good ones."""

    def list(self) -> list[str]:
        return [*super().list(), "with/slash", "", "n" * 300, "nul\0"]


def install(directory: Path) -> str:
    """The module `third_party_storages` can be imported from that directory; returns it for `python_path`."""
    directory.mkdir(exist_ok=True)
    (directory / "third_party_storages.py").write_text(Path(__file__).read_text())
    return os.fspath(directory)
