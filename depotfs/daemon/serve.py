"""Builds a mount from settings, serves it, and ends it so that nothing acknowledged is lost."""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

import trio

import depotfs
from depotfs.cache import BlockCache
from depotfs.catalog import Catalog
from depotfs.daemon import backends, kept, mountpoint, notify, places, trust
from depotfs.daemon.control import ControlSocket, Message, source
from depotfs.daemon.ending import Ending
from depotfs.daemon.exits import CommandFailed, Exit
from depotfs.daemon.kept import KeptFile, Told
from depotfs.daemon.settings import CommitMode, MountSettings, Settings, StorageSettings
from depotfs.errors import SpoolBusy
from depotfs.fuse.session import KernelNotifier, MountRefused, Session
from depotfs.io.interfaces import FileStorage
from depotfs.remote.remote import Remote
from depotfs.remote.workers import in_thread
from depotfs.spool import Spool, State
from depotfs.vfs.filesystem import DepotFilesystem
from depotfs.vfs.nodes import NodeTable
from depotfs.vfs.options import VolumeOptions
from depotfs.vfs.recovery import recover
from depotfs.vfs.volume import Volume

_log = logging.getLogger(__name__)

_SECONDS_TO_TELL: Final = 5.0
"""At the end, for what only tells people more: it may wait for a disk or a client that hangs."""


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
    raise_file_limit()
    return trio.run(Daemon(settings, mountpoint, ready).run)


