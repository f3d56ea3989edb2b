"""From the same weights both models of Stereoscope give the numbers of scvi-tools."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from parity.test_destvi import N_GENES, N_LABELS, N, a_minibatch
from parity.test_scvi import near as near_for

from scduet.checkpoints.scvi_names import from_scvi_tools, to_scvi_tools
from scduet.checkpoints.scvi_spatial import STEREOSCOPE, STEREOSCOPE_CELLS
from scduet.contract import Reference, Step
from scduet.models.spatial import stereoscope, stereoscope_cells

near = partial(near_for, options="stereoscope")


def reference():
    """Ours and theirs, for cells."""
    from scvi.external.stereoscope import RNADeconv

    torch.manual_seed(0)
    theirs = RNADeconv(N_GENES, N_LABELS)
    ours = stereoscope_cells.StereoscopeCells(Reference(N_GENES, n_labels=N_LABELS), stereoscope_cells.Config())
    ours.load_state_dict(from_scvi_tools(theirs.state_dict(), ours, STEREOSCOPE_CELLS))
    return ours, theirs


def spots(prior_weight):
    from scvi.external.stereoscope import SpatialDeconv

    known, theirs_known = reference()
    torch.manual_seed(1)
    theirs = SpatialDeconv(N, theirs_known.get_params(), prior_weight=prior_weight)
    held: Any = SimpleNamespace(module=known, reference=known.reference)
    ours = stereoscope.Stereoscope(Reference(N_GENES, n_cells=N), stereoscope.Config(prior_weight), held)
    ours.load_state_dict(from_scvi_tools(theirs.state_dict(), ours, STEREOSCOPE))
    return ours, theirs


def test_the_model_of_cells(scvi_tools):
    ours, theirs = reference()
    data = a_minibatch()
    _, _, loss = theirs(data.tensors)
    found = ours(data.cells, Step()).total
    near(N * found, loss.loss)
    (N * found).backward()
    loss.loss.backward()
    for mine, other in ((ours.rate, theirs.W), (ours.logit, theirs.px_o)):
        np.testing.assert_allclose(mine.grad, other.grad, rtol=1e-3, atol=1e-4 * float(other.grad.abs().max()))
    scores = ours.classify(data.cells).gather(1, data.cells.label[:, None])[:, 0]  # pyright: ignore[reportOptionalSubscript]
    near(-scores, loss.reconstruction_loss["reconstruction_loss"])


@pytest.mark.parametrize("prior_weight", ["n_obs", "minibatch"])
def test_the_model_of_spots(scvi_tools, prior_weight):
    ours, theirs = spots(prior_weight)
    data = a_minibatch()
    _, _, loss = theirs(data.tensors, loss_kwargs={"n_obs": N})
    found = ours(data.cells, Step()).total
    near(N * found, loss.loss)
    (N * found).backward()
    loss.loss.backward()
    for mine, other in (
        (ours.amount, theirs.V.grad.t()),
        (ours.noise, theirs.eta.grad),
        (ours.platform, theirs.beta.grad),
    ):
        np.testing.assert_allclose(mine.grad, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
    near(ours.proportions(data.cells), torch.as_tensor(theirs.get_proportions()))
    near(ours.proportions(data.cells, True), torch.as_tensor(theirs.get_proportions(keep_noise=True)))
    kinds = torch.tensor([2, 0])
    near(ours.type_rates()[kinds], theirs.get_ct_specific_expression(kinds[:, None]))


def test_weights_go_back_to_scvi_tools(scvi_tools):
    for (ours, theirs), names in ((reference(), STEREOSCOPE_CELLS), (spots("n_obs"), STEREOSCOPE)):
        exported, expected = to_scvi_tools(ours, names), theirs.state_dict()
        assert exported.keys() | {"ct_weight"} == expected.keys() | {"ct_weight"}
        assert all(torch.equal(exported[name], expected[name]) for name in exported)
