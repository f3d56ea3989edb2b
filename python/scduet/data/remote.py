"""A zarr store at an address that fsspec reads: s3://, gs://, https://, memory://, ..."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any


@dataclass(frozen=True)
class Remote:
    """An address with those members of a Path that readers use."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return PurePosixPath(self.url).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.url).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.url).suffix

    def exists(self) -> bool:
        import fsspec

        system, place = fsspec.url_to_fs(self.url)
        return system.exists(place)

    def is_dir(self) -> bool:
        """What is read at an address is a zarr store, which is a folder."""
        return True

    def is_file(self) -> bool:
        return False


def location(data: Any) -> Path | Remote:
    """The path, or address, that `data` (text or a path) says."""
    return Remote(data) if isinstance(data, str) and "://" in data else Path(data)