def raise_file_limit() -> None:
    """As many files may be open as this user may have: a shell's 1,024 are few where each open file takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Daemon:
    """One mount and all that it consists of."""

    def __init__(self, settings: Settings, where: str, ready: Callable[[], None]) -> None:
        self._settings = settings
        self._mountpoint = where
        self._ready = ready
        table = NodeTable()
        volumes = [Volume(s.name, _remote(s), volume_options(s.mount), table) for s in _default_first(settings)]
        directory = places.spool_directory(settings, where)
        self._spool = Spool(directory, settings.spool_size)
        self._control = ControlSocket(directory)
        self._told = Told(directory)
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
        self._unclosed: frozenset[int] = frozenset()
        options = {"allow_other"} if settings.allow_other else set()
        self._session = Session(self._filesystem, notifier, where, source(directory), options)
        self._device = ""
        self._ending = Ending(self._filesystem.drain, partial(mountpoint.unmount, where), self._session.end)

    async def run(self) -> int:
        """As `serve`."""
        with trio.open_signal_receiver(*_ending_signals()) as signals, ExitStack() as stack:
            stack.enter_context(self._opened())
            self._mount()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._control.serve, partial(self._answer, nursery))
                try:
                    await self._serve(signals, nursery)
                finally:
                    self._session.close(mounted=self._is_mounted())
                outcome = self._outcome()
                stack.close()  # before anybody hears that it has ended, so that the next mount may come at once
                self._ending.conclude(outcome)
                with trio.move_on_after(_SECONDS_TO_TELL):
                    await self._control.wait_idle()
                nursery.cancel_scope.cancel()
        return int(outcome["code"])

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """While inside, spool, control socket and catalog are this daemon's."""
        with self._open_spool():
            self._catalog.open()
            try:
                yield
            finally:
                self._catalog.close()
                for volume in self._volumes:
                    _close(volume.remote.storage)

    @contextmanager
    def _open_spool(self) -> Iterator[None]:
        try:
            trust.check_directories(places.state_places(self._settings, self._mountpoint))
            files = self._spool.open()
            self._control.open()
        except SpoolBusy as error:
            raise CommandFailed(Exit.SPOOL_BUSY, str(error)) from error
        except OSError as error:
            raise _unusable_spool(self._spool.directory, error) from error
        try:
            self._unclosed = frozenset(file.number for file in files if file.state is State.OPEN)
            recover(files, self._volumes, self._filesystem.committer)
            for line in kept.lines(self._kept()):
                _log.warning("in the spool: %s", line)
            yield
        finally:
            self._control.close()
            self._spool.close()

    def _mount(self) -> None:
        try:
            self._session.open()
        except MountRefused as error:
            code = Exit.NO_PERMISSION if error.forbidden else Exit.UNEXPECTED
            raise CommandFailed(code, str(error)) from error
        mounted = mountpoint.find(self._mountpoint)
        self._device = mounted.device if mounted else ""

    def _is_mounted(self) -> bool:
        mounted = mountpoint.find(self._mountpoint)
        return mounted is not None and mounted.device == self._device

    async def _serve(self, signals: AsyncIterator[int], ends: trio.Nursery) -> None:
        """Serves; returns when nothing more can be stored."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._filesystem.run)
            nursery.start_soon(self._obey, signals, ends)
            async with trio.open_nursery() as serving:
                serving.start_soon(self._session.serve)
                await self._session.wait_ready()
                gc.collect()
                gc.freeze()
                self._ready()
                _log.info("serving at %s", self._mountpoint)
            notify.stopping()
            await self._filesystem.finish()
            await in_thread(self._spool.make_durable)
            nursery.cancel_scope.cancel()

    async def _obey(self, signals: AsyncIterator[int], ends: trio.Nursery) -> None:
        """The first signal: everything is stored while the tree still answers, then it is unmounted. Second: now."""
        ending = False
        async for number in signals:
            name = signal.Signals(number).name
            if not ending:
                ending = True
                _log.info("%s: storing everything", name)
                self._ending.begin(ends, forced=True)
            elif number != signal.SIGHUP:  # which the kernel and the shell of a closed terminal both send
                _log.info("%s: ending now", name)
                await self._end_now()

    async def _answer(self, ends: trio.Nursery, request: Message) -> Message:
        """What a client is told (`depotfs.daemon.control`)."""
        if request.get("device") != self._device:
            return {"error": f"it serves another mount, {self._mountpoint}"}
        match request.get("request"):
            case "status":
                return self._status()
            case "end":
                _log.info("asked to end: storing everything")
                self._ending.begin(ends)
            case "end now":
                _log.info("asked to end now")
                ends.start_soon(self._end_now)
            case other:
                return {"error": f"{other!r} is nothing that can be asked"}
        return await self._ending.wait()

    async def _end_now(self) -> None:
        """Detaches the tree and ends the process: calls to a storage that does not answer cannot be waited for.

        What they were to store is journalled, as after a crash.
        """
        try:
            with trio.move_on_after(_SECONDS_TO_TELL):
                await trio.to_thread.run_sync(mountpoint.detach, self._mountpoint, abandon_on_cancel=True)
        except (CommandFailed, OSError) as error:
            _log.warning("the mount is left behind, dead: %s", error)
        outcome = self._outcome()
        self._ending.conclude(outcome)
        with trio.move_on_after(_SECONDS_TO_TELL):
            await self._control.wait_idle()
        logging.shutdown()
        os._exit(outcome["code"])

    # --- what is told ------------------------------------------------------------------------------------------------

    def _kept(self) -> list[KeptFile]:
        identities = {volume.remote.identity for volume in self._volumes}
        known = kept.look(self._spool.files(), identities, self._unclosed)
        return known + kept.look_unknown(self._spool.lost_directory)

    def _status(self) -> Message:
        """What is mounted, and what is not stored yet."""
        return {
            "version": depotfs.__version__,
            "pid": os.getpid(),
            "mountpoint": self._mountpoint,
            "storages": {storage.name: storage.backend for storage in self._settings.storages},
            "aliases": self._settings.aliases,
            "spool": self._spool.directory,
            "files": [file.message() for file in self._kept()],
        }

    def _outcome(self) -> Message:
        """How the mount has ended: its exit code, and what the spool keeps, which the log tells too."""
        files = self._kept()
        untold = self._told.untold(files)
        for line in kept.lines(files):
            _log.warning("kept in the spool: %s", line)
        if untold:
            self._told.note(files)
            _log.warning("%d files are not stored; the spool %s keeps them", len(untold), self._spool.directory)
        code = Exit.BYTES_KEPT if untold else Exit.OK
        return {"code": code, "ended": True, "untold": len(untold), "kept": kept.lines(files)}


def _unusable_spool(directory: str, error: OSError) -> CommandFailed:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        code = Exit.NO_PERMISSION
    elif error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        code = Exit.USAGE
    else:
        code = Exit.UNEXPECTED
    return CommandFailed(code, f"The spool {directory} cannot be used: {error.strerror or error}")


def _ending_signals() -> list[signal.Signals]:
    """What ends the mount; a closed terminal does, unless nohup(1) had it ignored."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


def _close(storage: FileStorage) -> None:
    try:
        storage.close()
    except Exception:  # of a class that is not ours; everything is stored or in the spool by now
        _log.exception("%s could not be closed", storage.identity())


def _remote(settings: StorageSettings) -> Remote:
    storage = backends.build(settings)
    return Remote(storage, deadline=settings.mount.deadline, identity=backends.identity(settings, storage))


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
