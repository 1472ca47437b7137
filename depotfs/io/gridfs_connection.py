"""The connection of a GridFS storage: what its URI says, and a client per process, made when first needed."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pymongo.errors
import pymongo.uri_parser
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import ASCENDING, MongoClient, ReadPreference
from pymongo.collection import Collection
from pymongo.write_concern import WriteConcern

from depotfs.errors import ConfigurationError
from depotfs.io.gridfs_documents import Document

_DEFAULTS: dict[str, int] = {"serverSelectionTimeoutMS": 2_500, "connectTimeoutMS": 10_000, "socketTimeoutMS": 60_000}
"""Where the URI says nothing: pymongo's own would wait 30 s for a server and forever for an answer (milliseconds).

2.5 s are five looks at a server that is about to be there again; whoever can wait for longer asks again. They are so
many if the server is polled (serverMonitoringMode), half a second after an error; a monitor that listens instead leaves
it alone for 10 s after a refused login, and so long would each call take to say so (measured).
"""
_SHARES: dict[str, float] = {
    "serverSelectionTimeoutMS": 1.0,
    "connectTimeoutMS": 0.5,
    "waitQueueTimeoutMS": 0.5,
    "socketTimeoutMS": 0.5,
}
"""Of the time of an operation: pymongo asks once more, by a new connection, what a server did not answer."""
_FILES = ("tlscafile", "tlscertificatekeyfile", "tlscrlfile")
"""Options that are paths."""
_CODEC: CodecOptions[Document] = CodecOptions(
    tz_aware=False,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,  # a date outside of the years 1 to 9999 breaks no listing
    unicode_decode_error_handler="replace",  # nor does a broken string
)


class Target:
    """What a MongoDB URI names. Sends nothing, asks no name server.

    Attributes:
        uri: as given; hosts: "host:port,host:port" in lower case, sorted, no credentials; database: its name.

    Raises:
        ConfigurationError: no MongoDB URI, no database in it, or writes that nobody acknowledges.
    """

    def __init__(self, uri: str) -> None:
        if not isinstance(uri, str) or not uri.startswith(("mongodb://", "mongodb+srv://")):
            raise ConfigurationError("mongouri must begin with mongodb:// or mongodb+srv://")
        try:
            split = urlsplit(uri)
        except ValueError:
            raise ConfigurationError("mongouri is no URI: what stands for the host is none") from None
        if "@" in split.path + split.fragment or ("@" in split.query and "@" not in split.netloc):
            # Before anything of it is named in a message: what is taken for the host is the user and the password.
            raise ConfigurationError("mongouri has a user or password with / ? # or @ that is not percent-encoded")
        self.uri = uri
        self.hosts = ",".join(sorted(unquote(split.netloc.rpartition("@")[2]).lower().split(",")))
        self.database = unquote(split.path.lstrip("/")).partition(".")[0]
        self.options = {name.lower(): value for name, value in parse_qsl(split.query)}
        if not self.database:
            raise ConfigurationError(f"mongouri names no database: mongodb://{self.hosts}/DATABASE is wanted")
        if self.options.get("w") == "0":
            raise ConfigurationError("mongouri says w=0: writes that nobody acknowledges cannot be conditional")
        try:  # what is a name for a name server does for a host here, without asking one
            pymongo.uri_parser.parse_uri(uri.replace("mongodb+srv://", "mongodb://", 1), validate=True, warn=False)
        except (pymongo.errors.PyMongoError, ValueError) as error:
            raise ConfigurationError(f"mongouri is wrong: {error}") from None
        except OSError as error:
            named = ", ".join(self.options[name] for name in _FILES if name in self.options)
            raise ConfigurationError(f"mongouri is wrong: {error.strerror} ({named})") from None

    def client(self, seconds: float | None = None) -> MongoClient[Document]:
        """A client that has not connected yet; an operation ends within about `seconds`, None: as the URI says."""
        settings: dict[str, Any] = {name: self._limit(name, default) for name, default in _DEFAULTS.items()}
        if seconds is not None:
            # Not pymongo's own limit for an operation, timeoutMS: with it a server is looked for all of that time.
            for name, share in _SHARES.items():
                longest = max(1, int(seconds * share * 1000))
                settings[name] = min(filter(None, (longest, self._limit(name, settings.get(name)))))
        if "timeoutms" in self.options:  # it takes the place of the socket's
            del settings["socketTimeoutMS"]
        if "servermonitoringmode" not in self.options:
            settings["serverMonitoringMode"] = "poll"
        if self._may_stand_alone and "retrywrites" not in self.options:
            settings["retryWrites"] = False
        return MongoClient(self.uri, connect=False, appname="depotfs", **settings)

    @property
    def _may_stand_alone(self) -> bool:
        """Whether it may be a server without a replica set, which cannot repeat a write.

        pymongo 4.20 tries to, and raises the old error from within a new connection, by which it takes the server to
        have failed again: after a few resets, several threads keep each other from it for seconds (seen), or are told
        that transaction numbers are only allowed on a replica set member.
        """
        alone = self.uri.startswith("mongodb://") and "," not in self.hosts
        return alone and not {"replicaset", "loadbalanced"} & self.options.keys()

    def _limit(self, name: str, default: int | None) -> int | None:
        """Milliseconds, of the URI or by default."""
        told = self.options.get(name.lower(), "")
        return int(told) if told.isdecimal() else default


class Collections:
    """The two collections of one GridFS, in one process.

    Attributes:
        files: files documents; chunks: chunk documents;
        deciding: `files`, read at the primary; what is written there is on the server's disk, with all that was
            written before it, when the write returns;
        shorter: by how many powers of two inserts of chunks are shorter than usual, since one took too long.
    """

    def __init__(self, target: Target, name: str, seconds: float | None = None) -> None:
        self.client = target.client(seconds)
        database = self.client.get_database(target.database, codec_options=_CODEC)
        self.files: Collection[Document] = database[name]["files"]
        self.chunks: Collection[Document] = database[name]["chunks"]
        concern = self.files.write_concern
        if not {"journal", "j"} & target.options.keys():
            # A standalone server, killed, would else lose up to 100 ms of what it had acknowledged.
            concern = WriteConcern(**{**concern.document, "j": True})
        self.deciding = self.files.with_options(write_concern=concern, read_preference=ReadPreference.PRIMARY)
        self.shorter = 0
        self._indexed = False

    def ensure_indexes(self) -> None:
        """GridFS's two indexes exist; asked of the server once."""
        if not self._indexed:
            self.chunks.create_index([("files_id", ASCENDING), ("n", ASCENDING)], unique=True)
            self.files.create_index([("filename", ASCENDING), ("uploadDate", ASCENDING)])
            self._indexed = True


class Connection:
    """Hands out `Collections`; after a fork the child gets its own, and the parent's stay untouched."""

    def __init__(self, target: Target, name: str) -> None:
        self._target, self._name = target, name
        self._seconds: float | None = None
        self._by_process: dict[int, Collections] = {}

    def limit(self, seconds: float | None) -> None:
        """Each operation from now on ends within so many seconds, None: within what the URI says."""
        if seconds != self._seconds:
            self._seconds = seconds
            self.close()

    def collections(self) -> Collections:
        """Those of this process. No lock: one that a fork copied while it was held would hang the child."""
        process = os.getpid()
        found = self._by_process.get(process)
        if found is None:
            made = Collections(self._target, self._name, self._seconds)
            found = self._by_process.setdefault(process, made)  # atomic: one of several threads wins
            if found is not made:
                made.client.close()
        return found

    def close(self) -> None:
        """This process's connections are closed."""
        if found := self._by_process.pop(os.getpid(), None):
            found.client.close()
