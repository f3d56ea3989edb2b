"""The objectives of pre-training, each against a plain computation from its formula; and who may look at whom."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformer_toys import GENES, TRUNK, make_cells, transformer

from scduet.contract import Step, TokenBatch
from scduet.transformers.encoder.trunk import Packing, Trunk, attend_by_cell, attend_padded
from scduet.transformers.inference.embedding import in_order
from scduet.transformers.objectives.losses import bert_masking, mean_square
from scduet.transformers.objectives.pretraining import (
    Generative,
    GenerativeConfig,
    MaskedConfig,
    MaskedGenes,
    choose_asked,
    head_weights,
    with_unexpressed,
)


def batch_of(base, n=6, seed=0) -> TokenBatch:
    cells, tokenizer = base.prepared(make_cells(n, seed))
    return tokenizer(in_order(cells.counts, 0, n))


def genes_of(base):
    return np.array(list(base.vocabulary.token.values()))


def test_masking_has_the_shares_of_bert():
    torch.manual_seed(0)
    genes, gene = torch.arange(4, 54), torch.randint(4, 54, (400, 300))
    maskable = torch.ones_like(gene, dtype=torch.bool)
    maskable[:, :2] = False
    shown, chosen = bert_masking(gene, maskable, genes, 1, 0.15)
    assert not chosen[:, :2].any()
    assert torch.equal(shown[~chosen], gene[~chosen])
    fate = shown[chosen]
    same = (fate == gene[chosen]).float().mean()
    assert abs(chosen[:, 2:].float().mean() - 0.15) < 0.005
    assert abs((fate == 1).float().mean() - 0.8) < 0.01
    assert abs(same - (0.1 + 0.1 / 50)) < 0.01  # of those swapped, one in 50 by itself
    assert set(fate.tolist()) <= {1, *range(4, 54)}


def test_the_loss_of_masked_genes_is_its_formula():
    base = transformer("geneformer")
    module = MaskedGenes(base.module, genes_of(base), MaskedConfig()).eval()
    tokens = batch_of(base)
    torch.manual_seed(3)
    loss = module(tokens, Step())
    torch.manual_seed(3)
    special = torch.tensor(list(base.vocabulary.special.values()))
    maskable = ~tokens.padding & ~torch.isin(tokens.gene, special)
    shown, chosen = bert_masking(tokens.gene, maskable, module.genes, 1, 0.15)
    total, n = 0.0, 0
    for cell in range(len(tokens)):  # each cell by itself, without padding, all logits
        length = int((~tokens.padding[cell]).sum())
        alone = TokenBatch(shown[cell : cell + 1, :length], torch.zeros(1, length, dtype=torch.bool), tokens.index[:1])
        h = base.module(alone, Packing.of(alone.padding))
        h = F.layer_norm(F.relu(module.transform(h)), (TRUNK.width,), module.norm.weight, module.norm.bias, 1e-5)
        logits = (h @ base.module.gene.weight.t() + module.bias).detach()
        for place in chosen[cell, :length].nonzero().squeeze(1):
            total -= float(logits[place].log_softmax(0)[tokens.gene[cell, place]])
            n += 1
    assert n == int(chosen.sum()) > 10
    assert float(loss.total.detach()) == pytest.approx(total / n, rel=1e-4)


@pytest.mark.parametrize("attend", [attend_by_cell, attend_padded])
def test_who_looks_at_whom_entry_by_entry(attend):
    """Output i moves with the value of token j where j is known or i itself, and nowhere else."""
    torch.manual_seed(0)
    known = torch.tensor([[1, 1, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0]], dtype=torch.bool)
    padding = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]], dtype=torch.bool)
    packing = Packing.of(padding, known)
    q, k, v = (torch.randn(10, 2, 3) for _ in range(3))
    moves = torch.autograd.functional.jacobian(lambda v: attend(q, k, v, packing)[:, 0, 0], v)[:, :, 0, 0] != 0
    expected = torch.zeros(10, 10, dtype=torch.bool)
    for start, end in ((0, 6), (6, 10)):
        for i in range(start, end):
            for j in range(start, end):
                expected[i, j] = bool(packing.known[j]) or i == j
    assert torch.equal(moves, expected)
    for first in (0, 6):  # the values, for one asked and one known token of each cell
        for i in (first + 2, first):
            sees = expected[i].nonzero().squeeze(1)
            weight = (q[i] * k[sees]).sum(-1).div(3**0.5).softmax(0)
            torch.testing.assert_close(attend(q, k, v, packing)[i], (weight[..., None] * v[sees]).sum(0))


def test_first_tokens_alone_look_at_known_ones():
    torch.manual_seed(0)
    packing = Packing.of(torch.zeros(2, 4, dtype=torch.bool), torch.tensor([[1, 1, 0, 0], [1, 0, 0, 1]]).bool())
    q, k, v = (torch.randn(8, 2, 3) for _ in range(3))
    every = attend_by_cell(q, k, v, packing)
    for attend in (attend_by_cell, attend_padded):
        torch.testing.assert_close(attend(q[packing.starts], k, v, packing), every[packing.starts])


def test_a_prediction_depends_on_no_other_and_on_no_unknown_value():
    base = transformer("scgpt")
    module = Generative(base.module, genes_of(base), GenerativeConfig()).eval()
    tokens = batch_of(base, 2)
    asked = choose_asked(tokens, torch.tensor([0.5]))
    packing = Packing.of(tokens.padding, ~asked)
    with torch.no_grad():
        states = module.states(tokens, packing)
        other = replace(tokens, value=torch.where(asked, 33.0, tokens.value))
        assert torch.equal(module.states(other, packing), states)
        one = asked[0].nonzero()[0, 0]
        fewer = asked.clone()
        fewer[0] = False
        fewer[0, one] = True
        kept = replace(tokens, padding=tokens.padding | (asked & ~fewer))
        alone = Packing.of(kept.padding, ~asked)
        ours = module.states(kept, alone)[packing_place(alone, 0, one)]
    torch.testing.assert_close(ours, states[packing_place(packing, 0, one)], atol=1e-5, rtol=1e-5)


def packing_place(packing, cell, place):
    return int((packing.places == cell * packing.present.shape[1] + place).nonzero())


def test_the_generative_loss_is_its_formula():
    """Three mean squares, recomputed cell by cell with an explicit mask and unfused attention."""
    base = transformer("scgpt")
    module = Generative(base.module, genes_of(base), GenerativeConfig()).eval()
    tokens = batch_of(base, 4)
    torch.manual_seed(5)
    loss = module(tokens, Step())
    torch.manual_seed(5)
    whole = with_unexpressed(tokens, module.genes, 1.0)
    shares = torch.tensor([0.25, 0.5, 0.75])
    asked = choose_asked(whole, shares[torch.randint(3, (1,))])
    sums, n = dict.fromkeys(loss.terms, 0.0), 0
    with torch.no_grad():
        for cell in range(4):
            there = ~whole.padding[cell]
            gene, value, ask = whole.gene[cell, there], whole.value[cell, there], asked[cell, there]
            named = base.module.named(gene)
            embedded = named + torch.where(ask[:, None], module.flag.weight[1], base.module.valued(value))
            h = plain_trunk(base.module.trunk, embedded, ~ask)
            sums["gene_prompt"] += float(((50 * module.value(h)[ask, 0] - value[ask]) ** 2).sum())
            query = torch.sigmoid(module.cell_value.query(named))
            sums["mvc"] += float((((50 / 32**0.5 * module.cell_value.mix(query) @ h[0])[ask] - value[ask]) ** 2).sum())
            rest = torch.arange(len(gene)) > 0
            blind = torch.cat([h[:1], named[1:] + module.flag.weight[1]])
            h = plain_trunk(base.module.trunk, blind, ~rest)
            sums["cell_prompt"] += float(((50 * module.value(h)[rest, 0] - value[rest]) ** 2).sum())
            n += np.array([int(ask.sum()), int(ask.sum()), int(rest.sum())])
    for (name, total), count in zip(sums.items(), n, strict=True):
        assert float(loss.terms[name].detach()) == pytest.approx(total / count, rel=1e-4), name
    assert float(loss.total.detach()) == pytest.approx(sum(float(t.detach()) for t in loss.terms.values()), rel=1e-6)


def plain_trunk(trunk: Trunk, x, known):
    """The blocks by their formulas: attention as a matrix, unknown tokens not projected."""
    mask = known[None] | torch.eye(len(x), dtype=torch.bool)
    for block in trunk.blocks:
        n, d = TRUNK.n_heads, TRUNK.width // TRUNK.n_heads
        q, k, v = (part.view(-1, n, d).transpose(0, 1) for part in block.qkv(x).chunk(3, -1))
        weight = (q @ k.transpose(1, 2) / d**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
        mixed = (weight @ v).transpose(0, 1).flatten(1)
        x = block.norm_1(x + torch.where(known[:, None], block.project(mixed), mixed))
        x = block.norm_2(x + block.contract(F.relu(block.expand(x))))
    return x


def test_which_genes_are_asked():
    torch.manual_seed(0)
    base = transformer("scgpt")
    tokens = batch_of(base, 40)
    genes = torch.from_numpy(genes_of(base))
    n_expressed = (~tokens.padding).sum(1) - 1
    whole = with_unexpressed(tokens, genes, 0.5)
    n_zero = ((whole.value == 0) & ~whole.padding).sum(1)
    assert torch.equal(n_zero, (n_expressed * 0.5).round().long().minimum(len(GENES) - n_expressed))
    for cell in range(40):
        held = whole.gene[cell][~whole.padding[cell]].tolist()
        assert len(set(held)) == len(held)  # no gene both expressed and not
    asked = choose_asked(whole, torch.tensor([0.75]))
    expressed = ~whole.padding & (whole.value > 0)
    assert torch.equal((asked & expressed).sum(1), (n_expressed * 0.75).long())
    assert (asked == (asked & ~whole.padding)).all()
    assert asked[(whole.value == 0) & ~whole.padding].all()
    assert not asked[:, 0].any()


@pytest.mark.parametrize("family", ["geneformer", "scgpt"])
def test_gradient_checkpointing_changes_no_gradient(family):
    base = transformer(family)
    objective = {"geneformer": MaskedGenes, "scgpt": Generative}[family]
    module = objective(base.module, genes_of(base), objective.Config()).train()
    for name, weight in module.named_parameters():
        if name == "cell_value.mix.weight":
            torch.nn.init.normal_(weight)  # zero at first, and then what it multiplies gets no gradient
    tokens, gradients = batch_of(base), []
    for recomputes in (False, True):
        module.encoder.trunk.recomputes = recomputes
        module.zero_grad()
        torch.manual_seed(0)  # dropout is drawn again for the gradient as it was
        module(tokens, Step()).total.backward()
        gradients.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)
    unused = {n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()}
    assert unused <= {"encoder.gene.weight"}, unused


def test_official_heads_are_recognised():
    names = {"flag_encoder.weight", "module.decoder.fc.2.bias", "mvc_decoder.gene2query.weight", "mvc_decoder.W.weight"}
    ours = {"flag.weight", "value.2.bias", "cell_value.query.weight", "cell_value.mix.weight"}
    module = Generative(transformer("scgpt").module, np.arange(3), GenerativeConfig())
    found = head_weights(module, "scgpt", dict.fromkeys(names, torch.full((1,), 50.0)))
    assert {name: float(weight) for name, weight in found.items()} == {
        **dict.fromkeys(ours, 50.0), "cell_value.mix.weight": pytest.approx(32**0.5)}  # fmt: skip
    bert = {
        "cls.predictions.bias",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.LayerNorm.bias",
    }
    assert set(head_weights(module, "geneformer", dict.fromkeys(bert, torch.zeros(1)))) == {
        "bias", "transform.weight", "norm.bias"}  # fmt: skip


def test_mean_square_of_nothing_is_zero():
    assert float(mean_square(torch.zeros(0), torch.zeros(0))) == 0
    assert float(mean_square(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0]))) == 2.5
