"""DeepImpute: which genes are read, its loss written out, and what that loss aims at."""

import numpy as np
import pytest
import torch
from named import named

import scduet as sd
from scduet.contract import Step
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.errors import OptionError


def test_a_sub_network_reads_the_genes_that_go_best_with_its_own(counts):
    model = sd.fit(counts, "deepimpute", max_epochs=1)
    part, reads = model.reference.arrays["part"], model.reference.arrays["reads"]
    correlation = np.abs(np.nan_to_num(np.corrcoef(counts.X.toarray().T)))
    assert np.bincount(part.astype(int)).tolist() == [30, 30]
    for k in (0, 1):
        own, others = np.flatnonzero(part == k), np.flatnonzero(part != k)
        best = {others[i] for gene in own for i in np.argsort(-correlation[gene, others])[:5]}
        assert set(np.flatnonzero(reads[k])) == best


@pytest.mark.parametrize("loss", ["weighted", "mse"])
def test_loss_is_that_of_the_page(counts, loss):
    model = sd.fit(counts, "deepimpute", loss=loss, max_epochs=1)
    cells = next(iter(minibatches(model.encode(), sequential(200), 200)))
    module, part = model.module.eval(), model.reference.arrays["part"]
    with torch.no_grad():
        y = np.log1p(counts.X.toarray())
        guess = np.log1p(module.decode(module.embed(cells), cells)["rna"].mean.numpy())
        error = (y if loss == "weighted" else 1) * (y - guess) ** 2
        assert module(cells, Step()).total == pytest.approx(sum(error[:, part == k].mean() for k in (0, 1)), rel=1e-4)


@pytest.mark.parametrize("loss", ["weighted", "mse"])
def test_the_weighted_loss_aims_above_the_mean(loss):
    """At E[y²] / E[y] of the logs of genes that nothing predicts; squared errors alone at E[y]."""
    from anndata import AnnData

    x = np.random.default_rng(0).poisson(1, (3000, 10)).astype(np.float32)
    x[x.sum(1) == 0, 0] = 1
    model = sd.fit(AnnData(x), "deepimpute", loss=loss, n_hidden=8, lr=0.01, max_epochs=25, seed=0)
    guess = np.log1p(sd.normalized_expression(model, library_size="latent").to_numpy()).mean()
    y = np.log1p(x)
    aim = (y**2).mean() / y.mean() if loss == "weighted" else y.mean()
    assert guess == pytest.approx(aim, rel=0.05)
    assert (y**2).mean() / y.mean() > 1.3 * y.mean()


def test_one_gene_has_no_predictors(counts):
    one = counts[:, :1].copy()
    one.X[:, 0] = 1
    with pytest.raises(OptionError, match=named("DeepImpute")):
        sd.fit(one, "deepimpute", max_epochs=1)
