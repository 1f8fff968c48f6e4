"""Writing files so that a kill at any moment leaves either the old file or the new one."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it once the body has succeeded.

    The body writes a file, or makes a folder, at the yielded path. What it wrote is synced to
    disk and then renamed; if the body raises, it is removed and ``path`` stays as it was. Only a
    kill can leave it behind; it is hidden and may be deleted.

    Arguments
    ---------
    path : str or os.PathLike
        Where the result shall stand. Missing parent folders are made. A file that stands there
        is replaced; a folder can only replace an empty or missing one.

    Yields
    ------
    pathlib.Path
        Hidden path in the same folder, with the same suffix, at which nothing stands yet.

    Raises
    ------
    FileNotFoundError
        If the body wrote nothing.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> with atomic_path(folder / "scores.txt") as temporary:
    ...     _ = temporary.write_text("0.5")
    >>> (folder / "scores.txt").read_text(), len(list(folder.iterdir()))
    ('0.5', 1)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A random name, so that two writers never share one; not the target's, which may be too long.
    temporary = path.parent / f".tmp-{secrets.token_hex(8)}{path.suffix}"
    try:
        yield temporary
        _sync_tree(temporary)
        os.replace(temporary, path)  # noqa: PTH105 - the one call that is atomic everywhere
        _sync(path.parent)
    finally:
        _remove(temporary)


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _sync_tree(child)
    _sync(path)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
