"""Builds a mount from settings, serves it, and ends it so that nothing acknowledged is lost."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import trio

from depotfs.cache import BlockCache
from depotfs.catalog import Catalog
from depotfs.daemon import backends, notify, runtime
from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.settings import CommitMode, MountSettings, Settings, StorageSettings
from depotfs.errors import SpoolBusy
from depotfs.fuse.session import KernelNotifier, MountRefused, Session
from depotfs.io.foreign import adopt
from depotfs.io.interfaces import FileStorage
from depotfs.remote.remote import Remote
from depotfs.spool import Spool, State
from depotfs.vfs.filesystem import DepotFilesystem
from depotfs.vfs.nodes import NodeTable
from depotfs.vfs.options import VolumeOptions
from depotfs.vfs.recovery import recover
from depotfs.vfs.volume import Volume

_log = logging.getLogger(__name__)


def serve(settings: Settings, mountpoint: str, *, ready: Callable[[], None]) -> int:
    """Serves until unmounted, or until SIGTERM, SIGINT or SIGHUP; then everything is stored before it returns.

    A second signal ends it at once; what is not stored stays in the spool for the next mount.

    Args:
        mountpoint: absolute path; checked before.
        ready: called once the mountpoint answers.
    Returns: the exit code.
    Raises:
        CommandFailed, ConfigurationError: before anything was mounted.
    """
    return trio.run(Daemon(settings, mountpoint, ready).run)


class Daemon:
    """One mount and all that it consists of."""

    def __init__(self, settings: Settings, mountpoint: str, ready: Callable[[], None]) -> None:
        self._mountpoint = mountpoint
        self._ready = ready
        table = NodeTable()
        volumes = [
            Volume(s.name, Remote(adopt(backends.build(s)), deadline=s.mount.deadline), volume_options(s.mount), table)
            for s in _default_first(settings)
        ]
        directory = runtime.spool_directory(settings, mountpoint)
        self._spool = Spool(directory, settings.spool_size)
        self._catalog = Catalog(os.path.join(directory, "catalog.sqlite"))
        notifier = KernelNotifier()
        self._filesystem = DepotFilesystem(
            volumes,
            settings.aliases,
            table,
            spool=self._spool,
            cache=BlockCache(settings.cache_size),
            catalog=self._catalog,
            notifier=notifier,
            options=volume_options(settings.mount),
        )
        self._volumes = volumes
        self._held_before = 0
        options = {"allow_other"} if settings.allow_other else set()
        self._session = Session(self._filesystem, notifier, mountpoint, options)

    async def run(self) -> int:
        """As `serve`."""
        with self._open_spool():
            self._catalog.open()
            try:
                with trio.open_signal_receiver(*_ending_signals()) as signals:
                    self._mount()
                    try:
                        await self._serve(signals)
                    finally:
                        self._session.close()
            finally:
                self._catalog.close()
                for volume in self._volumes:
                    _close(volume.remote.storage)
            return self._outcome()

    @contextmanager
    def _open_spool(self) -> Iterator[None]:
        try:
            files = self._spool.open()
        except SpoolBusy as error:
            raise CommandFailed(Exit.SPOOL_BUSY, str(error)) from error
        except OSError as error:
            raise CommandFailed(Exit.NO_PERMISSION, f"The spool {self._spool.directory}: {error}") from error
        try:
            recover(files, self._volumes, self._filesystem.committer)
            self._held_before = sum(file.state is State.HELD for file in files)
            yield
        finally:
            self._spool.close()

    def _mount(self) -> None:
        try:
            self._session.open()
        except MountRefused as error:
            raise CommandFailed(Exit.NO_PERMISSION, str(error)) from error

    async def _serve(self, signals: AsyncIterator[int]) -> None:
        """Serves; returns when nothing more can be stored."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._filesystem.run)
            nursery.start_soon(self._obey, signals)
            async with trio.open_nursery() as serving:
                serving.start_soon(self._session.serve)
                await self._session.wait_ready()
                gc.collect()
                gc.freeze()
                self._ready()
                _log.info("serving at %s", self._mountpoint)
            notify.stopping()
            await self._filesystem.finish()
            nursery.cancel_scope.cancel()

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        """The first signal: everything is stored while the tree still answers, then it is unmounted. Second: now."""
        ending = False
        async with trio.open_nursery() as nursery:
            async for number in signals:
                name = signal.Signals(number).name
                if not ending:
                    ending = True
                    _log.info("%s: storing everything", name)
                    nursery.start_soon(self._drain_and_end)
                elif number != signal.SIGHUP:  # which the kernel and the shell of a closed terminal both send
                    _log.info("%s: ending now", name)
                    self._end_now()

    def _end_now(self) -> None:
        """Unmounts and ends the process: calls to a storage that does not answer cannot be waited for.

        What they were to store is journalled, as after a crash.
        """
        self._session.close()
        code = self._outcome()
        runtime.write_outcome(self._mountpoint, code)
        logging.shutdown()
        os._exit(code)

    async def _drain_and_end(self) -> None:
        await self._filesystem.drain()
        self._session.end()

    def _outcome(self) -> int:
        statistics = self._spool.statistics()
        kept = statistics.current_files - self._held_before
        if kept <= 0:
            return Exit.OK
        lines = [
            f"{file.target.storage}/{file.target.filename}: {file.size} bytes, spool file {file.number}"
            + (f" ({file.reason})" if file.reason else "")
            for file in self._spool.files()
        ]
        runtime.write_outcome(self._mountpoint, Exit.BYTES_KEPT, lines)
        _log.warning("%d files could not be stored; the spool %s keeps them", kept, self._spool.directory)
        return Exit.BYTES_KEPT


def _ending_signals() -> list[signal.Signals]:
    """What ends the mount; a closed terminal does, unless nohup(1) had it ignored."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


def _close(storage: FileStorage) -> None:
    try:
        storage.close()
    except Exception:  # of a class that is not ours; everything is stored or in the spool by now
        _log.exception("%s could not be closed", storage.identity())


def _default_first(settings: Settings) -> list[StorageSettings]:
    return sorted(settings.storages, key=lambda storage: storage.name != settings.default)


def volume_options(mount: MountSettings) -> VolumeOptions:
    """The settings with what was left open decided: modes by the umask, owner by who mounts."""
    umask = os.umask(0)
    os.umask(umask)
    return VolumeOptions(
        background=mount.commit is CommitMode.BACKGROUND,
        attr_timeout=mount.attr_timeout,
        scratch=mount.scratch,
        scratch_delay=mount.scratch_delay,
        read_only=mount.read_only,
        file_mode=0o644 & ~umask if mount.file_mode is None else mount.file_mode,
        dir_mode=0o755 & ~umask if mount.dir_mode is None else mount.dir_mode,
        uid=os.getuid() if mount.uid is None else mount.uid,
        gid=os.getgid() if mount.gid is None else mount.gid,
    )
