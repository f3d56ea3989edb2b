"""The command `network` gives what Python gives, and refuses before it works."""

import anndata
import pandas as pd
import pytest
from named import assert_named

import scduet as sd
from scduet.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """cells.h5ad, a model of them, and sets of their genes."""
    folder = tmp_path_factory.mktemp("cli")
    adata = sd.datasets.simulate(150, 40, n_batches=1, seed=1)
    adata.write_h5ad(folder / "cells.h5ad")
    sd.fit(adata, "ldvae", max_epochs=2, n_latent=4).save(folder / "model")
    names = list(adata.var_names)
    (folder / "sets.gmt").write_text("one\t\t" + "\t".join(names[:9]) + "\ntwo\t\t" + "\t".join(names[9:20]) + "\n")
    return folder


def run(folder, *arguments):
    asked = [folder / "cells.h5ad", "--model", folder / "model", *arguments]
    return main(["network", *(str(a) for a in asked)])


def test_network_writes_links_programs_and_a_drawing(folder, tmp_path, capsys):
    files = ["-o", tmp_path / "links.csv", "--programs", tmp_path / "programs.csv", "--figure", tmp_path / "links.png"]
    assert run(folder, *files, "--n-neighbors", "4", "--resolution", "1", "--gene-sets", folder / "sets.gmt") == 0
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    links = sd.gene_network(sd.load(folder / "model"), adata, n_neighbors=4)
    programs = sd.gene_programs(links, folder / "sets.gmt", resolution=1.0)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "links.csv"), links, check_dtype=False, atol=1e-6)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "programs.csv"), programs, check_dtype=False, atol=1e-6)
    assert (tmp_path / "links.png").read_bytes().startswith(b"\x89PNG")
    told = capsys.readouterr().out
    assert all(word in told for word in ("model", "coexpression", "random pairs"))


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["-o", "links.txt"], ["'links.txt'", ".csv"]),
        (["-o", "links.csv", "--gene-sets", "sets.gmt"], ["--gene-sets", "--programs"]),
        (["-o", "links.csv", "--gene", "ZZ"], ["'ZZ'"]),
        (["-o", "links.csv", "--method", "attention"], ["'ldvae'", "attention"]),
        (["-o", "links.csv", "--figure", "links.docx"], ["'links.docx'", ".png"]),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line_and_nothing_is_written(
    folder, tmp_path, capsys, monkeypatch, arguments, names
):
    monkeypatch.chdir(tmp_path)
    assert run(folder, *arguments) in (1, 2)
    assert_named(capsys.readouterr().err, *names)
    assert not list(tmp_path.iterdir())
