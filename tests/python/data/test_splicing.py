"""Spliced and unspliced counts in folders of STARsolo and alevin-fry, and in velocyto's loom files, become layers."""

import gzip
import json
import shutil

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from named import named
from scipy.io import mmwrite

import scduet as sd
from scduet.cli import main
from scduet.data.found import names_in
from scduet.errors import FormatError, ScduetWarning
from scduet.io.cells import read

N_CELLS, N_GENES = 120, 40
KINDS = ("spliced", "unspliced", "ambiguous")
PROGRESS = np.linspace(0.1, 2, N_CELLS)[:, None]
MEANS = np.hstack([PROGRESS, PROGRESS[::-1]]).repeat(N_GENES // 2, axis=1)  # half of the genes rise, half fall
RNG = np.random.default_rng(0)
COUNTS = {kind: RNG.poisson(depth * MEANS) for kind, depth in zip(KINDS, (8.0, 3.0, 0.3), strict=True)}
BARCODES = [f"{'ACGT'[i % 4]}{i:03}" for i in range(N_CELLS)]
IDS, SYMBOLS = [f"ENSG{i}" for i in range(N_GENES)], ["Sox2", "Sox2", *(f"G{i}" for i in range(2, N_GENES))]


def lines(path, values):
    path.write_text("".join(f"{value}\n" for value in values))


def starsolo(folder, old=False):
    """Velocyto/filtered; old: one matrix.mtx with three columns of counts."""
    folder.mkdir(parents=True)
    lines(folder / "barcodes.tsv", BARCODES)
    lines(folder / "features.tsv", [f"{i}\t{s}\tGene Expression" for i, s in zip(IDS, SYMBOLS, strict=True)])
    if old:
        places = np.argwhere(sum(COUNTS.values()).T > 0)
        entries = [" ".join(map(str, [g + 1, c + 1, *(COUNTS[kind][c, g] for kind in KINDS)])) for g, c in places]
        size = f"{N_GENES} {N_CELLS} {len(entries)}"
        lines(folder / "matrix.mtx", ["%%MatrixMarket matrix coordinate integer general", "%", size, *entries])
    else:
        for kind, counts in COUNTS.items():
            mmwrite(folder / f"{kind}.mtx", sp.coo_matrix(counts.T), field="integer")
    return folder


def alevin_fry(folder, names=("", "-U", "-A"), usa=True, scale=1.0):
    (folder / "alevin").mkdir(parents=True)
    counts = scale * np.hstack([COUNTS[kind] for kind in KINDS])
    mmwrite(folder / "alevin" / "quants_mat.mtx", sp.coo_matrix(counts))
    lines(folder / "alevin" / "quants_mat_rows.txt", BARCODES)
    lines(folder / "alevin" / "quants_mat_cols.txt", [f"{gene}{suffix}" for suffix in names for gene in IDS])
    (folder / "quant.json").write_text(json.dumps({"num_genes": 3 * N_GENES, "usa_mode": usa}))
    return folder


def pack(folder):
    for path in list(folder.iterdir()):
        with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
            shutil.copyfileobj(plain, packed)
        path.unlink()


def check(found, x, **layers):
    assert list(found.obs_names) == BARCODES
    assert (found.X.format, found.X.dtype) == ("csr", np.float32)
    np.testing.assert_array_equal(found.X.toarray(), x)
    assert set(names_in(found.layers)) == set(layers)
    for name, values in layers.items():
        np.testing.assert_array_equal(found.layers[name].toarray(), values)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_starsolo(tmp_path, old, zipped):
    folder = starsolo(tmp_path / "Velocyto" / "filtered", old)
    if zipped:
        pack(folder)
    found = read(folder)
    check(found, COUNTS["spliced"], **COUNTS)
    assert list(found.var_names[:3]) == ["Sox2", "Sox2-1", "G2"]
    assert list(found.var["gene_ids"]) == IDS


def test_starsolo_without_ambiguous(tmp_path):
    (starsolo(tmp_path / "raw") / "ambiguous.mtx").unlink()
    check(read(tmp_path / "raw"), COUNTS["spliced"], spliced=COUNTS["spliced"], unspliced=COUNTS["unspliced"])


@pytest.mark.parametrize("names", [("", "-U", "-A"), ("", "", "")], ids=["suffixes", "repeated"])
def test_alevin_fry_counts_ambiguous_as_spliced(tmp_path, names):
    alevin_fry(tmp_path / "quant", names)
    both = COUNTS["spliced"] + COUNTS["ambiguous"]
    found = read(tmp_path / "quant")
    check(found, both, spliced=both, unspliced=COUNTS["unspliced"], ambiguous=COUNTS["ambiguous"])
    assert list(found.var_names) == IDS
    lines(tmp_path / "quant" / "gene_id_to_name.tsv", ["ENSG1\tSox2", "ENSG0\tSox2", "other\tOther"])  # of simpleaf
    pack(tmp_path / "quant" / "alevin")
    again = read(tmp_path / "quant" / "alevin")
    check(again, both, spliced=both, unspliced=COUNTS["unspliced"], ambiguous=COUNTS["ambiguous"])
    assert list(again.var_names[:3]) == ["Sox2", "Sox2-1", "ENSG2"]
    assert list(again.var["gene_ids"]) == IDS


def test_alevin_fry_without_usa_mode_has_no_layers(tmp_path):
    found = read(alevin_fry(tmp_path / "quant", ("a", "b", "c"), usa=False))
    check(found, np.hstack([COUNTS[kind] for kind in KINDS]))


def test_fractions_of_molecules_are_rounded_with_a_warning(tmp_path):
    alevin_fry(tmp_path / "quant", scale=0.9)
    with pytest.warns(ScduetWarning, match=named("quants_mat.mtx", "cr-like")):
        found = read(tmp_path / "quant")
    np.testing.assert_array_equal(found.layers["unspliced"].toarray(), np.rint(0.9 * COUNTS["unspliced"]))


def test_a_loom_of_velocyto(tmp_path):
    text = h5py.string_dtype("utf-8")
    with h5py.File(tmp_path / "sample.loom", "w") as root:
        root["matrix"] = (COUNTS["spliced"] + COUNTS["unspliced"] + COUNTS["ambiguous"]).T.astype("float32")
        for kind, counts in COUNTS.items():
            root[f"layers/{kind}"] = counts.T.astype("uint16")
        root.create_dataset("col_attrs/CellID", data=BARCODES, dtype=text)
        root.create_dataset("row_attrs/Gene", data=SYMBOLS, dtype=text)
        root.create_dataset("row_attrs/Accession", data=IDS, dtype=text)
    found = read(tmp_path / "sample.loom")
    check(found, sum(COUNTS.values()), **COUNTS)
    assert list(found.var["Accession"]) == IDS


@pytest.mark.parametrize("make", [starsolo, alevin_fry])
def test_convert_and_velocity(tmp_path, make):
    folder = make(tmp_path / "counts")
    assert main(["convert", str(folder), str(tmp_path / "x.h5ad")]) == 0
    converted = read(tmp_path / "x.h5ad")
    np.testing.assert_array_equal(converted.layers["unspliced"].toarray(), COUNTS["unspliced"])
    assert main(["velocity", str(folder), "-o", str(tmp_path / "v.h5ad"), "-q"]) == 0
    sd.velocity(converted)
    np.testing.assert_allclose(read(tmp_path / "v.h5ad").layers["velocity"], converted.layers["velocity"], rtol=1e-5)


def cut(path, n):
    lines(path, path.read_text().splitlines()[:n])


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("unspliced.mtx", lambda path: path.unlink()),
        ("spliced.mtx", lambda path: path.unlink()),
        ("features.tsv", lambda path: path.unlink()),
        ("barcodes.tsv", lambda path: path.unlink()),
        ("barcodes.tsv", lambda path: cut(path, 7)),
        ("features.tsv", lambda path: cut(path, 0)),
        ("unspliced.mtx", lambda path: cut(path, 50)),
        ("ambiguous.mtx", lambda path: mmwrite(path, sp.coo_matrix((N_GENES, 3)))),
        ("spliced.mtx", lambda path: path.write_text("<html>")),
    ],
)
def test_a_bad_file_of_starsolo_is_named(tmp_path, file, spoil):
    spoil(starsolo(tmp_path / "raw") / file)
    with pytest.raises(FormatError, match=named(file)):
        read(tmp_path / "raw")


