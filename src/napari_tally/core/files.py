"""Files are written whole or not at all: first under a name of their own beside the place, then renamed.

::

    model.safetensors            the file before, until the very last moment
    .model.safetensors.k3x9.part what is being written; goes away if anything fails

A rename within a folder is one step: whoever reads, and whoever comes after a crash or a power cut, finds the old file or
the new one. The name in between is made up anew and never opened if it exists, so a link that somebody laid there is not
followed. A link at the place itself is replaced; the file that it points to is left alone.
"""

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATE = "NAPARI_TALLY_STATE"


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
        If there is no room or no right to write. The file that was there before stays.

    Examples
    --------
    >>> with whole_file(folder / "counts.csv") as partial:  # doctest: +SKIP
    ...     partial.write_text("image,count")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending stays the last: some writers choose the format by it.
    number, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=f".part{path.suffix[:20]}", dir=path.parent)
    os.close(number)
    partial = Path(name)
    try:
        yield partial
        _to_the_disk(partial)
        partial.chmod(0o666 & ~_UMASK)  # a temporary file is for its owner alone
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def file_state(path: Path) -> list[int]:
    """Tell whether a file, or a folder with all in it, has changed: number, size and the time of the last change. [] = it is not there."""
    stats = [file.stat() for file in (path.rglob("*") if path.is_dir() else [path]) if file.exists()]
    return [len(stats), sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)] if stats else []


def partial_folder(path: Path) -> Path:
    """Make a folder beside `path` to be filled, with a name that no other run has; :func:`folder_done` puts it in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=f".part{path.suffix[:20]}", dir=path.parent))


def folder_done(partial: Path, path: Path) -> None:
    """Put a folder that is filled in its place.

    What was there before is replaced; folders cannot be swapped in one step, so for a moment there is none.
    """
    partial.chmod(0o777 & ~_UMASK)
    old = partial.with_name(f"{partial.name}.old")
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(path: Path) -> None:
    """Remove what a crash in the middle of writing `path` left under a name of its own. Nobody else may be writing it now."""
    _remove(path.parent, f".{glob.escape(path.name[:100])}.*.part{glob.escape(path.suffix[:20])}*")


def remove_all_leftovers(folder: Path) -> None:
    """Remove what a crash left of any file in a folder. Nobody else may be writing there now."""
    _remove(folder, ".*.part*")


def _remove(folder: Path, pattern: str) -> None:
    for left in folder.glob(pattern):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


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
