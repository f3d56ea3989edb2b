"""expiMap: its objective and proximal steps by closed forms, planted programs, and what is done with gene sets."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import assert_named, named
from scipy import stats

import scduet as sd
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.errors import DataError, OptionError
from scduet.events import silent
from scduet.models.rna.expimap import hsic, shrunk, shrunk_as_groups

N, GENES = 500, 60
NAMES = ["first", "second", "third", "nothing"]  # of the sets: the last one has genes that do not vary together


def planted(seed=0):
    """Counts that three programs of ten genes shape; the fourth set has ten genes that vary for themselves."""
    draw = np.random.default_rng(seed)
    mask = np.zeros((GENES, 4), np.float32)
    for k in range(4):
        mask[10 * k : 10 * k + 10, k] = 1
    z = draw.normal(size=(N, 3))
    logit = z @ (mask[:, :3] * draw.uniform(0.5, 1, (GENES, 3))).T + draw.normal(0, 0.5, GENES)
    share = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    x = draw.poisson(share * draw.lognormal(6, 0.2, (N, 1))).astype(np.float32)
    names = [f"g{i}" for i in range(GENES)]
    adata = ad.AnnData(sp.csr_matrix(x), pd.DataFrame(index=[f"c{i}" for i in range(N)]), pd.DataFrame(index=names))
    adata.obs["high"] = np.where(z[:, 1] > 0, "yes", "no")
    adata.varm["sets"] = pd.DataFrame(mask, names, NAMES)
    return adata, z


@pytest.fixture(scope="module")
def data():
    return planted()


def fitted(adata, **options):
    own = {"gene_sets": "sets", "n_hidden": 64, "n_layers": 1, "max_epochs": 60, "lr": 5e-3, "callback": silent}
    return sd.fit(adata, "expimap", **{**own, **options})


@pytest.fixture(scope="module")
def model(data):
    return fitted(data[0])


def batch_of(model, adata, n):
    cells = model.encode(adata)
    return next(iter(minibatches(cells, sequential(n), n)))


def test_planted_programs_are_found(data, model):
    adata, z = data
    scores = sd.program_scores(model, adata)
    assert list(scores.columns) == NAMES
    assert list(scores.index) == list(adata.obs_names)
    found = [np.corrcoef(scores[name], z[:, k])[0, 1] for k, name in enumerate(NAMES[:3])]
    assert min(found) > 0.85
    weights = model.module.loadings().numpy()
    mask = adata.varm["sets"].to_numpy()
    assert (weights[mask == 0] == 0).all()
    assert (weights >= 0).all()
    assert np.linalg.norm(weights[:, 3]) < 0.5 * np.linalg.norm(weights[:, :3], axis=0).min()


def test_the_objective_is_that_of_the_page(data):
    adata, _ = data
    model = fitted(adata, max_epochs=1, n_free=2, hsic=3.0, alpha_kl=0.4)
    module, cells = model.module.eval(), batch_of(model, adata, 20)
    torch.manual_seed(5)
    loss = module(cells, Step(kl_weight=0.25))
    torch.manual_seed(5)
    mean, variance = module.scvi.posterior(cells)
    z = mean + variance.sqrt() * torch.randn_like(mean)
    logit = z @ module.loadings().t() + module.factors.intercept
    x, theta = cells.x.dense().numpy(), module.scvi.log_dispersion.exp().detach().numpy()
    expected = (logit.softmax(1) * cells.x.sum()[:, None]).detach().numpy().astype(np.float64)
    error = -stats.nbinom.logpmf(x, theta, theta / (theta + expected)).sum(1).mean()
    kl = (0.5 * (mean**2 + variance - 1 - variance.log())).sum(1).mean().item()
    z = z.detach().numpy()
    dependence = plain_hsic(z[:, 4:], z[:, :4])
    assert loss.terms["reconstruction"].item() == pytest.approx(error, rel=1e-4)
    assert loss.terms["hsic"].item() == pytest.approx(dependence, rel=1e-3)
    assert loss.total.item() == pytest.approx(error + 0.4 * 0.25 * kl + 3 * dependence, rel=1e-4)


def plain_hsic(x, y):
    """The mean-centered kernels' inner product, by loops."""

    def kernel(v):
        d = v.shape[1]
        length = 2 * np.exp(
            np.log(1.0) + float(torch.lgamma(torch.tensor((d + 1) / 2)) - torch.lgamma(torch.tensor(d / 2)))
        )
        return np.array([[np.exp(-np.square(a - b).sum() / (2 * length**2)) for b in v] for a in v])

    k, m = kernel(x), kernel(y)
    center = np.eye(len(x)) - 1 / len(x)
    return np.sqrt(np.trace(center @ k @ center @ m) / len(x) ** 2)


