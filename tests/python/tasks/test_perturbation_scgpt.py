"""scGPT's fine-tuning on perturbations: its formulas, its pairs, and a planted response, on a small made checkpoint."""

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from named import named
from perturbation_toys import screen
from torch.nn import functional as F
from transformer_toys import transformer

import scduet as sd
from scduet.contract import Step
from scduet.errors import DataError, OptionError
from scduet.tasks.foundation import predict_perturbed as scgpt
from scduet.transformers.encoder.trunk import Packing
from scduet.transformers.objectives.perturbation import Config, Perturber

SILENT = {"callback": lambda event: None}
NAMES = [f"GENE{i}" for i in range(58)] + ["unknown1", "unknown2"]  # the vocabulary knows the first 58


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Perturber(transformer("scgpt").module, Config()).eval()


def minibatch(n=3, genes=7):
    draw = np.random.default_rng(0)
    shown = draw.uniform(0, 4, (n, genes)).astype(np.float32)
    flag = draw.random((n, genes)) < 0.3
    target = torch.from_numpy(draw.uniform(0, 4, (n, genes)).astype(np.float32))
    return scgpt.batch_of(np.arange(4, 4 + genes), shown, flag, np.arange(n), target)


def test_prediction_and_loss_are_the_published_formulas(module):
    """Written out densely: gene + value + flag, the trunk, coefficient * x + offset, mean square over all genes."""
    cells, encoder = minibatch(), module.encoder
    with torch.no_grad():
        loss = module(cells, Step()).total
        expected = []
        for gene, x, flag in zip(cells.gene, cells.value, cells.flag, strict=True):
            named_ = F.layer_norm(encoder.gene.weight[gene], (32,), encoder.gene_norm.weight, encoder.gene_norm.bias)
            hidden = F.relu(x[:, None] @ encoder.value_1.weight.T + encoder.value_1.bias)
            hidden = hidden @ encoder.value_2.weight.T + encoder.value_2.bias
            valued = F.layer_norm(hidden, (32,), encoder.value_norm.weight, encoder.value_norm.bias)
            one = scgpt.batch_of(gene.numpy(), x.numpy()[None], flag.numpy()[None], np.zeros(1, int))
            packing = Packing.of(one.padding)
            states = encoder.trunk(named_ + valued + flag[:, None] * module.flag, packing)
            head = module.value
            expected.append(head.coefficient(states)[:, 0] * x + head.offset(states)[:, 0])
        found = module.predict(cells)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss, (found - cells.target).square().mean())


def test_the_flag_is_all_that_a_perturbation_changes(module):
    """Where nothing is flagged its vector has no part; where a gene is, every gene may answer."""
    cells = minibatch()
    none = scgpt.batch_of(cells.gene[0].numpy(), cells.value.numpy(), np.zeros((3, 7), bool), np.arange(3))
    with torch.no_grad():
        before = module.predict(none)
        module.flag += 1
        assert torch.equal(before, module.predict(none))
        changed = (module.predict(cells) != before).any(1)
    assert changed.tolist() == cells.flag.any(1).tolist()


def test_perturbed_genes_are_always_among_the_genes_of_a_minibatch():
    flags = np.zeros((3, 50), bool)
    flags[1, 7] = flags[2, 30] = flags[2, 31] = True
    pairs = scgpt.Pairs(np.arange(50), None, np.array([0, 1, 2]), flags, 5, 0)
    shown = [pairs.genes(flags.any(0), np.array([i, i + 1])) for i in range(20)]
    assert all({7, 30, 31} <= set(genes) and len(set(genes)) == 5 for genes in shown)
    assert len(np.unique(np.concatenate(shown))) > 20  # and the others take turns
    assert (pairs.genes(flags.any(0), np.array([3, 4])) == shown[3]).all()


def test_pairs_are_matched_within_context_and_batch():
    obs = pd.DataFrame(
        {
            "perturbation": ["control"] * 4 + ["G1", "G1", "G2+G3", "other"],
            "context": ["a", "a", "a", "b", "a", "b", "a", "a"],
            "batch": ["x", "y", "y", "y", "x", "x", "y", "x"],
        }
    ).astype("category")
    obs.index = obs.index.astype(str)
    cells = AnnData(np.ones((8, 3), np.float32), obs, pd.DataFrame(index=["G1", "G2", "G4"]))
    for seed in range(5):
        target, source = scgpt.paired(cells, np.random.default_rng(seed))
        assert target.tolist() == [0, 1, 2, 3, 4, 5, 6]  # "other" is of no measured gene
        assert source[:6].tolist() == [0, 1, 2, 3, 0, 3]  # controls with themselves; of the batch, then of the context
        assert source[6] in (1, 2)
    flags = scgpt.flags_of(["control", "G1", "G2+G3"], cells.var_names)
    assert flags.tolist() == [[False, False, False], [True, False, False], [False, True, False]]


@pytest.fixture(scope="module")
def cells():
    """Six genes whose perturbation switches the gene itself off, and raises five others."""
    change = np.zeros((6, 60))
    change[np.arange(6), np.arange(6)] = -2
    change[:, 10:15] = 2
    found = screen(np.random.default_rng(0), NAMES[:6], change, n=30)
    found.var_names = NAMES
    return found


def test_an_unseen_gene_is_predicted_beside_simple_rules_and_random_weights(cells):
    options = {"max_epochs": 20, "lr": 5e-3, "batch_size": 16, "accelerator": "cpu", **SILENT}
    found = sd.predict_perturbation(
        cells, "perturbation", "GENE4", model="scgpt", evaluate=None,
        transformer=transformer("scgpt"), **options,
    )  # fmt: skip
    change = found.change.iloc[0]
    assert change.iloc[10:15].mean() > 0.3  # 2 in truth: what all perturbations share
    assert change["GENE4"] < -0.3  # -2 in truth: what the flag tells
    assert change.iloc[20:].abs().mean() < 0.1
    assert found.support["model"].item() == "scgpt"


def test_the_table_has_the_network_without_pretraining(cells):
    options = {"max_epochs": 1, "batch_size": 32, "accelerator": "cpu", "n_splits": 1, **SILENT}
    found = sd.predict_perturbation(
        cells, "perturbation", "GENE4", model="scgpt", transformer=transformer("scgpt"), **options
    )
    assert {"no change", "mean", "linear", "scgpt", "scgpt, random weights"} <= set(found.table.loc["gene"].index)


def test_what_scgpt_cannot_predict_is_named_before_training(cells):
    with pytest.raises(OptionError, match=named("'scgpt'", "transformer=")):
        sd.predict_perturbation(cells, "perturbation", "GENE4", model="scgpt", **SILENT)
    with pytest.raises(OptionError, match=named("geneformer")):
        sd.predict_perturbation(
            cells, "perturbation", "GENE4", model="scgpt", transformer=transformer("geneformer"), **SILENT
        )
    renamed = cells.copy()
    renamed.var_names = [f"x{i}" if i < 6 else name for i, name in enumerate(NAMES)]
    with pytest.raises(DataError, match=named("'scgpt'", "'GENE4'")):
        sd.predict_perturbation(
            renamed, "perturbation", "GENE4", model="scgpt", transformer=transformer("scgpt"),
            gene_embedding=pd.DataFrame(np.eye(6), NAMES[:6]), **SILENT,
        )  # fmt: skip
