"""What every row of the table of models promises. A new model is tested by adding its row."""

import dataclasses
from itertools import islice
from traceback import extract_stack
from typing import get_args

import numpy as np
import pytest
import torch
from contract.conftest import add_inputs
from torch.utils._python_dispatch import TorchDispatchMode

import scduet as sd
from scduet import scvi as facade
from scduet.api import held_by, reference_of, with_held
from scduet.checkpoints import scvi_tools
from scduet.contract import Expects, Loss, Step, players_of
from scduet.data.loader import minibatches
from scduet.data.samplers import sequential
from scduet.data.schema import Fields, Schema
from scduet.models import MODELS, find, key_of, reduction_of
from scduet.nn.second_order import uncompiled
from scduet.options import build, options_of

FIELDS = {
    "batch_key": "batch",
    "labels_key": "cell_type",
    "unlabeled_category": "NK",
    "categorical_covariate_keys": ("site",),
    "continuous_covariate_keys": ("age",),
}
OWN_FIELDS = {  # where the inputs of a model are, see `add_inputs`
    "totalvi": {"protein_key": "prot"},
    "multivi": {"peaks_key": "peaks", "protein_key": "some"},
    "mmvae": {"peaks_key": "peaks", "protein_key": "some"},
    "magan": {"protein_key": "some", "shared_features": "shared"},
    "dpcca": {"peaks_key": "peaks", "protein_key": "some"},
    "expimap": {"gene_sets": "programs"},
    "kpnn": {"gene_graph": "graph"},
    "velovi": {"layer": "X", "unspliced": "obsm/unspliced"},
}
PLAIN = {"categorical_covariate_keys": (), "continuous_covariate_keys": (), "unlabeled_category": "none"}
OWN_FIELDS |= dict.fromkeys(("condscvi", "destvi"), PLAIN)  # take no covariates, and know every type
OWN_FIELDS["gimvi"] = {**PLAIN, "spatial_key": "panel"}
OWN_FIELDS["pcca"] = {**PLAIN, "peaks_key": "peaks", "protein_key": "some"}
OWN_FIELDS |= {name: {**PLAIN, "batch_key": None} for name in ("stereoscope_cells", "stereoscope", "scaden")}
OWN_OPTIONS = {name: {"initialization": "random"} for name in ("stereoscope_cells", "stereoscope")}  # to learn from
CHOICES = [(m, o.name, c) for m in MODELS for o in options_of(m) if o.group == "model" for c in o.choices]
LAYERS = [(m, o.name, o.default + 1) for m in MODELS for o in options_of(m) if o.name.startswith("n_layers")]
FLAGS = [(m, o.name, not o.default) for m in MODELS for o in options_of(m) if o.group == "model" and o.type == "bool"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:DCA:scduet.errors.ScduetWarning"),  # of batches, which all cases have
    pytest.mark.filterwarnings("ignore:the GAN:scduet.errors.ScduetWarning"),  # of batches
    pytest.mark.filterwarnings("ignore:scGen:scduet.errors.ScduetWarning"),  # of counts, which all cases are
    pytest.mark.filterwarnings("ignore:veloVI:scduet.errors.ScduetWarning"),  # of batches
]


@pytest.fixture
def counts(counts):
    """With proteins, of which some were not measured in a batch."""
    return add_inputs(counts)


def built(adata, model, **options):
    """A new module and all cells as one minibatch."""
    cls = find(model)
    fields = getattr(cls, "Fields", Fields)(**FIELDS | OWN_FIELDS.get(model, {}))
    schema = Schema.learn(adata, fields, cls.expects, getattr(cls, "inputs", None))
    cells = schema.encode(adata)
    torch.manual_seed(0)
    config, start = build(cls.Config, options), started(adata, model)
    reference = with_held(cls, reference_of(cls, schema, cells, adata), start, config)
    module = cls(reference, config, **held_by(cls, model, start)[0])
    return module, next(iter(minibatches(cells, sequential(len(cells)), len(cells))))


def fitted(adata, model, **options):
    own = (
        OWN_FIELDS.get(model, {})
        | OWN_OPTIONS.get(model, {})
        | {"max_epochs": 3, "recipe": "scvi-tools", "batch_size": 32}
    )
    return sd.fit(adata, model, start=started(adata, model), **{**FIELDS, **own, **options})


def started(adata, model):
    """The trained model that this one builds on, if it does."""
    needed = list(getattr(find(model), "needs", {}).values())
    return fitted(adata, needed[0], max_epochs=1) if needed else None


def one_loss(module, cells, seed=0, player=None):
    torch.manual_seed(seed)
    return module(cells, Step(0, 0.5, player or players_of(module)[0].name))


