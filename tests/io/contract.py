"""What every storage owes its callers, as tests: each backend's test class subclasses `StorageContract`."""

from __future__ import annotations

from typing import ClassVar

from tests.io.contract_files import FilesContract
from tests.io.contract_moves import MovesContract
from tests.io.contract_races import RacesContract
from tests.io.contract_streams import StreamsContract
from tests.io.contract_versions import VersionsContract


class StorageContract(FilesContract, StreamsContract, VersionsContract, MovesContract, RacesContract):
    """All obligations of a storage. The subclass provides a fixture `storage`: a fresh, empty one.

    Attributes:
        lacks: name of a test -> why the server beneath cannot do that. The test must then fail.
    """

    lacks: ClassVar[dict[str, str]] = {}
