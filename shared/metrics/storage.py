"""Where the processes of a node leave their numbers, so that any of them can be asked for all.

The files are those of prometheus_client's multiprocess mode, and its `MultiProcessCollector` reads them. They are
written here for three reasons. Names are places in the node (`worker-0`), not process ids: a worker that
replaces a dead one goes on from its counters, so that none goes back, nothing piles up over restarts, and process ids
may come again. Nothing is mapped into memory: a full disk is an `OSError`, not a SIGBUS. And the library's own switch,
an environment variable, is left to the apps.

What is written is in the kernel at once and survives the death of the writer. When the folder is taken away, as
cleaners of temporary files do, each process makes it again with its next numbers; only those of the dead are lost.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import mark_process_dead

from aperture.metrics.families import Family, Kind
from aperture.metrics.tallies import Distribution, Reading, bound_text
from aperture.private_folder import make_private, remove_folder

__all__ = ["MetricsDirectory", "ProcessFiles", "forget_gauges", "worker_name"]

log = logging.getLogger(__name__)

_PREFIX = "aperture-metrics-"
_LOCK = "owner.lock"
_LENGTH = struct.Struct("i")
_VALUE = struct.Struct("dd")

_HEAD = 8
"""Bytes before the first entry: how many of the file are used, and padding."""


def worker_name(index: int) -> str:
    """A worker's name among the processes of its node. Without underscores, which separate the parts of file names."""
    return f"worker-{index}"


class MetricsDirectory:
    """A node's own directory, under the system's for temporary files; made by the supervisor before it forks.

    The supervisor and its children hold a lock on a file in it. The directory of a node that was killed is not locked
    any more, and goes when the next node starts. Process ids would not do: containers may share a /tmp and each have
    their own.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self) -> None:
        _sweep(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        try:
            self._lock = _locked_file(self.path)
        except BaseException:
            remove_folder(self.path)
            raise

    def remove(self) -> None:
        """Remove the directory. Idempotent."""
        remove_folder(self.path)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def forget_gauges(path: Path | str, process: str) -> None:
    """A process is dead, and so is what it had; its counters go on."""
    mark_process_dead(process, str(path))  # type: ignore[no-untyped-call]


class ProcessFiles:
    """One process's numbers in the directory.

    Args:
        path: of the directory.
        process: this process's name among those of the node. No two that live have the same.
        of_node: this is a child of the node's supervisor, which ends with it.

    Raises:
        OSError: the directory is gone and cannot be made again, or cannot be read.
    """

    def __init__(self, path: Path | str, process: str, *, of_node: bool = True) -> None:
        make_private(Path(path))
        forget_gauges(path, process)  # those of the process before, if its death was not noticed
        self._path = Path(path)
        self._process = process
        self._files: dict[str, _File] = {}
        self._supervisor = os.getppid() if of_node else None

    def write(self, readings: Iterable[Reading]) -> None:
        """Write down what has changed since the last time.

        Raises:
            OSError: the disk is full, or the directory cannot be made again. What was written before is still there.
        """
        if self._is_orphaned():
            # Its directory is removed with it; what is made again in this process's last moments would stay for ever.
            return
        try:
            for reading in readings:
                file = self._file(reading.family)
                for key, value in _series(reading):
                    file.set(key, value)
            for file in self._files.values():
                file.flush()
        finally:
            if self._is_orphaned():  # since then: what was taken away meanwhile may have been made again
                remove_folder(self._path)

    def close(self) -> None:
        """Stop writing. Idempotent."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _is_orphaned(self) -> bool:
        return self._supervisor not in (None, os.getppid())

    def _file(self, family: Family) -> _File:
        kind = f"gauge_live{family.merge}" if family.kind is Kind.GAUGE else family.kind.value
        file = self._files.get(kind)
        if file is None:
            path = self._path / f"{kind}_{self._process}.db"
            file = self._files[kind] = _File(path, goes_on=family.kind is not Kind.GAUGE)
        return file


