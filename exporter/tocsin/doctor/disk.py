"""Checks of the disk that a ledger file is on."""

import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from tocsin.doctor.findings import Finding, Report
from tocsin.doctor.servers import slowness

_SYNCS = 20
_PAGE = 8192
_LEAST_FREE = 512 * 1024**2
_FULL = 16 * 1024**2
"""Bytes of free space below which the next batches may already find none: SQLite's log alone takes a few MiB."""
_NETWORK = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "ceph", "glusterfs", "lustre", "beegfs", "gpfs"]
)
_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_FIX = "set ledger.path to a file on a local disk that outlives the process"


def examined(path: Path) -> Sequence[Finding]:
    """Check the file system of a ledger file, its free space, and how long it takes to write durably. Blocks."""
    folder = path.absolute().parent
    if not folder.is_dir():
        return []  # `check` reports it
    mounts = Path("/proc/self/mounts")
    found = []
    if mounts.exists():
        kind = file_system(folder.resolve(), mounts.read_text(encoding="utf-8").splitlines())
        found.append(judged_file_system(kind))
    system = os.statvfs(folder)
    # Some file systems (btrfs) have no fixed number of files, and report 0 of 0.
    files = system.f_favail if system.f_files else None
    found.append(free(path, system.f_bavail * system.f_frsize, files))
    return [*found, _fsync(folder)]


def file_system(folder: Path, mounts: Iterable[str]) -> str:
    """The type of the file system that a folder is on, by the lines of /proc/mounts."""
    best, kind = -1, ""
    for line in mounts:
        _, point, this, *_ = line.split()
        point = point.encode().decode("unicode_escape")  # a space is \040
        if folder.is_relative_to(point) and len(point) >= best:  # of several at one place, the last is on top
            best, kind = len(point), this
    return kind


def judged_file_system(kind: str) -> Finding:
    """Judge the type of the ledger's file system."""
    report = Report("ledger.path", "file system")
    if kind in _NETWORK or kind.startswith("fuse."):
        why = "its locks and its order of writes are not those that SQLite needs, so the ledger can be damaged"
        return report.error(f"{kind} is a file system of the network: {why}", f"{_FIX}, or use ledger.url")
    if kind in _MEMORY:
        return report.error(f"{kind} is in memory: a restart of the machine loses the ledger", _FIX)
    if kind == "overlay":
        return report.warning("overlay is a layer of this container, and ends with it", "put the ledger on a volume")
    return report.ok(f"{kind or 'an unknown type'}, on this machine")


def free(path: Path, left: int, files: int | None) -> Finding:
    """Judge the free space, in bytes and in numbers of files (None: there is no limit), by what the ledger has taken so
    far."""
    report = Report("ledger.path", "free space")
    size = sum(one.stat().st_size for one in (path, path.with_name(f"{path.name}-wal")) if one.exists())
    words = f"{_bytes(left)} free, and the ledger has {_bytes(size)}"
    fix = "free some space, or shorten ledger.history"
    if files == 0:
        return report.error(f"{words}, but no more files can be made: Tocsin cannot start", "remove files")
    if left < _FULL:
        return report.error(f"{words}: the disk is full as soon as a batch is large, and then nothing is notified", fix)
    if left < max(_LEAST_FREE, size):
        return report.warning(f"{words}: a full disk stops all notifications until there is room", fix)
    return report.ok(words)


def _fsync(folder: Path) -> Finding:
    report = Report("ledger.path", "fsync")
    took = []
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".tocsin-doctor-") as file:
            for _ in range(_SYNCS):
                file.write(os.urandom(_PAGE))
                file.flush()
                began = time.monotonic()
                os.fsync(file.fileno())
                took.append(time.monotonic() - began)
    except OSError as error:
        return report.error(f"{folder} cannot be written: {error.strerror}", "fix its permissions, or free some space")
    fix = "use a disk with a faster fsync (a local SSD), or nothing else that writes to it"
    return slowness(report, median(took), max(took), fix)


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
