"""scGPT's losses of integration, each against a plain computation from its formula; norms of batches; the whole."""

import numpy as np
import pytest
import torch
from named import named
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn import functional as F
from transformer_toys import GENES, make_cells, transformer

import scduet as sd
from scduet.contract import Step
from scduet.errors import DataError, OptionError
from scduet.metrics import clisi, ilisi
from scduet.metrics.integration.genes import variable_genes
from scduet.tasks.quality.baselines import log_normalized
from scduet.tasks.workflows.embed_pretrained import hvg_pca
from scduet.transformers.encoder.trunk import Packing
from scduet.transformers.families.scgpt import BATCH_NORM_EPS
from scduet.transformers.inference.embedding import in_order
from scduet.transformers.objectives.integration import Config, DomainNorm, Integrator, choose_masked
from scduet.transformers.objectives.losses import elastic_similarity, reversed_gradient, zero_nll
from scduet.transformers.tokenizers.tokens import WithCodes

FAST = dict(max_epochs=25, batch_size=16, accelerator="cpu", lr=3e-3, zeros=False)
OFF = dict(zero_probability=False, by_cell=False, similarity_weight=0.0, adversary_weight=0.0, domain_norm=False)


def tokens_of(base, n=8, zeros=True):
    cells, tokenizer = base.prepared(make_cells(n, 0, batches=True), zeros=zeros)
    batch = (np.arange(n) % 2).astype(np.int64)
    rows = in_order(cells.counts, 0, n)
    return WithCodes(tokenizer)(type(rows)(**{**vars(rows), "batch": batch}))


def test_elastic_similarity_is_its_formula():
    cells = torch.randn(5, 7)
    total = 0.0
    for i in range(5):
        for j in range(5):
            cosine = 0.0 if i == j else float(cells[i] @ cells[j] / cells[i].norm() / cells[j].norm())
            total += 1 - (max(0.0, cosine) - 0.3) ** 2
    assert float(elastic_similarity(cells, 0.3)) == pytest.approx(total / 25, rel=1e-5)


def test_zero_likelihood_is_that_of_a_coin():
    logit, value = torch.tensor([0.3, -2.0, 1.0]), torch.tensor([0.0, 4.0, 50.0])
    p = torch.sigmoid(logit)
    expected = -(torch.log(1 - p[0]) + torch.log(p[1]) + torch.log(p[2])) / 3
    torch.testing.assert_close(zero_nll(logit, value), expected)
    assert float(zero_nll(logit[:0], value[:0])) == 0


def test_the_gradient_is_reversed():
    x = torch.randn(4, requires_grad=True)
    y = reversed_gradient(x, 0.7)
    torch.testing.assert_close(y, x)
    (gradient,) = torch.autograd.grad((y**2).sum(), x)
    torch.testing.assert_close(gradient, -0.7 * 2 * x.detach())


def test_domain_norm_is_a_batch_norm_for_each_domain():
    torch.manual_seed(0)
    ours = DomainNorm(6, 3)
    theirs = [nn.BatchNorm1d(6, eps=BATCH_NORM_EPS, affine=False) for _ in range(3)]
    for _ in range(3):
        x, domain = torch.randn(40, 6) * 3 + 1, torch.randint(0, 2, (40,))
        out = ours(x, domain)
        for number in (0, 1):
            torch.testing.assert_close(out[domain == number], theirs[number](x[domain == number]), atol=1e-5, rtol=1e-4)
    ours.eval()
    for number in range(3):  # the third was never seen: mean 0, variance 1
        domain = torch.full((40,), number)
        torch.testing.assert_close(ours(x, domain), theirs[number].eval()(x), atol=1e-5, rtol=1e-4)