@pytest.mark.parametrize(
    "spoil",
    [lambda text: text[:-1], lambda text: [*text[:-1], "41 1 1 0 0"], lambda text: [*text[:-1], "1 1 x 0 0"]],
    ids=["cut", "outside", "text"],
)
def test_a_bad_matrix_of_three_columns_is_named(tmp_path, spoil):
    file = starsolo(tmp_path / "raw", old=True) / "matrix.mtx"
    lines(file, spoil(file.read_text().splitlines()))
    with pytest.raises(FormatError, match=named("matrix.mtx")):
        read(tmp_path / "raw")


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("quants_mat.mtx", lambda path: path.unlink()),
        ("quants_mat_rows.txt", lambda path: path.unlink()),
        ("quants_mat_cols.txt", lambda path: path.unlink()),
        ("quants_mat_rows.txt", lambda path: cut(path, 7)),
        ("quants_mat_cols.txt", lambda path: cut(path, 7)),
        ("quants_mat_cols.txt", lambda path: lines(path, [f"G{i}" for i in range(3 * N_GENES)])),
        ("quants_mat.mtx", lambda path: cut(path, 50)),
        ("../quant.json", lambda path: path.write_text("{")),
    ],
)
def test_a_bad_file_of_alevin_fry_is_named(tmp_path, file, spoil):
    spoil(alevin_fry(tmp_path / "quant") / "alevin" / file)
    with pytest.raises(FormatError, match=named(file.removeprefix("../"))):
        read(tmp_path / "quant")
