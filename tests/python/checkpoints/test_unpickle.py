"""Pickles of others: what is data comes out equal, whatever else is refused before it runs or takes memory."""

import builtins
import collections
import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from named import named

from scduet.errors import FormatError
from scduet.io.safe_pickle import Record, read_pickle, unpickle
from scduet.io.torch_archive import read_torch

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "files"

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner, inner, inner)
    ),
    max_leaves=30,
)


@settings(max_examples=150, deadline=None)
@given(plain, st.integers(0, 5))
def test_plain_data_comes_out_as_it_went_in(data, protocol):
    assert unpickle(pickle.dumps(data, protocol)) == data


@pytest.mark.parametrize("protocol", range(6))
def test_containers_and_arrays_come_out_as_they_went_in(protocol):
    shared = [1, 2]
    data = {
        "set": {1, "a", (2, "b")},
        "frozen": frozenset({1, 2}),
        "ordered": collections.OrderedDict(b=1, a=2),
        "slice": slice(1, None),
        "twice": [shared, shared],
        "bytes": bytearray(b"xyz") if protocol == 5 else b"xyz",
    }
    read = unpickle(pickle.dumps(data, protocol))
    assert read == data
    assert list(read["ordered"]) == ["b", "a"]
    assert read["twice"][0] is read["twice"][1]
    for array in [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array(["a", "bcd"]),
        np.array(["a", None, 3], object),
        np.float32(2.5),
        np.zeros((0, 3)),
        np.array([True, False]),
        np.array(["2020-01-01"], "M8[D]").view("i8"),
    ]:
        read = unpickle(pickle.dumps(array, protocol))
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_a_list_that_holds_itself_is_read():
    data: list = [1]
    data.append(data)
    read = unpickle(pickle.dumps(data))
    assert read[1] is read


def test_pandas_becomes_inert():
    read = unpickle(pickle.dumps({"frame": pd.DataFrame({"a": [1.0, 2.0]})}))
    assert isinstance(read["frame"], Record)
    assert read["frame"].name in ("pandas.core.frame.DataFrame", "pandas.DataFrame")  # pandas 2, pandas 3


class _Calls:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