def test_every_term_is_its_formula():
    base, torch_seed = transformer("scgpt"), 4
    config = Config(similarity_weight=3.0, similarity_threshold=0.4, adversary_weight=0.5)
    module = Integrator(base.module, 2, config).eval()
    nn.init.normal_(module.cell_value.mix.weight, 0, 0.3)
    tokens = tokens_of(base)
    torch.manual_seed(torch_seed)
    loss = module(tokens, Step())
    torch.manual_seed(torch_seed)
    masked = choose_masked(tokens, 0.4)
    sums, n, vectors = dict.fromkeys(("gep", "gep_zero", "gepc", "gepc_zero"), 0.0), 0, []
    with torch.no_grad():
        for cell in range(len(tokens)):
            there = ~tokens.padding[cell]
            gene, value, hidden = tokens.gene[cell, there], tokens.value[cell, there], masked[cell, there]
            named = base.module.named(gene)
            x = named + base.module.valued(torch.where(hidden, -1.0, value))
            x[1:] = x[1:] / (1 + BATCH_NORM_EPS) ** 0.5  # the norm of each batch has seen nothing yet
            h = base.module.trunk(x, Packing.of(torch.zeros(1, len(gene), dtype=torch.bool)))
            batch = module.batch_norm(module.batch(tokens.batch[cell]))
            both = torch.cat([h[hidden], batch.expand(int(hidden.sum()), -1)], 1)
            vector = torch.cat([h[0], batch])
            query = torch.sigmoid(module.cell_value.query(named[hidden]))
            value, expressed = value[hidden], value[hidden] > 0
            sums["gep"] += float(((50 * module.value(both)[:, 0] - value) ** 2).sum())
            sums["gepc"] += float(((50 / 32**0.5 * module.cell_value.mix(query) @ vector - value) ** 2).sum())
            for name, logit in (
                ("gep_zero", module.zero(both)[:, 0]),
                ("gepc_zero", module.cell_value.zero(query) @ vector),
            ):
                sums[name] -= float(torch.where(expressed, F.logsigmoid(logit), F.logsigmoid(-logit)).sum())
            n += int(hidden.sum())
            vectors.append(h[0])
        expected = {name: total / n for name, total in sums.items()}
        cells = torch.stack(vectors)
        expected["similarity"] = 3.0 * float(elastic_similarity(cells, 0.4))
        chosen = module.discriminator(cells).log_softmax(1)[torch.arange(len(cells)), tokens.batch]
        expected["adversary"] = -0.5 * float(chosen.mean())
    assert n == sum(int(0.4 * len(GENES)) for _ in range(len(tokens)))
    assert {name: float(term.detach()) for name, term in loss.terms.items()} == pytest.approx(expected, rel=2e-4)
    assert float(loss.total.detach()) == pytest.approx(sum(expected.values()), rel=2e-4)


def test_the_adversary_pulls_both_ways():
    """A step of the discriminator's own weights lowers its loss; the same step of the trunk raises it."""
    base = transformer("scgpt")
    module = Integrator(base.module, 2, Config(**{**OFF, "adversary_weight": 1.0})).train()
    module.encoder.trunk.eval()
    tokens = tokens_of(base, 24)

    def adversary():
        torch.manual_seed(0)
        return module(tokens, Step()).terms["adversary"]

    before = adversary()
    before.backward()
    gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    for part, sign in (("discriminator.", -1), ("encoder.trunk.", 1)):
        with torch.no_grad():
            moved = {name: p for name, p in module.named_parameters() if name.startswith(part) and name in gradients}
            for name, p in moved.items():
                p -= 1e-3 * gradients[name]
            change = float(adversary() - before)
            for name, p in moved.items():
                p += 1e-3 * gradients[name]
        assert change * sign > 0, (part, change)


def test_what_is_off_has_no_weights():
    base = transformer("scgpt")
    module = Integrator(base.module, 2, Config(**OFF))
    beside = {name.split(".")[0] for name, _ in module.named_parameters()} - {"encoder"}
    assert beside == {"batch", "batch_norm", "value"}
    loss = module(tokens_of(base), Step())
    assert set(loss.terms) == {"gep", "similarity"}


