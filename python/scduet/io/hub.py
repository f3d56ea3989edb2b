"""Downloads folders of published models from the Hugging Face hub: "hf://owner/name[/folder]@revision".

Every file is checked against its sha256 on the hub; the files of a commit never change. Needs the extra `hub`. Without
network access, earlier downloads are used.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from scduet.errors import FormatError, OptionError, ScduetWarning
from scduet.events import Listener, counted
from scduet.io.atomic import sha256

WANTED = ("*.json", "*.safetensors", "*.bin", "*.pt", "*.ckpt", "*.pkl", "*.tsv")
NEVER = ("training_args.bin", "optimizer*", "*.py")  # not needed, and could run code
_ADDRESS = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?P<folder>(?:/[\w.-]+)*)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Address:
    repo: str
    folder: str = ""  # inside the repository
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        found = _ADDRESS.fullmatch(text)
        if found is None or ".." in text:
            raise OptionError(f"{text!r} is not a hub address", 'use the form "hf://owner/name@revision"')
        return cls(found["repo"], found["folder"].strip("/"), found["revision"])


def is_address(text: str | Path) -> bool:
    return str(text).startswith("hf:")


def download(text: str, callback: Listener | None = None) -> Path:
    """Download an address and return the local folder; `callback` receives an Event for each file.

    Raises OptionError without the package huggingface_hub or for a malformed address, FormatError for a checksum
    mismatch.
    """
    address = Address.parse(text)
    hub = _package()
    patterns = [pattern for name in WANTED for pattern in _places(address.folder, name)]
    wanted = {"revision": address.revision, "allow_patterns": patterns, "ignore_patterns": list(NEVER)}
    if callback is not None:
        wanted["tqdm_class"] = _bar(callback, address.repo)
    root = Path(hub.snapshot_download(address.repo, **wanted))
    _check(hub, address, root)
    folder = root / address.folder
    if not folder.is_dir():
        raise FormatError(f"{address.repo} has no folder {address.folder!r}", "check its files on the hub")
    return folder


def _bar(callback: Listener, repo: str) -> type:
    """An invisible tqdm bar that reports each file to `callback`."""
    from tqdm import tqdm

    told = counted(callback, repo, "file")

    class Told(tqdm):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **{**named, "disable": True})
            self.counts_files = named.get("unit", "it") == "it"  # other bars count bytes

        def update(self, n=1):
            self.n += n
            if self.counts_files and told is not None:
                told(int(self.n), int(self.total or 0), 0.0)

        def __iter__(self):  # for versions that process the files in order
            for file in self.iterable:
                yield file
                self.update()

    return Told


def _places(folder: str, name: str) -> list[str]:
    """Files in the requested folder, and the dictionaries of Geneformer's repository."""
    return [f"{folder}/{name}", f"geneformer/{name}", f"geneformer/*/{name}"] if folder else [name]


def _check(hub, address: Address, root: Path) -> None:
    """Compare the files with their sha256 on the hub; without network, they were checked when downloaded."""
    try:
        info = hub.HfApi().model_info(address.repo, revision=address.revision, files_metadata=True)
    except OSError as error:
        message = f"the hub cannot be reached ({type(error).__name__}): using an earlier download"
        warnings.warn(message, ScduetWarning, stacklevel=4)
        return
    recorded = {file.rfilename: file.lfs.sha256 for file in info.siblings if getattr(file, "lfs", None)}
    for name, expected in recorded.items():
        path = root / name
        if path.is_file() and sha256(path) != expected:
            raise FormatError(
                f"{name} of {address.repo} does not match its checksum on the hub", "delete it and download again"
            )
    if address.revision is None:
        message = f"no revision given, using {info.sha}; pin it with hf://{address.repo}@{info.sha}"
        warnings.warn(message, ScduetWarning, stacklevel=4)


def _package():
    try:
        import huggingface_hub
    except ImportError:
        raise OptionError("hub addresses need the package huggingface_hub", "pip install 'scduet[hub]'") from None
    return huggingface_hub