TOUCHED = "scduet_test_was_here"
MALICIOUS = {
    "os.system": _Calls(os.system, f"touch {TOUCHED}"),
    "eval": _Calls(builtins.eval, f"open({TOUCHED!r}, 'w')"),
    "exec": _Calls(builtins.exec, f"open({TOUCHED!r}, 'w')"),
    "open": _Calls(builtins.open, TOUCHED, "w"),
    "getattr": _Calls(builtins.getattr, "", "join"),
    "import": _Calls(builtins.__import__, "os"),
    "subprocess": _Calls(subprocess.check_call, ["touch", TOUCHED]),
    "torch.load": _Calls(torch.load, TOUCHED),
    "torch hub": _Calls(torch.hub.load, TOUCHED, TOUCHED),
    "pickle": _Calls(pickle.loads, b"cos\nsystem\n(S'true'\ntR."),
    "allocation": _Calls(np.zeros, 1 << 40),
    "bytes of a number": _Calls(bytes, 1 << 40),
    "range": _Calls(list, range(1 << 40)),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", MALICIOUS)
def test_no_call_of_a_pickle_is_made(name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for hidden in (MALICIOUS[name], {"weights": [1, 2, MALICIOUS[name]]}):
        with pytest.raises(FormatError):
            unpickle(pickle.dumps(hidden, protocol))
    assert not os.path.exists(TOUCHED)


HAND_MADE = {
    "dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x1aOrderedDict.__init__.__class__\x93.",
    "INST": b"(S'true'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'true'\no.",
    "extension registry": b"\x80\x02\x82\x01.",
    "state of a function": b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb.",
    "slot state of a name": b"\x80\x02ccollections\nOrderedDict\nN}X\x08\x00\x00\x00__init__K\x01s\x86b.",
    "call of a record": b"\x80\x02cpandas\nX\n)R)R.",
    "append to a record": b"\x80\x02cpandas\nX\n)RK\x01a.",
    "unhashable key": b"\x80\x02}]K\x01s.",
    "key without value": b"\x80\x02}(K\x01u.",
    "empty stack": b"\x80\x02R.",
    "memo never written": b"\x80\x02h\x05.",
    "no end": b"\x80\x02K\x01",
    "huge bytes": b"\x80\x05\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "huge text": b"\x80\x05\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "array larger than its bytes": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85c_codecs\nencode\n"
        b"X\x01\x00\x00\x00bX\x06\x00\x00\x00latin1\x86R\x87R(K\x01\x8a\x06\x00\x00\x00\x00\x00\x01\x85"
        b"cnumpy\ndtype\nX\x02\x00\x00\x00f8K\x00K\x01\x87R\x89C\x08AAAAAAAAtb."
    ),
    "type of a million bytes": b"\x80\x02cnumpy\ndtype\nX\x0a\x00\x00\x00S999999999\x85R.",
    "objects from bytes": b"\x80\x02cnumpy.core.multiarray\nscalar\n"
    b"cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85RC\x08AAAAAAAA\x86R.",
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_forged_pickles_are_refused_in_little_memory(name):
    tracemalloc.start()
    with pytest.raises(FormatError):
        unpickle(HAND_MADE[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def test_a_forged_place_in_the_memo_takes_no_memory():
    """CPython's unpickler would allocate 32 GB for this one."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert unpickle(b"\x80\x02K\x07r\xff\xff\xff\x7f.") == 7
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_hashing_cannot_be_made_to_take_for_ever():
    nested = b"\x80\x02}K\x01" + b"2\x86" * 60 + b"K\x01s."  # ((x, x), (x, x)) ... 60 deep: 2**60 leaves
    with pytest.raises(FormatError, match=named("tuple", "key")):
        unpickle(nested)


# ------------------------------------------------------------------------------------------------- archives of torch


def _equal(a, b) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def test_tensors_of_every_type_and_layout_come_out_equal(tmp_path):
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    saved = {
        str(t): (base * 10).to(t)
        for t in (
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.int64,
            torch.int32,
            torch.int16,
            torch.int8,
            torch.uint8,
            torch.bool,
        )
    }
    saved |= {
        "base": base,
        "transposed": base.T,
        "part": base[1:3, 2:],
        "strided": base[:, ::2],
        "scalar": torch.tensor(2.0),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base.clone()),
    }
    torch.save({"state": collections.OrderedDict(saved), "note": "x", "size": base.shape}, tmp_path / "a.pt")
    read = read_torch(tmp_path / "a.pt")
    assert set(read["state"]) == set(saved)
    assert all(_equal(read["state"][name], saved[name]) for name in saved)
    read["state"]["base"].mul_(2)  # a view of a private map: the file does not change
    assert _equal(read_torch(tmp_path / "a.pt")["state"]["base"], base)


def test_a_state_dict_of_a_module_comes_out_equal(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "a.pt")
    read = read_torch(tmp_path / "a.pt")
    assert list(read) == list(module.state_dict())
    assert all(_equal(read[k], v) for k, v in module.state_dict().items())


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(FormatError, match=named("'a.pt'", "torch.nn.modules.linear.Linear")):
        read_torch(tmp_path / "a.pt")


def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(FormatError, match=named("'a.pt'", "TorchScript")):
        read_torch(tmp_path / "a.pt")


def test_old_formats_are_refused_by_name(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(FormatError, match=named("'a.pt'", "torch", 1.6)):
        read_torch(tmp_path / "a.pt")
    with tarfile.open(tmp_path / "b.pt", "w") as tar:
        tar.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    with pytest.raises(FormatError, match=named("'b.pt'", "tar")):
        read_torch(tmp_path / "b.pt")


def test_a_file_cut_off_is_refused(tmp_path):
    torch.save({"a": torch.randn(1000)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for length in (0, 10, 300, len(whole) // 2, len(whole) - 1):
        (tmp_path / "b.pt").write_bytes(whole[:length])
        with pytest.raises(FormatError):
            read_torch(tmp_path / "b.pt")


def _archive(path, program: bytes, storages: dict[str, bytes], method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("archive/data.pkl", program)
        for name, data in storages.items():
            file.writestr(f"archive/data/{name}", data)
    return path


def _tensor_program(offset=0, shape=(2,), stride=(1,), length=2, kind="FloatStorage", entry="0") -> bytes:
    """The pickle of one tensor, with any numbers in it."""

    class Forged:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, shape, stride, False, collections.OrderedDict())

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return ("storage", getattr(torch, kind), entry, "cpu", length) if isinstance(obj, Storage) else None

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(Forged())
    return buffer.getvalue()


TWO = struct.pack("<2f", 1.0, 2.0)


def test_a_hand_made_archive_is_read(tmp_path):
    assert read_torch(_archive(tmp_path / "a.pt", _tensor_program(), {"0": TWO})).tolist() == [1.0, 2.0]


FORGED = {
    "shape": {"shape": (1 << 40,)},
    "shape of stride 0": {"shape": (1 << 40,), "stride": (0,)},
    "product that overflows": {"shape": (1 << 32, 1 << 32), "stride": (0, 0)},
    "offset": {"offset": 1},
    "negative offset": {"offset": -1},
    "stride": {"stride": (2,)},
    "negative stride": {"stride": (-1,)},
    "fewer strides than sizes": {"shape": (1, 2)},
    "length of the storage": {"length": 1 << 40},
    "negative length": {"length": -1},
    "type of the storage": {"kind": "DoubleStorage"},
    "missing entry": {"entry": "1"},
    "entry elsewhere": {"entry": "../../data.pkl"},
    "fraction as size": {"shape": (1.5,)},
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_numbers_of_a_tensor_are_refused(name, tmp_path):
    path = _archive(tmp_path / "a.pt", _tensor_program(**FORGED[name]), {"0": TWO})
    with pytest.raises(FormatError):
        read_torch(path)


def test_a_compressed_archive_is_refused(tmp_path):
    """Torch never compresses; a zip bomb does."""
    path = _archive(tmp_path / "a.pt", b"\x80\x02]." + b" " * 50_000_000, {}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(FormatError, match=named("'a.pt'", "'data.pkl'")):
        read_torch(path)


def test_a_forged_size_in_the_zip_is_refused(tmp_path):
    path = _archive(tmp_path / "a.pt", _tensor_program(length=1 << 28), {"0": TWO})
    raw = bytearray(path.read_bytes())
    entry = raw.rfind(b"PK\1\2")
    raw[entry + 20 : entry + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    path.write_bytes(raw)
    with pytest.raises(FormatError):
        read_torch(path)


def test_a_malicious_archive_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for harm in MALICIOUS.values():
        path = _archive(tmp_path / "a.pt", pickle.dumps({"state_dict": harm}, 2), {})
        with pytest.raises(FormatError):
            read_torch(path)
    assert not os.path.exists(TOUCHED)


# ------------------------------------------------------------------------------------------------------- real files

needs_real = pytest.mark.skipif(not REAL.exists(), reason="there is no ../shared/data")


@needs_real
def test_a_real_scvi_tools_file_is_read_whole():
    path = REAL / "scvi_checkpoints" / "pre_logits_fix_scanvi" / "model.pt"
    read = read_torch(path)
    truth = torch.load(path, map_location="cpu", weights_only=False)
    assert all(_equal(read["model_state_dict"][k], v) for k, v in truth["model_state_dict"].items())
    assert read["model_state_dict"].keys() == truth["model_state_dict"].keys()
    np.testing.assert_array_equal(read["var_names"], truth["var_names"])
    mapping = ("registry_", "field_registries", "labels", "state_registry", "categorical_mapping")
    a, b = read["attr_dict"], truth["attr_dict"]
    for key in mapping:
        a, b = a[key], b[key]
    np.testing.assert_array_equal(a, b)
    assert isinstance(read["attr_dict"]["history_"]["elbo_train"], Record)


@needs_real
@pytest.mark.parametrize("name", ["gene_median_dictionary", "gene_name_id_dict", "token_dictionary"])
def test_real_dictionaries_of_geneformer_are_read_whole(name):
    path = REAL / "foundation" / "geneformer" / f"{name}.pkl"
    with path.open("rb") as file:
        assert read_pickle(path) == pickle.load(file)


def test_reading_a_dictionary_imports_no_torch(tmp_path):
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({"a": np.int16(1)}))
    code = (
        "import sys; from scduet.io.safe_pickle import read_pickle; "
        f"assert read_pickle({str(tmp_path / 'd.pkl')!r}) == {{'a': 1}}; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