def test_hsic_is_near_zero_for_what_is_independent():
    draw = np.random.default_rng(0)
    x, y = (torch.tensor(draw.normal(size=(40, d))) for d in (2, 3))
    assert hsic(x, y).item() == pytest.approx(plain_hsic(x.numpy(), y.numpy()), rel=1e-6)
    assert hsic(x, x.exp()).item() > 3 * hsic(x, y).item()


def test_proximal_steps_are_minimizers():
    """Of 1/2 |w - v|^2 + by |w|, and of the same with the norm of a row."""
    v = torch.tensor([[3.0, -4.0], [0.3, 0.4], [0.0, 0.0]])
    assert torch.equal(shrunk(v, 1.0), torch.tensor([[2.0, -3.0], [0.0, 0.0], [0.0, 0.0]]))
    w = shrunk_as_groups(v, 1.0)
    torch.testing.assert_close(w, torch.tensor([[2.4, -3.2], [0.0, 0.0], [0.0, 0.0]]))
    near = w[0] + 0.01 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    value = lambda row: 0.5 * (row - v[0]).square().sum(-1) + row.norm(dim=-1)  # noqa: E731
    assert (value(near) >= value(w[0])).all()


def test_steps_follow_the_learning_rate(data):
    model = fitted(data[0], max_epochs=1, loadings="free", mask="soft", soft_l1=2.0, group_lasso=3.0)
    module, mask = model.module, torch.tensor(data[0].varm["sets"].to_numpy().T)
    before = module.factors.weight.detach().clone()
    with torch.no_grad():
        module.after_step(Step(lr=0.01))
    inside_out = torch.where(mask > 0, before, shrunk(before, 0.02))
    torch.testing.assert_close(module.factors.weight.detach(), shrunk_as_groups(inside_out, 0.03))


def test_the_lasso_switches_off_a_set_without_a_program(data):
    adata, _ = data
    model = fitted(adata, group_lasso=3.0)
    programs = sd.program_genes(model)
    assert set(programs["program"]) == set(NAMES[:3])
    assert (sd.program_scores(model)["nothing"] == 0).all()
    table = sd.differential_programs(model, adata, "high", "yes").set_index("program")
    assert table.loc["nothing", ["bayes_factor", "direction"]].tolist() == [0, 0]


def test_a_soft_mask_finds_a_gene_that_the_set_lacks(data):
    adata = data[0].copy()
    adata.varm["sets"].loc["g2", "first"] = 0
    model = fitted(adata, mask="soft", max_epochs=100)
    genes = sd.program_genes(model, "first").set_index("gene")
    assert not genes.loc["g2", "in_set"]
    outside = genes[~genes["in_set"]]["loading"]
    assert outside.idxmax() == "g2"
    assert len(outside) < 0.5 * (GENES - 9)


def test_free_terms_find_what_the_sets_do_not_explain(data):
    adata, z = data
    adata = adata.copy()
    adata.varm["sets"] = adata.varm["sets"].drop(columns=["third"])
    model = fitted(adata, n_free=1)
    scores = sd.program_scores(model)
    assert list(scores.columns) == ["first", "second", "nothing", "free_1"]
    assert abs(np.corrcoef(scores["free_1"], z[:, 2])[0, 1]) > 0.8
    top = sd.program_genes(model, "free_1", n_genes=5)
    assert {f"g{i}" for i in range(20, 30)} >= set(top["gene"])


