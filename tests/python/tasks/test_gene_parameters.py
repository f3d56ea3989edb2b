"""What a model learned of its genes comes out under their names, as the numbers of its paper."""

import numpy as np
import pytest
from scipy.stats import beta

import scduet as sd
from scduet.errors import OptionError


def test_loadings_are_those_of_the_decoder_by_gene(counts):
    model = sd.fit(counts, "ldvae", n_latent=3, max_epochs=2)
    table = sd.loadings(model)
    assert list(table.index) == model.genes
    assert list(table.columns) == ["Z_0", "Z_1", "Z_2"]
    assert np.array_equal(table.to_numpy(), model.module.loadings().numpy())
    with pytest.raises(OptionError, match="ldvae"):
        sd.loadings(sd.fit(counts, "scvi", n_latent=3, max_epochs=1))


@pytest.mark.parametrize(("by", "key"), [("gene", None), ("gene-batch", "batch"), ("gene-label", "cell_type")])
def test_zero_inflation_is_the_lower_half_of_the_posterior(by, key):
    cells = sd.datasets.simulate(150, 30, n_types=3, seed=2)
    keys = dict(batch_key="batch", labels_key="cell_type")
    model = sd.fit(cells, "autozi", **keys, zero_inflation=by, n_latent=3, max_epochs=2)
    table, posterior = sd.zero_inflation(model), model.module.posterior_of_genes()
    levels = ["probability"] if key is None else list(model.schema.levels[key])
    assert (list(table.index), list(table.columns)) == (model.genes, levels)
    alpha, b = (
        part.detach().numpy().reshape(-1, 30).T for part in (posterior.concentration1, posterior.concentration0)
    )
    assert np.allclose(table, beta.cdf(0.5, alpha, b), atol=1e-6)
    with pytest.raises(OptionError, match="autozi"):
        sd.zero_inflation(sd.fit(cells, "scvi", n_latent=3, max_epochs=1))