def test_genes_without_counts_are_tokens_of_bin_zero():
    base, cells = transformer("scgpt"), make_cells(6, 3)
    tokens, plain = tokens_of(base, 6), tokens_of(base, 6, zeros=False)
    assert tokens.gene.shape[1] == len(GENES) + 1
    names = sorted(base.vocabulary.token.values())
    for cell in range(6):
        assert sorted(tokens.gene[cell, 1:].tolist()) == names
        kept = ~plain.padding[cell]
        n = int(kept.sum())
        assert torch.equal(tokens.gene[cell, :n], plain.gene[cell, kept])
        assert torch.equal(tokens.value[cell, :n], plain.value[cell, kept])
        assert not tokens.value[cell, n:].any()
    short = base.prepared(cells, zeros=True, max_length=50)[1]
    chosen = short(in_order(base.prepared(cells)[0].counts, 0, 6))
    assert chosen.gene.shape == (6, 50)
    assert all(len(set(row.tolist())) == 50 for row in chosen.gene)


@pytest.fixture(scope="module")
def integrated():
    cells = make_cells(160, 1, batches=True)
    base = transformer("scgpt")
    model = sd.integrate(cells, base, batch_key="run", **FAST)
    return cells, base, model


def test_vectors_tell_the_type_and_not_the_batch(integrated):
    """Were <cls> normalized by batch, as in the official code, neighbors would tell the batch of every cell."""
    cells, _, model = integrated
    told = {key: _told(cells.obsm["X_scGPT"], cells.obs[key].to_numpy()) for key in ("run", "type")}
    assert told["run"] < _told(hvg_pca(cells), cells.obs["run"].to_numpy()) - 0.05, told
    assert told["type"] > 0.85, told
    assert model.history["loss_train"].iloc[-1] < model.history["loss_train"].iloc[0]


def test_real_technologies_mix_better_than_in_pca_and_cell_lines_stay_apart(real_data):
    """Three lung cancer lines by CEL-seq2 and by 10x; as long as the defaults train, on a model that knows little."""
    cells = real_data("cellbench_3cl_3tech_890g.h5ad")
    rows = [np.flatnonzero(cells.obs["batch"] == batch)[:100] for batch in ("sc_celseq2", "sc_10x")]
    cells = cells[np.concatenate(rows)].copy()
    cells = cells[:, np.sort(variable_genes(log_normalized(cells.X), 100))].copy()
    base = sd.pretrain(cells, "scgpt", width=32, n_layers=1, feedforward=64, max_epochs=6, lr=2e-3, accelerator="cpu")
    sd.integrate(cells, base, batch_key="batch", zeros=False, accelerator="cpu")
    batch, line = cells.obs["batch"], cells.obs["cell_type"]
    ours, pca = ((ilisi(x, batch, 30), clisi(x, line, 30)) for x in (cells.obsm["X_scGPT"], hvg_pca(cells)))
    assert ours[0] > pca[0] + 0.05, (ours, pca)
    assert ours[1] > 0.95, (ours, pca)


def _told(x, labels):
    """Share of cells whose label their neighbors tell."""
    half = np.arange(len(x)) % 4 < 2
    return KNeighborsClassifier(7).fit(x[half], labels[half]).score(x[~half], labels[~half])


def test_saved_and_loaded_it_embeds_the_same(integrated, tmp_path):
    cells, base, model = integrated
    model.save(tmp_path / "tuned")
    loaded = sd.load(tmp_path / "tuned", base=base)
    np.testing.assert_allclose(loaded.embed(cells), cells.obsm["X_scGPT"], atol=1e-5)
    assert loaded.tuning.levels == ("a", "b")
    new = cells[:5].copy()
    new.obs["run"] = "c"
    with pytest.raises(DataError, match=named(1, "'c'", "'a'", "'b'")):
        loaded.embed(new)
    with pytest.raises(OptionError, match=named("finetune()")):
        loaded.predict(cells)


def test_what_cannot_work_is_refused():
    cells = make_cells(120, 1)
    with pytest.raises(DataError, match=named("batch_key", "'run'", "'a'")):
        sd.integrate(cells, transformer("scgpt"), batch_key="run")
    with pytest.raises(OptionError, match=named("batch_key=", "embed_pretrained()")):
        sd.integrate(cells, transformer("scgpt"))
    with pytest.raises(OptionError, match=named("geneformer", "scGPT")):
        sd.integrate(cells, transformer("geneformer"), batch_key="run")
    with pytest.raises(OptionError, match=named("'mask_ratio'", 0.0)):
        sd.integrate(make_cells(120, 1, batches=True), transformer("scgpt"), batch_key="run", mask_ratio=0.0)
