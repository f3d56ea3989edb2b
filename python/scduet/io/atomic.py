"""Atomic writing of files and folders, and checksums."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from stat import S_IMODE


def place_whole(path: Path, make: Callable[[Path], object], *, durable: bool = False) -> None:
    """Let `make` write a file or folder under a temporary name next to `path`, then rename it to `path`.

    If `make` fails, `path` is unchanged and nothing is left behind. An existing folder is moved aside before the rename
    and deleted after it; `recover` restores it if the process was killed in between. Files get the permissions of the
    umask, regardless of `make` (safetensors creates files that only their owner can read).

    durable: flush the files to disk before the rename, and always use the same temporary name, so that the next write
    replaces leftovers of a killed process.
    """
    path = path.absolute()
    recover(path)
    new = _beside(path, "scduet-new" if durable else str(os.getpid()))
    try:
        if durable:
            _remove(new)
        make(new)
        _finish(new, durable)
        if path.is_dir():
            path.replace(_beside(path, "scduet-old"))
        new.replace(path)
    finally:
        _remove(new)
        recover(path)


def recover(path: Path) -> None:
    """Clean up after a killed `place_whole`: restore the old folder if the new one is not in place."""
    old = _beside(path.absolute(), "scduet-old")
    if old.exists() and not path.exists():
        old.replace(path)
    _remove(old)


def probe(folder: Path) -> None:
    """Write a small file in `folder` and delete it. Raises OSError on failure."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".scduet-") as file:
        file.write(bytes(4096))


def sha256(path: Path) -> str:
    """sha256 of a file; of a folder, that of the sorted names and checksums of its files."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.iterdir()):
            digest.update(file.name.encode())
            digest.update(bytes.fromhex(sha256(file)))
        return digest.hexdigest()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _finish(new: Path, durable: bool) -> None:
    """Give the files of `new` the default permissions of new files; flush them to disk if `durable`."""
    mode = _mode_of_new_files(new.parent)
    for file in [new] if new.is_file() else new.rglob("*"):
        if not file.is_file():
            continue
        if S_IMODE(file.stat().st_mode) != mode:
            file.chmod(mode)
        if durable:
            _sync(file)


def _mode_of_new_files(folder: Path) -> int:
    """Permissions by the umask, read from a new file, because reading the umask changes it for all threads."""
    path = folder / f".scduet-{os.getpid()}.mode"
    path.touch(0o666)
    mode = S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode


def _sync(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def _beside(path: Path, mark: str) -> Path:
    """A hidden name next to `path` with the same suffix, by which writers choose the format."""
    return path.with_name(f".{path.stem}.{mark}{path.suffix}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
