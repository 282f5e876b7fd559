"""Files are written whole or not at all: first under a name of their own beside the place, then renamed.

::

    model.safetensors                               the file before, until the very last moment
    .model.safetensors.k3x9_a7q.part.safetensors    what is being written; goes away if anything fails

A rename within a folder is one step: whoever reads, and whoever comes after a crash or a power cut, finds the old file or
the new one. The name in between is made up anew and never opened if it exists, so a link that somebody laid there is not
followed. A link at the place itself is replaced; the file that it points to is left alone.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

_STATE = "NAPARI_TALLY_STATE"
_MADE_UP = r"\.[a-z0-9_]{8}\.part"
"""The middle of a name in between, as the module tempfile makes it up."""
_LONGEST = 255
"""Bytes of a name, at most, on the usual file systems."""
LOCK = ".running.json"
"""Says in a folder of results which run writes there."""
_NO_ROOM = (None, errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
"""How a full disk says so; NumPy gives no number."""
_OURS = re.compile(rf"\..+{_MADE_UP}(\.[^.]+)?(\.old)?", re.DOTALL)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Write a file so that it is there whole or not at all.

    Parameters
    ----------
    path : str or Path
        Where the file goes; folders on the way are made, an existing file is replaced at the end.

    Yields
    ------
    Path
        An empty file to write to.

    Raises
    ------
    OSError
        If there is no room or no right to write; it names the file. The file that was there before stays.

    Examples
    --------
    >>> with whole_file(folder / "counts.csv") as partial:  # doctest: +SKIP
    ...     partial.write_text("image,count")
    """
    path = Path(path)
    with _named(path), _partial_file(path) as partial:
        yield partial
        _to_the_disk(partial)
        _for_others(partial)
        partial.replace(path)


@contextmanager
def _partial_file(path: Path) -> Iterator[Path]:
    """Make an empty file beside `path` with a name that no other run has, and remove it in the end, if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix, suffix = _around(path)
    number, name = tempfile.mkstemp(prefix=f"{prefix}.", suffix=f".part{suffix}", dir=path.parent)
    os.close(number)
    partial = Path(name)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _for_others(partial: Path) -> None:
    """Give a file the rights of any new one: a temporary one is for its owner alone."""
    with suppress(OSError):  # some mounts know no such rights and refuse
        partial.chmod(0o666 & ~_UMASK)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let an error of writing say which file it is: a full disk names none, and of the name in between nobody has heard."""
    try:
        yield
    except OSError as error:
        is_ours = error.filename is None or _OURS.fullmatch(Path(str(error.filename)).name)
        if isinstance(error, InterruptedError) or error.filename2 or not is_ours:
            raise
        todo = "make room there or choose another place" if error.errno in _NO_ROOM else "choose another place"
        raise OSError(error.errno or errno.EIO, f"{error.strerror or error}; {todo}", str(path)) from error


def file_state(path: Path) -> list[int]:
    """Tell whether a file, or a folder with all in it, has changed: number, size and the time of the last change. [] = it is not there."""
    stats = [file.stat() for file in (path.rglob("*") if path.is_dir() else [path]) if file.exists()]
    return [len(stats), sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)] if stats else []


def require_file(path: Path) -> None:
    """Raise a ``ValueError`` unless this is a file that has an end: a pipe would be waited for without one."""
    if not path.is_file():
        raise ValueError("there is no such file")


def partial_folder(path: Path) -> Path:
    """Make a folder beside `path` to be filled, with a name that no other run has; :func:`folder_done` puts it in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix, suffix = _around(path)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}.", suffix=f".part{suffix}", dir=path.parent))


def folder_done(partial: Path, path: Path) -> None:
    """Put a folder that is filled in its place.

    What was there before is replaced; folders cannot be swapped in one step, so for a moment there is none.
    """
    with suppress(OSError):  # as for a file
        partial.chmod(0o777 & ~_UMASK)
    old = partial.with_name(f"{partial.name}.old")
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove what a crash in the middle of writing `path` left under a name of its own. Nobody else may be writing it now."""
    prefix, suffix = (re.escape(part) for part in _around(path))
    _remove(path.parent, re.compile(rf"{prefix}{_MADE_UP}{suffix}(\.old)?"))


def remove_all_leftovers(folder: Path) -> None:
    """Remove what a crash left of any file in a folder that is ours alone. Nobody else may be writing there now."""
    _remove(folder, _OURS)