def test_differences_are_closed_forms(data, model):
    adata, _ = data
    table = sd.differential_programs(model, adata, "high", "yes", "no", n_samples=20_000).set_index("program")
    assert table.index[0] == "second"
    assert table.loc["second", "bayes_factor"] > 1
    other = sd.differential_programs(model, adata, "high", "no", "yes", n_samples=20_000).set_index("program")
    np.testing.assert_allclose(other["bayes_factor"][table.index], -table["bayes_factor"], atol=0.1)
    np.testing.assert_allclose(other["set_t"][table.index], -table["set_t"], rtol=1e-6)
    x = adata.X.toarray()
    logged = np.log1p(x / x.sum(1, keepdims=True) * 1e4)
    plain = ((logged - logged.mean(0)) / logged.std(0))[:, 10:20].mean(1)
    high = (adata.obs["high"] == "yes").to_numpy()
    t = stats.ttest_ind(plain[high], plain[~high], equal_var=False).statistic
    assert table.loc["second", "set_t"] == pytest.approx(t, rel=1e-5)
    mean = model.embed()[:, 1].astype(float)
    variance = model.map(lambda cells: model.module.scvi.posterior(cells)[1]).numpy()[:, 1]
    spread = np.sqrt(variance[high][:, None] + variance[~high][None])
    exact = stats.norm.cdf((mean[high][:, None] - mean[~high][None]) / spread).mean()
    assert table.loc["second", "probability"] == pytest.approx(exact, abs=0.01)


def test_a_gmt_file_is_as_good_as_varm_and_the_names_are_saved(data, tmp_path):
    adata = data[0].copy()
    sets = {name: list(adata.var_names[adata.varm["sets"][name] > 0]) for name in NAMES}
    lines = ["\t".join([name, "", *genes, "OTHER"]) for name, genes in sets.items()]
    (tmp_path / "sets.gmt").write_text("\n".join(lines) + "\n")
    by_file = fitted(adata, gene_sets=str(tmp_path / "sets.gmt"), max_epochs=2)
    by_varm = fitted(adata, max_epochs=2)
    np.testing.assert_array_equal(by_file.embed(), by_varm.embed())
    by_file.save(tmp_path / "model")
    (tmp_path / "sets.gmt").unlink()
    loaded = sd.load(tmp_path / "model")
    pd.testing.assert_frame_equal(sd.program_scores(loaded, adata), sd.program_scores(by_file, adata))
    pd.testing.assert_frame_equal(sd.program_genes(loaded), sd.program_genes(by_file))


