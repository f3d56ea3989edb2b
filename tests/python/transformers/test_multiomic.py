"""scGPT on several modalities: each loss is its formula, tokens are those of what was measured, types come apart."""

from dataclasses import replace

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from named import named
from torch.nn import functional as F
from transformer_toys import GENES, make_cells, transformer

import scduet as sd
from scduet.contract import Step
from scduet.errors import DataError, OptionError
from scduet.transformers.encoder.trunk import Packing
from scduet.transformers.inference.embedding import in_order
from scduet.transformers.objectives import multiomic
from scduet.transformers.objectives.integration import choose_masked
from scduet.transformers.objectives.multiomic import Config, MultiOmic
from scduet.transformers.tokenizers.tokens import WithCodes

pytestmark = pytest.mark.filterwarnings("ignore:only:scduet.errors.ScduetWarning")
PROTEINS = [f"CD{i}" for i in range(6)]
QUICK = {"max_epochs": 2, "batch_size": 16, "accelerator": "cpu", "lr": 3e-3, "callback": lambda event: None}


def cite(n=60, seed=0):
    """Types told by genes and by two proteins each; the last third lacks proteins, the first six cells RNA."""
    adata = make_cells(n, seed, batches=True)
    kind, draw = np.arange(n) % 3, np.random.default_rng(seed)
    level = np.where(np.arange(6) // 2 == kind[:, None], 60.0, 4.0)
    table = pd.DataFrame(draw.poisson(level).astype(np.float32) + 1, adata.obs_names, PROTEINS)
    table.iloc[-n // 3 :] = np.nan
    adata.obsm["protein"] = table
    adata.X = sp.diags((np.arange(n) >= 6).astype(np.float32)).tocsr() @ adata.X
    return adata


@pytest.fixture(scope="module")
def tuned():
    adata = cite()
    return adata, sd.integrate(adata, transformer("scgpt"), batch_key="run", protein_key="protein", **QUICK)


def minibatch(model, adata):
    cells, tokenizer = model.prepared(adata, **model.options)
    rows = in_order(cells.counts, 0, adata.n_obs)
    batch = (np.arange(adata.n_obs) % 2).astype(np.int64)
    return WithCodes(tokenizer)(replace(rows, batch=batch))


def test_a_cell_has_tokens_of_what_was_measured(tuned):
    """<cls> first, then genes, then proteins; bins of each modality span the whole range."""
    adata, model = tuned
    tokens, names = minibatch(model, adata), {v: k for k, v in model.vocabulary.token.items()}
    assert (tokens.gene[:, 0] == model.vocabulary.special["<cls>"]).all()
    for i, (gene, padding) in enumerate(zip(tokens.gene, tokens.padding, strict=True)):
        found = [names[int(token)] for token in gene[~padding][1:]]
        genes = [name for name in found if name in GENES]
        proteins = [name for name in found if name.startswith("p_")]
        assert found == genes + proteins
        assert set(genes) == set(np.array(GENES)[np.asarray(adata.X[i].todense()).ravel() > 0])
        assert set(proteins) == (set() if i >= 40 else {f"p_{name}" for name in PROTEINS})
        value = tokens.value[i][~padding][1:]
        for part in (value[: len(genes)], value[len(genes) :]):
            assert len(part) < 5 or float(part.max()) > 0.6 * model.encoder.config.n_bins  # ties take turns


def test_every_loss_is_its_formula(tuned):
    """Written out cell by cell: the trunk sees no modality, both heads see it beside the batch."""
    adata, _ = tuned
    base = transformer("scgpt")
    config = Config(protein_key="protein", proteins=tuple(f"p_{name}" for name in PROTEINS), adversary_weight=0.5)
    torch.manual_seed(3)
    module = MultiOmic(transformer("scgpt").module, 2, config).eval()
    torch.nn.init.normal_(module.cell_value.mix.weight, std=0.1)
    tokens = minibatch(tuned[1], adata[3:12].copy())
    torch.manual_seed(4)
    terms = module(tokens, Step()).terms
    torch.manual_seed(4)
    masked = choose_masked(tokens, 0.4)
    n_known, encoder = base.module.config.n_tokens, module.encoder
    gep, mvc, dar, norm = [], [], [], torch.nn.functional.layer_norm
    for gene, value, hidden, padding, batch in zip(
        tokens.gene, tokens.value, masked, tokens.padding, tokens.batch, strict=True
    ):
        gene, value, hidden = gene[~padding], value[~padding], hidden[~padding]
        shown = value.masked_fill(hidden, -1)
        table = torch.cat([encoder.gene.known.weight, encoder.gene.new])
        h = encoder.trunk(encoder.named(gene) + encoder.valued(shown), Packing.of(torch.zeros(1, len(gene)).bool()))
        modality = torch.where(gene >= n_known, multiomic.PROTEIN, multiomic.RNA)
        modality[0] = multiomic.SPECIAL
        vectors = module.modality.weight[modality], module.batch.weight[batch].expand(len(gene), -1)
        c = norm(vectors[0], (32,), module.modality_norm.weight, module.modality_norm.bias)
        c = c + norm(vectors[1], (32,), module.batch_norm.weight, module.batch_norm.bias)
        gep.append((module.value(torch.cat([h, c], 1))[:, 0] * 50 - value)[hidden])
        named_ = norm(table[gene], (32,), encoder.gene_norm.weight, encoder.gene_norm.bias)
        query = torch.sigmoid(module.cell_value.query(torch.cat([named_, c], 1)))
        told = module.cell_value.mix(query) @ torch.cat([h[0], c[0]])
        mvc.append((told * 50 / 8 - value)[hidden])
        dar.append(F.cross_entropy(module.discriminator(h[:1]), batch[None]))
    expected = {"gep": torch.cat(gep).square().mean(), "mvc": torch.cat(mvc).square().mean()}
    expected["adversary"] = 0.5 * torch.stack(dar).mean()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, atol=1e-3, rtol=1e-4)


def test_it_is_saved_and_embeds_new_cells_whatever_they_have(tuned, tmp_path):
    _, model = tuned
    new = cite(30, seed=5)
    before = model.embed(new)
    folder = tmp_path / "base"
    transformer("scgpt").save(folder)
    model.save(tmp_path / "tuned")
    loaded = sd.load(tmp_path / "tuned", base=folder)
    np.testing.assert_allclose(loaded.embed(new), before, atol=1e-6)
    assert loaded.columns == {"batch_key": "run"}
    rna, protein = anndata.AnnData(new.X, new.obs, new.var), anndata.AnnData(new.obsm["protein"])
    np.testing.assert_allclose(model.embed(mudata.MuData({"rna": rna, "protein": protein})), before, atol=1e-5)
    del new.obsm["protein"]
    new.X = cite(30, seed=5).X
    new.obsm["protein"] = pd.DataFrame(np.nan, new.obs_names, PROTEINS).iloc[:, :6]
    alone = model.embed(new[6:].copy())
    np.testing.assert_allclose(alone[-8:], before[-8:], atol=1e-5)  # these never had any


def test_new_vectors_learn_and_the_loss_falls(tuned):
    _, model = tuned
    history, new = model.history, model.encoder.gene.new
    assert history["loss_train"].iloc[-1] < history["loss_train"].iloc[0]
    assert new.shape == (6, 32)
    for tuning in ("lora", "frozen"):  # what is known stays, what is new learns
        found = sd.integrate(
            cite(30), transformer("scgpt"), protein_key="protein", tuning=tuning, **{**QUICK, "max_epochs": 1}
        )
        assert torch.equal(found.encoder.gene.known.weight, transformer("scgpt").module.gene.weight)
        assert found.encoder.gene.new.requires_grad
        assert found.columns == {}


def test_what_cannot_be_trained_is_refused():
    adata = cite()
    with pytest.raises(OptionError, match=named("geneformer", "scGPT")):
        sd.integrate(adata, transformer("geneformer"), protein_key="protein")
    with pytest.raises(OptionError, match=named("proteins")):
        sd.integrate(adata, transformer("scgpt"), protein_key="protein", proteins=("p_CD0",))
    without = adata.obsm["protein"].isna().all(axis=1).to_numpy().astype(np.float32)
    adata.X = sp.diags(without).tocsr() @ adata.X
    with pytest.raises(DataError, match=named("RNA", "both")):
        sd.integrate(adata, transformer("scgpt"), protein_key="protein")
    adata = cite()
    adata.obsm["peaks"] = pd.DataFrame(1.0, adata.obs_names, [GENES[0], "chr1:1-2"])
    with pytest.raises(DataError, match=named(GENES[0])):
        sd.integrate(adata, transformer("scgpt"), peaks_key="peaks")