def _around(path: Path) -> tuple[str, str]:
    """Give how a name in between begins and ends. The ending stays the last: some writers choose the format by it."""
    return f".{_cut(path.name, 100)}", _cut(path.suffix, 20)


def fitting_name(stem: str, suffix: str) -> str:
    """Name a file after an image; where that would be too long, digits that tell it from others take the place of the end."""
    if len(os.fsencode(stem + suffix)) <= _LONGEST:
        return stem + suffix
    return f"{_cut(stem, 200)}-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}{suffix}"


def _cut(name: str, most: int) -> str:
    """Cut a name to so many bytes: they, not letters, are what file systems have a limit for."""
    name = name[:most]
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name


def _remove(folder: Path, names: re.Pattern[str]) -> None:
    for left in folder.iterdir() if folder.is_dir() else ():
        if not names.fullmatch(left.name):
            continue  # a folder of results may be one that the user keeps other things in, hidden ones too
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[Callable[[], None]]:
    """Keep other processes of this machine out of a folder as long as the block lasts.

    A run of the same process is not kept out: one that was walked away from may not have come to its end. Nor is one on another
    machine, of which nobody here can tell whether it lives.

    Yields
    ------
    callable
        To be called now and then, as a sign of life.

    Raises
    ------
    ValueError
        If a process that lives writes there, or it is a file.
    OSError
        If the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a folder for the results is wanted.")
    lock = folder / LOCK
    me = {"run": uuid4().hex, **owner()}
    _take(lock, me)

    def alive() -> None:
        with whole_file(lock) as partial:
            _sign(partial, me)

    try:
        yield alive
    finally:
        if _read_lock(lock).get("run") == me["run"]:  # else another run has taken over
            lock.unlink(missing_ok=True)


def _take(lock: Path, me: dict[str, Any]) -> None:
    """Make the lock. Of several processes that look for it at once it lets one in: that which gets the name.

    A lock of a run that does not live goes out of the way first. Where another run has taken its place at this very moment, it is put back.
    """
    with _partial_file(lock) as mine:
        _sign(mine, me)
        _for_others(mine)  # who cannot read it would take it for one that says nothing
        while not (_lay(mine, lock) and _read_lock(lock).get("run") == me["run"]):
            other = _read_lock(lock)
            if _lives_elsewhere(other):
                raise ValueError(
                    f"{lock.parent}: another run writes into this folder: process {other['pid']}, last seen {other.get('alive')}. "
                    f"Wait for its end or choose another folder; if there is no such run, delete {lock}."
                )
            old = mine.with_name(f"{mine.name}.old")
            with suppress(FileNotFoundError):
                lock.rename(old)
                if _read_lock(old) != other:
                    _lay(old, lock)
                old.unlink()


def _sign(file: Path, me: dict[str, Any]) -> None:
    file.write_text(json.dumps(me | {"alive": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}), encoding="utf-8")


def _lay(file: Path, place: Path) -> bool:
    """Lay a file at a place too, and say whether it was free."""
    try:
        os.link(file, place)
    except FileExistsError:
        return False
    except OSError:  # this disk knows no links
        try:
            with place.open("xb") as copy:
                copy.write(file.read_bytes())
        except FileExistsError:
            return False
    return True


def owner() -> dict[str, Any]:
    """Say which process this is, on which machine; the time tells it from a later one of the same number."""
    return {"pid": os.getpid(), "began": psutil.Process().create_time(), "host": platform.node()}


def _read_lock(lock: Path) -> dict[str, Any]:
    try:
        found = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _lives_elsewhere(run: dict[str, Any]) -> bool:
    """Whether a lock is that of another process of this machine that still runs."""
    try:
        if run["host"] != platform.node() or run["pid"] == os.getpid():
            return False
        process = psutil.Process(int(run["pid"]))
        # the time tells it from a later process of the same number
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - float(run["began"])) < 1
    except (psutil.Error, LookupError, TypeError, ValueError, OverflowError):
        return False


def state_folder() -> Path:
    """Give the folder of this user for what must outlive a crash: unfinished trainings and drawings.

    It is named by the environment variable ``NAPARI_TALLY_STATE`` where that is set. It need not exist yet.
    """
    if named := os.environ.get(_STATE):
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_state_dir("napari-tally", appauthor=False))


def _to_the_disk(path: Path) -> None:
    """Wait until the bytes are on the disk: a rename may be remembered before what it renames."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    """Give the rights that new files of this process lack. It can be asked only by setting it, so once, at the import."""
    if sys.platform == "win32":
        return 0
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


_UMASK = _umask()
