"""The stories in vignettes/ run from top to bottom, and what they show is so."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
from notebooks import VIGNETTES, executed

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "cellbench_3cl_3tech_890g.h5ad"
RIGHT = (
    0.9 if DATA.is_file() else 0.6
)  # new cells placed among their like; the blood cells have types hard to tell apart

# Not with `intermediates_dir`: rmarkdown would take the data file for its own and delete it.
RENDER = """
page <- new.env()
rmarkdown::render("{folder}/{name}", envir = page, quiet = TRUE, params = list({params}))
cat("\\nfound:", {facts}, "\\n")
"""
SAME = "all.equal(unname(Embeddings(page$obj, 'integrated.scvi')), unname(Embeddings(page$obj, 'scvi')))"
SEURAT = [
    'page$scores["scvi", "batch"] > page$scores["pca", "batch"]',
    "page$right",
    f"if ('integrated.scvi' %in% names(page$obj)) isTRUE({SAME}) else NA",
]
CITE = DATA.with_name("cite_pbmc10k_6661_1000g.h5ad")
CITESEQ = [
    "page$purity[['totalVI']] > page$purity[['RNA']] - 0.02",
    "page$purity[['WNN of both']] > page$purity[['RNA']]",
    "page$purity[['WNN of totalVI and proteins']]",
    "mean(page$right)",
    "page$accuracy$pearson[1]",
    "identical(names(which.max(setNames(page$accuracy$pearson, page$accuracy$used))), 'TRUE')",
]
SORTED = DATA.with_name("pbmc_purified_facs10.h5ad")
AUTOENCODER = [
    'page$scores["autoencoder", "nmi_kmeans"]',
    "cor(page$both$real, page$both$generated)",
    "all(diff(page$expected[page$markers[1], ]) < 0)",
    "all(abs(colSums(page$expected) - 1) < 1e-4)",
]
MULTIOME = [
    "page$kept[['PCA of RNA']] - page$kept[['at random']]",
    "mean(page$opened$is_de)",
    "page$apart",
    "page$ranked[['MultiVI']]",
]
SPOTS = [
    "'one composition' %in% page$told$agreement$method",
    "any(grepl('composition', page$told$notes))",
    "page$errors[[1]] / page$errors[[2]]",
    "all(page$shown %in% rownames(page$spots[['proportions']]))",
]
MIXED = ["all(page$same)", "length(page$same)", "'scvi' %in% names(page$back)", "sum(page$clusters) == ncol(page$obj)"]


def test_the_story_in_seurat(r):
    better, right, layers = _rendered(r, "seurat.Rmd", SEURAT, images=4, tells=r"epoch \d+ of 40: .*loss")
    assert better == "TRUE"
    assert float(right) > RIGHT
    assert layers == ("TRUE" if r.name == "seurat5" else "NA")


def test_the_story_of_proteins_in_seurat(r):
    kept, better, both, right, by_model, best = _rendered(r, "citeseq.Rmd", CITESEQ, images=1, source=CITE)
    assert [kept, better, best] == ["TRUE"] * 3
    assert float(both) > 0.85
    assert float(right) > 0.7
    assert float(by_model) > 0.6


def test_the_story_of_an_autoencoder_in_r(r):
    nmi, zeros, falls, shares = _rendered(r, "autoencoder.Rmd", AUTOENCODER, images=4, source=SORTED)
    assert float(nmi) > 0.4
    assert float(zeros) > 0.95
    assert [falls, shares] == ["TRUE", "TRUE"]


def test_the_story_of_proteins_in_python(monkeypatch):
    asked = "[purity, right.mean(), table['pearson'].to_dict(), table['n_cells'].tolist()]"
    shown, (purity, right, pearson, n_cells) = executed("citeseq_in_python.ipynb", asked, monkeypatch)
    assert purity["WNN"] > purity["X_pca"]
    assert purity["X_totalVI"] > purity["X_pca"] - 0.02
    assert right > 0.7
    assert abs(pearson["totalvi"] - right) < 0.1, "the table foretells what was hidden"
    assert len(set(n_cells)) == 1
    assert shown == 1


def test_the_story_of_velocity(monkeypatch):
    agreement = "table['agreement_stochastic'].tolist()"
    asked = f"[steady.to_dict(), nothing.scores.to_dict(), {agreement}, table.attrs['verdict']]"
    shown, (steady, nothing, agreement, verdict) = executed("velocity.ipynb", asked, monkeypatch)
    assert steady["direction"] > 0.05
    assert nothing["permutation"] < 3 < steady["permutation"]
    assert min(agreement) > 0.5
    assert "steady_state, stochastic" in verdict
    assert shown == 3


def test_the_story_of_peaks_and_rna_in_python(monkeypatch):
    asked = "[same, mixing, imputed, int(table.filter(like='is_da').sum().iloc[0])]"
    shown, (same, mixing, imputed, n_calls) = executed("multiome_in_python.ipynb", asked, monkeypatch)
    assert same["PCA of RNA"] > same["at random"] + 0.1
    assert imputed["MultiVI"] > 0.55
    assert 0 <= mixing <= 1
    if DATA.is_file():
        assert n_calls < 30, "these peaks do not tell the times of treatment apart"
    assert shown == 1


def test_the_story_of_peaks_and_rna_in_seurat(r):
    rna, atac = (DATA.with_name(f"multiome_scicar_a549_{name}.h5ad") for name in ("rna", "atac_binary"))
    gain, called, apart, right = map(float, _rendered(r, "multiome.Rmd", MULTIOME, 1, source=rna, reference=atac))
    assert gain > 0.1
    if DATA.is_file():
        assert called < 0.02, "these peaks do not tell the times of treatment apart"
    assert 0.4 < apart < 1, "the page says that the thirds still lie apart"
    assert right > 0.55


def test_the_story_of_spots_in_seurat(r):
    source = DATA.with_name("deconv_lymph_visium_1000spots.h5ad")
    beside = DATA.with_name("deconv_lymph_reference_330cells.h5ad")
    table, noise, error, drawn = _rendered(r, "spots.Rmd", SPOTS, images=1, source=source, reference=beside)
    assert [table, drawn] == ["TRUE"] * 2
    assert noise == ("TRUE" if source.is_file() else "FALSE")
    assert float(error) < 0.85


def test_the_story_of_spots_in_python(monkeypatch):
    asked = "[found.notes, cerebellum.notes, errors, int(rich.sum())]"
    shown, (noise, supported, errors, n_rich) = executed("spots_in_python.ipynb", asked, monkeypatch)
    assert errors["deconvolve"] < 0.85 * errors["one composition"]
    assert not any("composition" in note for note in supported)
    assert any("composition" in note for note in noise) == DATA.is_file()
    assert n_rich > 0
    assert shown == 1


def test_the_story_of_r_and_python_in_one_document(r):
    assert _rendered(r, "mixed.Rmd", MIXED, images=2) == ["TRUE", "5", "TRUE", "TRUE"]


def test_the_story_in_python(monkeypatch):
    asked = "[scores['batch'].to_dict(), right, len(new.obsm['X_scVI'])]"
    shown, facts = executed("integrate.ipynb", asked, monkeypatch)
    batch, right, new = facts
    assert batch["X_scVI"] > batch["X_pca"]
    assert right > RIGHT
    assert new == 200
    assert shown == 3, "figures: training, embeddings, scores"


def test_the_story_of_seurat_in_a_notebook(host_r, monkeypatch):
    if importlib.util.find_spec("rpy2") is None:
        pytest.skip("rpy2 is not installed: pip install scduet[r]")
    facts = "[same, scores['batch'].to_dict(), sorted(obj.obsm), obj.obs['cluster'].nunique(), list(top)]"
    shown, (same, batch, embeddings, clusters, columns) = executed("rpy2.ipynb", facts, monkeypatch)
    assert same
    assert batch["X_scVI"] > batch["X_pca"]
    assert {"X_pca", "X_scVI", "X_umap.scvi"} <= set(embeddings)
    assert clusters >= 3
    assert "gene" in columns
    assert shown == 1, "the picture that R drew"


def _rendered(
    r, name: str, facts: list[str], images: int, tells: str = "", source: Path = DATA, reference: Path | None = None
) -> list[str]:
    """Render a page in a folder of its own; what R says of `facts`. tells: what the page must say of progress."""
    if "TRUE" not in r.run('cat(requireNamespace("rmarkdown", quietly = TRUE) && nzchar(Sys.which("pandoc")))'):
        pytest.skip("rmarkdown or pandoc is not installed: make system-deps")
    here = r.shared / Path(name).stem
    here.mkdir()
    shutil.copy(VIGNETTES / name, here)
    if source.is_file():
        shutil.copyfile(source, here / "cells.h5ad")
    given = {"data": "cells.h5ad" if source.is_file() else ""}
    if reference is not None and reference.is_file():
        shutil.copyfile(reference, here / "reference.h5ad")
        given["reference"] = "reference.h5ad"
    params = ", ".join(f"{name} = '{path}'" for name, path in given.items())
    said = r.run(RENDER.format(folder=r.shared_in_r / here.name, name=name, params=params, facts=", ".join(facts)))
    page = here.joinpath(name).with_suffix(".html").read_text(encoding="utf-8")
    assert page.count("<img ") == images
    assert re.search(tells, page)
    return said.rpartition("found:")[2].split()