@pytest.mark.parametrize(("model", "option", "value"), [*CHOICES, *FLAGS, *LAYERS])
def test_every_choice_trains_every_weight(counts, model, option, value):
    """No option allocates weights that it does not use, and none breaks the loss."""
    module, cells = built(counts, model, **{option: value})
    for player in players_of(module):
        loss = one_loss(module, cells, player=player.name)
        assert isinstance(loss, Loss)
        assert torch.isfinite(loss.total)
        loss.total.backward()
    idle = [name for name, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert idle == []
    assert torch.isfinite(module.eval().embed(cells)).all()


@pytest.mark.parametrize("model", MODELS)
def test_training_lowers_the_loss(counts, model):
    history = fitted(counts, model, max_epochs=15, lr=0.01, adam_eps=1e-8).history
    assert history["loss_train"].iloc[-1] < 0.97 * history["loss_train"].iloc[0]


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_gives_the_same_bits(counts, model):
    first, again, other = (fitted(counts, model, seed=seed).embed() for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize("model", MODELS)
def test_fit_leaves_the_data_and_the_random_state_alone(counts, model):
    before, state = counts.copy(), torch.get_rng_state()
    fitted(counts, model)
    assert (before.X != counts.X).nnz == 0
    assert before.obs.equals(counts.obs)
    assert list(counts.obsm) == list(before.obsm)
    assert (list(counts.uns), list(counts.layers)) == (list(before.uns), [])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("model", MODELS)
def test_embedding_follows_the_cells(counts, model):
    """Whatever the order of cells, the order of genes, or the size of minibatches."""
    trained = fitted(counts, model)
    whole, order = trained.embed(), np.random.default_rng(0).permutation(200)
    genes = np.random.default_rng(1).permutation(60)
    n_latent = getattr(trained.config, "n_latent", whole.shape[1]) or trained.module.n_latent
    assert whole.shape == (200, n_latent)
    assert whole.dtype == np.float32
    if getattr(find(model), "per_cell", False) is not True:  # which knows these cells alone: see test_per_cell.py
        assert np.allclose(trained.embed(counts[order]), whole[order], atol=1e-5)
    assert np.allclose(trained.embed(counts[:, genes].copy()), whole, atol=1e-5)
    assert np.allclose(trained.embed(batch_size=7), whole, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_saved_is_loaded(counts, model, tmp_path):
    trained = fitted(counts, model)
    trained.save(tmp_path / "model")
    loaded = sd.load(tmp_path / "model")
    assert np.array_equal(loaded.embed(counts), trained.embed())
    assert loaded.history.equals(trained.history)
    assert (loaded.name, loaded.genes, loaded.schema) == (trained.name, trained.genes, trained.schema)
    assert dataclasses.asdict(loaded.config) == dataclasses.asdict(trained.config)
    assert loaded.training == trained.training
    loaded.save(tmp_path / "again")
    assert np.array_equal(sd.load(tmp_path / "again").embed(counts), trained.embed())


@pytest.mark.parametrize("model", MODELS)
def test_a_minibatch_on_another_device_is_whole(counts, model):
    """`to` moves every tensor; "meta" is a device that is always there."""
    _, cells = built(counts, model)
    moved = cells.to("meta")
    x = moved.x
    tensors = [x] if isinstance(x, torch.Tensor) else [x.data, x.indptr, x.indices]
    tensors += [moved.index, moved.batch, moved.label]
    if "categorical_covariate_keys" not in OWN_FIELDS.get(model, {}):
        tensors += [moved.covariates.categorical, moved.covariates.continuous]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


class _Waits(TorchDispatchMode):
    """Notes the operations that make a GPU and its host wait for each other."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        asks = any(name in str(func) for name in ("_local_scalar_dense", "nonzero", "masked_select", "unique"))
        places = args[1] if str(func).startswith(("aten.index.", "aten.index_put")) else ()
        by_mask = any(place is not None and place.dtype == torch.bool for place in places)
        if asks or by_mask:
            caller = [frame for frame in extract_stack() if "scduet" in frame.filename][-1]
            if "one_hot" not in (caller.line or ""):  # asks on a CPU alone
                self.found.append(f"{caller.filename}:{caller.lineno}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", ["scvi", "ldvae", "autozi", "totalvi", "peakvi", "poissonvi", "expimap"])
def test_a_step_on_a_gpu_waits_for_nothing(counts, model):
    """Seen without a GPU: with the kernels of the CPU off, no operation of a step needs a value on the host."""
    module, cells = built(counts, model, **({"gene_likelihood": "nb"} if model in ("scvi", "expimap") else {}))
    with uncompiled(), _Waits() as waits:
        one_loss(module.train(), cells).total.backward()
    assert waits.found == []


def test_the_tables_name_classes_that_are_there():
    for name in islice(MODELS, None):
        cls = find(name)
        assert players_of(cls)
        assert cls.expects in get_args(Expects)


def test_rows_name_everything_once():
    for column in ("path", "obsm", "reduction", "r"):
        values = [getattr(row, column) for row in MODELS.values()]
        assert len(set(values)) == len(values)
    for theirs, ours in scvi_tools.MODELS.items():  # what can be read from scvi-tools
        assert MODELS[ours].scvi_tools == theirs
        assert not hasattr(facade.model, theirs) or getattr(facade.model, theirs)._name == ours
    assert {(reduction_of(row.obsm), key_of(row.reduction)) for row in MODELS.values()} == {
        (row.reduction, row.obsm) for row in MODELS.values()
    }
