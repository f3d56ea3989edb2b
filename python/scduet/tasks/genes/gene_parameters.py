"""What a model learned of each gene and can be read: loadings of a linear decoder, probabilities of zero inflation."""

from __future__ import annotations

from scduet._torch import torch

import pandas as pd
from scipy.special import betainc

from scduet.api import Model
from scduet.capabilities import HasLoadings, HasZeroInflation
from scduet.errors import OptionError


@torch.inference_mode()
def loadings(model: Model) -> pd.DataFrame:
    """Change of the logit of a gene's share by each latent dimension of LDVAE (gene x latent), as `Z_0`, `Z_1`, ...

    The batch normalization of the decoder is included. Raises OptionError for a model whose decoder is not linear.
    Source: Svensson, Gayoso, Yosef and Pachter 2020, Bioinformatics 36:3418.
    """
    if not isinstance(model.module, HasLoadings):
        raise OptionError(f"{model.name!r} has no loadings: its decoder is not linear", "use ldvae")
    found = model.module.loadings().cpu().numpy()
    return pd.DataFrame(found, index=pd.Index(model.genes), columns=[f"Z_{i}" for i in range(found.shape[1])])


@torch.inference_mode()
def zero_inflation(model: Model) -> pd.DataFrame:
    """Posterior probability, 0 to 1, that a gene is zero-inflated, by AutoZI: P(d < 0.5), d the share of plain NB.

    Returns one row a gene and the column "probability", or a column for each batch or label where zero inflation may
    depend on them (`zero_inflation="gene-batch"`, "gene-label"). Of genes with few counts it says little. Raises
    OptionError for a model that does not decide which genes are zero-inflated.
    Source: Clivio et al. 2019, bioRxiv 10.1101/794875.
    """
    if not isinstance(model.module, HasZeroInflation):
        raise OptionError(f"{model.name!r} does not say which genes are zero-inflated", "use autozi")
    posterior = model.module.posterior_of_genes()
    alpha, beta = (part.cpu().double().numpy() for part in (posterior.concentration1, posterior.concentration0))
    found = betainc(alpha, beta, 0.5)
    return pd.DataFrame(found.reshape(-1, found.shape[-1]).T, index=pd.Index(model.genes), columns=_groups(model))


def _groups(model: Model) -> list:
    fields = model.schema.fields
    key = {"gene-batch": fields.batch_key, "gene-label": fields.labels_key}.get(model.config.zero_inflation)
    return ["probability"] if key is None else list(model.schema.values(key))