class _File:
    """One file: its content in memory, and what of it was written.

    Args:
        path: made if it is not there.
        goes_on: whether values are added to those of the process that had the file before.
    """

    def __init__(self, path: Path, *, goes_on: bool) -> None:
        self._before = _read(path) if goes_on else {}
        self._content = bytearray(_HEAD)
        self._places: dict[str, int] = {}
        self._values: dict[str, float] = {}
        self._changed = False
        for key, value in self._before.items():
            self._append(key, value)
        # Made beside its place and moved there with its content: a file that is still empty is an error to readers.
        self._path = path
        self._made = path if self._before else path.with_suffix(".new")
        self._descriptor = _opened(self._made)

    def set(self, key: str, value: float) -> None:
        """Take note of a value, counted from the start of this process."""
        if self._values.get(key) == value:
            return
        self._values[key] = value
        value += self._before.get(key, 0.0)
        place = self._places.get(key)
        if place is None:
            self._append(key, value)
        else:
            _VALUE.pack_into(self._content, place, value, time.time())
        self._changed = True

    def flush(self) -> None:
        """Write, what is longer first and its length last: who reads meanwhile, or is killed, sees whole entries."""
        if os.fstat(self._descriptor).st_nlink == 0:
            self._begin_again()
        if not self._changed:
            return
        _write(self._descriptor, memoryview(self._content)[_HEAD:], _HEAD)
        _write(self._descriptor, memoryview(_LENGTH.pack(len(self._content))), 0)
        self._changed = False
        if self._made != self._path:
            self._made.rename(self._path)
            self._made = self._path

    def close(self) -> None:
        os.close(self._descriptor)

    def _begin_again(self) -> None:
        """The file was taken away, perhaps with its folder: all that it held is written to another."""
        make_private(self._path.parent)
        made = self._path.with_suffix(".new")
        descriptor = _opened(made)
        os.close(self._descriptor)
        self._descriptor, self._made, self._changed = descriptor, made, True

    def _append(self, key: str, value: float) -> None:
        encoded = key.encode()
        padded = encoded + b" " * (8 - (len(encoded) + 4) % 8)
        self._content += _LENGTH.pack(len(encoded)) + padded
        self._places[key] = len(self._content)
        self._content += _VALUE.pack(value, time.time())


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _write(descriptor: int, content: memoryview, offset: int) -> None:
    written = 0
    while written < len(content):
        written += os.pwrite(descriptor, content[written:], offset + written)


def _read(path: Path) -> dict[str, float]:
    """What an earlier process left in a file; nothing if there is none, or if it is damaged."""
    try:
        values = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
        return {key: value for key, value, _, _ in values}
    except FileNotFoundError:
        return {}
    except (OSError, RuntimeError, ValueError, struct.error) as problem:
        log.warning("counters begin anew: %s is damaged (%s)", path.name, problem)
        path.unlink(missing_ok=True)
        return {}


def _series(reading: Reading) -> Iterator[tuple[str, float]]:
    """The values of a reading by their keys; buckets each for itself, as the library has them."""
    if not isinstance(reading.value, Distribution):
        yield _key(reading.family, reading.family.name, reading.labels), reading.value
        return
    yield _key(reading.family, f"{reading.family.name}_sum", reading.labels), reading.value.total
    for bound, count in zip((*reading.value.bounds, float("inf")), reading.value.counts, strict=True):
        yield _key(reading.family, f"{reading.family.name}_bucket", reading.labels, bound_text(bound)), count


_keys: dict[tuple[str, tuple[str, ...], str | None], str] = {}
"""As many as there are time series."""


def _key(family: Family, name: str, labels: tuple[str, ...], bound: str | None = None) -> str:
    known = _keys.get((name, labels, bound))
    if known is None:
        names, values = [*family.labels], [*labels]
        if bound is not None:
            names.append("le")
            values.append(bound)
        known = _keys[name, labels, bound] = mmap_key(family.metric_name, name, names, values, family.help)
    return known


def _locked_file(path: Path) -> int:
    """A lock that is held as long as this process or a child lives. It is there under its name only once it is held."""
    made = path / f"{_LOCK}.new"
    descriptor = os.open(made, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        made.rename(path / _LOCK)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sweep(folder: Path) -> None:
    """Remove what nodes have left that were killed."""
    for left in folder.glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(left / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # just being made, or another user's
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its node lives
        else:
            remove_folder(left)
        finally:
            os.close(descriptor)
