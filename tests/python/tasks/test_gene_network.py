"""Links and programs of genes: planted ones are found, and every number is that of its definition."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from matplotlib.collections import LineCollection
from named import named
from sklearn.metrics import adjusted_rand_score

import scduet as sd
from scduet.errors import DataError, OptionError
from scduet.plots.network import positions, strongest
from scduet.tasks.genes.gene_network import correlation

SETS = Path(__file__).parents[3] / ".." / "shared" / "data" / "files" / "genesets" / "Reactome_2016.gmt.gz"
MODULE = np.repeat([0, 1, 2], 10)


@pytest.fixture(scope="module")
def planted():
    """Three modules of ten genes, each on in a third of the cells."""
    rng = np.random.default_rng(0)
    on = rng.integers(0, 3, 300)
    counts = rng.poisson(np.where(on[:, None] == MODULE, 8, 0.7)).astype(np.float32)
    obs = pd.DataFrame({"half": np.repeat(["a", "b"], 150)}, index=[f"c{i}" for i in range(300)])
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(30)]))


@pytest.fixture(scope="module")
def fitted(planted):
    epochs = {"ldvae": 150, "scvi": 60}
    return {name: sd.fit(planted, name, max_epochs=n, n_latent=4, n_hidden=32) for name, n in epochs.items()}


@pytest.fixture(scope="module")
def programs_of_blood(real_data):
    adata = real_data("pbmc3k_seurat_labels.h5ad")
    logged = adata.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    sc.pp.highly_variable_genes(logged, n_top_genes=1500)
    immune = adata.var_names.str.match(r"HLA-|CD3[DEG]$|B2M$|CD74$|LCK$|CD247$")
    adata = adata[:, logged.var["highly_variable"] | immune].copy()
    model = sd.fit(adata, "ldvae", n_latent=20, max_epochs=30)
    return sd.gene_programs(sd.gene_network(model, adata, genes=adata.var_names), SETS)


@pytest.mark.parametrize("name", ["ldvae", "scvi"])
def test_planted_modules_are_the_programs(planted, fitted, name):
    network = sd.gene_network(fitted[name], planted, genes=planted.var_names, n_neighbors=8)
    sets = {f"module {i}": planted.var_names[i == MODULE] for i in range(3)}
    programs = sd.gene_programs(network, sets, resolution=1.0)
    for method in ("model", "coexpression"):
        own = programs[programs["method"] == method]
        found = {gene: row.program for row in own.itertuples() for gene in row.genes.split(", ")}
        assert adjusted_rand_score(MODULE, [found.get(gene, -1) for gene in planted.var_names]) > 0.9
        assert set(own["term"]) == set(sets)
        assert (own["fdr"] < 1e-4).all()
    links = programs.attrs["links"].set_index("method")["in_common_set"]
    assert links["random pairs"] == pytest.approx(3 * 10 * 9 / (30 * 29))
    assert links["model"] > 0.9


def test_weights_are_cosines_of_the_loadings_and_coexpression_is_pearsons(planted, fitted):
    genes = ["G1", "G2", "G15", "G29"]
    place = [1, 2, 15, 29]
    network = sd.gene_network(fitted["ldvae"], planted, genes=genes, n_neighbors=None).set_index(["gene", "other"])
    assert len(network) == 6
    counts = planted.X.toarray()
    logged = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    vectors = fitted["ldvae"].module.loadings().numpy()[place]
    vectors = vectors - vectors.mean(0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for (gene, other), row in network.iterrows():
        i, j = genes.index(gene), genes.index(other)
        assert row["weight"] == pytest.approx(vectors[i] @ vectors[j], abs=1e-5)
        assert row["coexpression"] == pytest.approx(np.corrcoef(logged[:, place].T)[i, j], abs=1e-6)
    assert np.allclose(correlation(planted.X), np.corrcoef(counts.T))


def test_links_are_the_strongest_of_either_gene(planted, fitted):
    every = sd.gene_network(fitted["scvi"], planted, n_neighbors=None)
    few = sd.gene_network(fitted["scvi"], planted, n_neighbors=3)
    for column, flag in (("weight", "by_model"), ("coexpression", "by_coexpression")):
        table = pd.concat([every, every.rename(columns={"gene": "other", "other": "gene"})])
        near = table.sort_values(column, ascending=False).groupby("gene").head(3)
        expected = {frozenset(pair) for pair in zip(near["gene"], near["other"], strict=True)}
        kept = few[few[flag]]
        assert {frozenset(pair) for pair in zip(kept["gene"], kept["other"], strict=True)} == expected
    assert (few["by_model"] | few["by_coexpression"]).all()
    assert few["weight"].is_monotonic_decreasing


def test_the_order_of_the_genes_in_the_data_makes_no_difference(planted, fitted):
    turned = planted[:, ::-1].copy()
    one, other = (sd.gene_network(fitted["ldvae"], adata, n_neighbors=4) for adata in (planted, turned))
    pairs = [{frozenset(p) for p in zip(net["gene"], net["other"], strict=True)} for net in (one, other)]
    assert pairs[0] == pairs[1]


def test_what_does_not_fit_is_told(planted, fitted):
    model = fitted["ldvae"]
    with pytest.raises(DataError, match=named("'zz'")):
        sd.gene_network(model, planted, genes=["G1", "zz"])
    with pytest.raises(OptionError, match=named("'ldvae'", "attention", "method")):
        sd.gene_network(model, planted, method="attention")
    with pytest.raises(OptionError, match=named("groupby", "method='embedding'")):
        sd.gene_network(model, planted, groupby="half")
    with pytest.raises(OptionError, match=named("control", "groupby")):
        sd.gene_network(model, planted, control="a")
    with pytest.raises(OptionError, match=named("n_neighbors", 0)):
        sd.gene_network(model, planted, n_neighbors=0)
    strangers = planted.copy()
    strangers.var_names = [f"other{i}" for i in range(30)]
    with pytest.raises(DataError, match=named(0, "'G0'", 27)):
        sd.gene_network(model, strangers)
    with pytest.raises(DataError, match=named("'group'", "'by_model'")):
        sd.gene_programs(pd.DataFrame({"gene": ["a"], "other": ["b"], "weight": [1.0]}))


def test_links_of_no_positive_weight_make_no_program(planted, fitted):
    network = sd.gene_network(fitted["ldvae"], planted).assign(weight=-0.1)
    assert set(sd.gene_programs(network, resolution=1.0)["method"]) == {"coexpression"}


def test_the_figure_draws_the_links_that_it_says(planted, fitted):
    network = sd.gene_network(fitted["ldvae"], planted, n_neighbors=4)
    programs = sd.gene_programs(network, resolution=1.0)
    links = strongest(network, genes="G1", n_links=3)
    assert len(links) == 3
    assert ((links["gene"] == "G1") | (links["other"] == "G1")).all()
    assert positions(links).equals(positions(links))
    figure = sd.pl.gene_network(network, programs=programs, n_links=40)
    shown = {text.get_text() for text in figure.axes[0].texts}
    top = network[network["by_model"]].nlargest(40, "weight")
    assert shown == set(top["gene"]) | set(top["other"])
    lines = [part for part in figure.axes[0].collections if isinstance(part, LineCollection)]
    drawn = {part.get_label(): len(part.get_segments()) for part in lines}
    assert sum(drawn.values()) == 40
    assert drawn.get("link by model only", 0) == (~top["by_coexpression"]).sum()
    with pytest.raises(DataError, match=named("'x'", "group=")):
        sd.pl.gene_network(network, group="x")
    with pytest.raises(DataError, match=named("'zz'")):
        sd.pl.gene_network(network, genes="zz")


@pytest.mark.parametrize(
    ("genes", "term"),
    [
        ({"HLA-DRA", "HLA-DRB1", "HLA-DPA1", "HLA-DPB1", "CD74"}, "MHC class II antigen presentation"),
        ({"CD3D", "CD3E", "CD3G", "LCK"}, "CD28|CD3|PD-1|TCR|ZAP-70|second messenger"),
        ({"HLA-A", "HLA-B", "HLA-C", "B2M"}, "Phagosome|Endosomal|class I MHC|Cross presentation"),
    ],
)
def test_programs_of_real_immune_cells_are_known_gene_sets(programs_of_blood, genes, term):
    """PBMC: HLA class II, the T-cell receptor with CD3, and HLA class I; which of their genes depends on the seed."""
    own = programs_of_blood[(programs_of_blood["method"] == "model") & (programs_of_blood["fdr"] < 0.05)]
    named = own[own["term"].str.contains(term) & (own["n_genes"] < 40)]
    assert any(len(genes & set(members.split(", "))) >= len(genes) / 2 for members in named["genes"])


def test_links_of_real_immune_cells_beat_chance(programs_of_blood):
    """They join genes of a common set more often than random pairs; co-expression does so too, here more often yet."""
    share = programs_of_blood.attrs["links"].set_index("method")["in_common_set"]
    assert share["model"] > 1.3 * share["random pairs"]
    assert share["coexpression"] > 1.3 * share["random pairs"]