def test_a_new_batch_is_mapped(data):
    adata = data[0].copy()
    adata.obs["run"] = ["a", "b"] * (N // 2)
    model = fitted(adata, batch_key="run", max_epochs=5)
    before, query = model.embed(adata), adata[:100].copy()
    query.obs["run"] = "c"
    mapped = sd.map_query(query, model, max_epochs=2, callback=silent)
    assert query.obsm["X_expiMap"].shape == (100, 4)
    np.testing.assert_array_equal(mapped.embed(adata), before)
    assert list(sd.program_scores(mapped, query).columns) == NAMES


def test_a_query_gets_terms_for_what_is_new_in_it():
    """Genes in no set vary together in the query alone."""
    adata, _ = planted()
    model, (query, _) = fitted(adata), planted(seed=0)
    new = np.random.default_rng(7).normal(size=N)
    x = query.X.toarray()
    x[:, 45:55] = np.random.default_rng(8).poisson(np.maximum(x[:, 45:55].mean(0), 2) * np.exp(new)[:, None])
    query.X = sp.csr_matrix(x)
    before = model.embed(adata)
    mapped = sd.map_query(query, model, n_new_terms=1, max_epochs=40, lr=0.01, callback=silent)
    assert query.obsm["X_expiMap"].shape == (N, 5)
    np.testing.assert_allclose(mapped.embed(adata)[:, :4], before, atol=1e-5)
    scores = sd.program_scores(mapped, query)
    assert abs(np.corrcoef(scores["free_1"], new)[0, 1]) > 0.8
    assert set(sd.program_genes(mapped, "free_1", n_genes=8)["gene"]) <= {f"g{i}" for i in range(45, 55)}
    with pytest.raises(OptionError, match=named("'n_new_terms'", -1)):
        sd.map_query(query, model, n_new_terms=-1)
    with pytest.raises(OptionError, match=named("'scvi'", "n_new_terms")):
        sd.map_query(query, sd.fit(adata, max_epochs=1, callback=silent), n_new_terms=1)


@pytest.mark.filterwarnings("always::scduet.errors.ScduetWarning")  # of small sets, which events tell
def test_bad_input_is_named(data, model):
    adata = data[0].copy()
    adata.varm["sets"]["tiny"] = np.float32(np.arange(GENES) < 2)
    events = []
    kept = fitted(adata, max_epochs=1, callback=events.append)
    assert "tiny" not in sd.program_scores(kept).columns
    assert_named(next(event.message for event in events if event.kind == "warning"), 1, 5, 3, "min_genes")
    assert "tiny" in sd.program_scores(fitted(adata, max_epochs=1, min_genes=2)).columns
    adata.varm["tiny"] = adata.varm["sets"][["tiny"]]
    cases = [
        (DataError, ["3", "min_genes"], {"gene_sets": "tiny"}),
        (OptionError, ["gene_sets="], {"gene_sets": None}),
        (DataError, ["'nowhere'"], {"gene_sets": "nowhere"}),
        (OptionError, ["group_lasso", -1.0], {"group_lasso": -1.0}),
        (OptionError, ["'loadings'", "'positive'"], {"loadings": "positive"}),
        (OptionError, ["min_genes", 0], {"min_genes": 0}),
    ]
    for error, names, options in cases:
        with pytest.raises(error, match=named(*names)):
            fitted(adata, max_epochs=1, **options)
    events.clear()
    fitted(adata, max_epochs=1, gene_sets="tiny", min_genes=2, callback=events.append)
    assert_named([event.message for event in events if event.kind == "warning"][-1], 58, GENES, "genes=")
    with pytest.raises(DataError, match=named("'fourth'", "'first'")):
        sd.program_genes(model, "fourth")
    with pytest.raises(OptionError, match=named("'scvi'", "gene_sets=")):
        sd.program_scores(sd.fit(adata, max_epochs=1, callback=silent))
    with pytest.raises(DataError, match=named("'lower'")):
        sd.differential_programs(model, adata, "lower")


def test_interferon_is_the_first_program_of_stimulated_cells(real_data, request):
    """Kang's PBMC and 318 sets of Hallmark and Reactome, by the defaults: those of interferon come first.

    Their genes overlap with two others, of cytokines and of interferon gamma.
    """
    import scanpy as sc

    adata = real_data("kang_ifnb_2800.h5ad")
    folder = request.config.rootpath.parent / "shared" / "data" / "files" / "genesets"
    sets = sd.read_gmt(folder / "h.all.v7.0.symbols.gmt") | sd.read_gmt(folder / "Reactome_2016.gmt.gz")
    adata = adata[:, adata.var_names.isin(frozenset().union(*sets.values()))].copy()
    logged = sc.pp.log1p(sc.pp.normalize_total(adata, target_sum=1e4, copy=True), copy=True)
    sc.pp.highly_variable_genes(logged, n_top_genes=1500)
    adata = adata[:, logged.var["highly_variable"]].copy()
    kept = {name: genes for name, genes in sets.items() if 12 < len(genes & set(adata.var_names)) <= 300}
    adata = adata[:, adata.var_names.isin(frozenset().union(*kept.values()))].copy()
    model = sd.fit(adata, "expimap", gene_sets=kept, callback=silent)
    table = sd.differential_programs(model, adata, "condition", "stim", "ctrl")
    first = {name.split("_Homo")[0] for name in table["program"][:5]}
    assert first > {"HALLMARK_INTERFERON_ALPHA_RESPONSE", "Interferon alpha/beta signaling", "Interferon Signaling"}
    assert (table["bayes_factor"][:5] > 1).all()
    assert (table["set_t"][:5] > 10).all()
