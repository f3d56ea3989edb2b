"""Addresses of the hub, and the check of every file against the hub's record; a stand-in plays the hub."""

import hashlib
import sys
import types
from pathlib import Path

import pytest
from huggingface_hub.utils.tqdm import hf_thread_map
from named import named
from tqdm.contrib.concurrent import thread_map

from scduet.errors import FormatError, OptionError, ScduetWarning
from scduet.io import hub


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf://owner/name@abc123", hub.Address("owner/name", "", "abc123")),
        ("hf://owner/na-me.v2", hub.Address("owner/na-me.v2", "", None)),
        ("hf://owner/name/Geneformer-V2-104M@main", hub.Address("owner/name", "Geneformer-V2-104M", "main")),
    ],
)
def test_addresses_are_understood(text, address):
    assert hub.is_address(text)
    assert hub.Address.parse(text) == address


@pytest.mark.parametrize(
    "text", ["hf://owner", "hf:/owner/name", "hf://owner/../name@x", "hf://owner/name@a b", "hf://"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(OptionError, match=named(text, "hf://owner/name@revision")):
        hub.Address.parse(text)


def test_a_path_is_no_address():
    assert not hub.is_address(Path("folder/model"))


class _Hub(types.ModuleType):
    """What is used of huggingface_hub, over a local folder."""

    def __init__(self, root: Path, records: dict[str, str], online: bool = True):
        super().__init__("huggingface_hub")
        self.root, self.records, self.online, self.asked = root, records, online, {}

    def snapshot_download(self, repo, revision, allow_patterns, ignore_patterns, tqdm_class=None):
        if tqdm_class is not None:  # as the package itself uses it, in this version and before
            for mapped in (hf_thread_map, thread_map):
                mapped(str, ["a", "b", "c"], desc="Fetching 3 files", max_workers=2, tqdm_class=tqdm_class)
            tqdm_class(total=0, unit="B", unit_scale=True).update(100)
        self.asked = {"repo": repo, "revision": revision, "allowed": allow_patterns, "ignored": ignore_patterns}
        return str(self.root)

    def HfApi(self):
        return self

    def model_info(self, repo, revision, files_metadata):
        if not self.online:
            raise ConnectionError("no network")
        lfs = [types.SimpleNamespace(rfilename=n, lfs=types.SimpleNamespace(sha256=s)) for n, s in self.records.items()]
        return types.SimpleNamespace(sha="c0ffee", siblings=[*lfs, types.SimpleNamespace(rfilename="a.json", lfs=None)])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "V2").mkdir()
    (tmp_path / "V2" / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def _install(monkeypatch, stand_in):
    monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)
    return stand_in


def test_files_as_recorded_are_taken(folder, monkeypatch):
    record = {"V2/model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    stand_in = _install(monkeypatch, _Hub(folder, record))
    assert hub.download("hf://owner/name/V2@c0ffee") == folder / "V2"
    assert stand_in.asked["revision"] == "c0ffee"
    assert "training_args.bin" in stand_in.asked["ignored"]
    assert "geneformer/*.pkl" in stand_in.asked["allowed"]


def test_each_file_that_has_come_is_told(folder, monkeypatch, capsys):
    _install(monkeypatch, _Hub(folder, {}))
    told = []
    assert hub.download("hf://owner/name/V2@c0ffee", told.append) == folder / "V2"
    assert [(event.done, event.total) for event in told] == [(1, 3), (2, 3), (3, 3)] * 2
    assert {(event.kind, event.unit, event.message) for event in told} == {("progress", "file", "owner/name")}
    assert capsys.readouterr() == ("", "")


def test_a_file_that_is_not_the_recorded_one_is_refused_and_left_there(folder, monkeypatch):
    _install(monkeypatch, _Hub(folder, {"V2/model.safetensors": hashlib.sha256(b"other").hexdigest()}))
    with pytest.raises(FormatError, match=named("V2/model.safetensors", "owner/name")):
        hub.download("hf://owner/name/V2@c0ffee")
    assert (folder / "V2" / "model.safetensors").read_bytes() == b"weights"


def test_without_network_an_earlier_download_is_used_and_this_is_said(folder, monkeypatch):
    _install(monkeypatch, _Hub(folder, {}, online=False))
    with pytest.warns(ScduetWarning, match=named("ConnectionError")):
        assert hub.download("hf://owner/name/V2@c0ffee") == folder / "V2"


def test_without_a_revision_the_one_taken_is_named(folder, monkeypatch):
    _install(monkeypatch, _Hub(folder, {}))
    with pytest.warns(ScduetWarning, match=named("hf://owner/name@c0ffee")):
        hub.download("hf://owner/name/V2")


def test_a_folder_that_the_repository_lacks_is_named(folder, monkeypatch):
    _install(monkeypatch, _Hub(folder, {}))
    with pytest.raises(FormatError, match=named("'V3'", "owner/name")):
        hub.download("hf://owner/name/V3@c0ffee")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(OptionError, match=named("huggingface_hub", "scduet[hub]")):
        hub.download("hf://owner/name@c0ffee")
