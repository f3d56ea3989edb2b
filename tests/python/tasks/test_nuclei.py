"""A reference of nuclei is told from one of cells, whatever types the spots are of; cells are not taken for nuclei."""

import itertools
import re
import warnings

import numpy as np
import pytest
from named import named
from python.tasks.test_deconvolve import N_GENES, N_SPOTS, N_TYPES, Planted, counts

from scduet.errors import ScduetWarning
from scduet.tasks.spatial.nuclei import check_nuclei
from scduet.tasks.spatial.reference import learn


def looks_like_nuclei(spots, reference, key):
    """What the check says of these data, None if nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScduetWarning)
        known = learn(reference, key, None)
        genes = known.genes[known.genes.isin(spots.var_names)]
        return check_nuclei(np.asarray(spots[:, genes].X.sum(0)).ravel().astype(float), known, genes)


@pytest.mark.parametrize("seed", range(3))
def test_nuclei_of_another_composition_are_told_from_cells(seed):
    """Types differ in nuclear RNA by more than nuclei from cells: what counts is the spots' own composition."""
    known, rng = Planted(seed=seed), np.random.default_rng(seed)
    names = ["Actb", "Rpl3", "Rps8", "Cox4i1", "Calm1", "Fth1", "Malat1", "Nrxn1", "Dlg2", "Csmd1"]
    names += [f"G{i}" for i in range(len(names), N_GENES)]
    profile = known.profile.copy()
    profile[:, :6], profile[:, 6:10] = 0.02, 0.003
    profile[0, 6:10], profile[0, :6] = 0.05, 0.004
    nuclei = profile.copy()
    nuclei[:, :6] /= 12
    nuclei[:, 6:10] *= 4
    kind = np.repeat(np.arange(N_TYPES), 30)
    mostly = np.full((N_SPOTS, N_TYPES), 0.02)
    for main in (0, 3):
        share = mostly.copy()
        share[:, main] = 0.9
        spots = counts(share @ profile * 3000, rng, names)
        for reference, expected in ((profile, False), (nuclei, True)):
            cells = counts(reference[kind] * 3000, rng, names, known.reference.obs)
            assert (looks_like_nuclei(spots, cells, "type") is not None) == expected


@pytest.mark.parametrize(
    ("spots", "reference", "expected"),
    [
        ("deconv_cerebellum_slideseq_spatial", "deconv_cerebellum_slideseq_reference", True),
        ("deconv_lymph_visium_1000spots", "deconv_lymph_reference_330cells", False),
        ("cellbench_rnamix_celseq2_known_props", "cellbench_3cl_celseq2_dropseq", False),
    ],
)
def test_nuclei_in_real_references(real_data, spots, reference, expected):
    said = looks_like_nuclei(real_data(f"{spots}.h5ad"), real_data(f"{reference}.h5ad"), "cell_type")
    assert (said is not None) == expected
    if expected:
        assert re.search(named("cytoplasmic RNA", "11.0%", "1.6%", "nuclear RNA", "37.0%", "59.6%"), said)


def test_nuclei_of_a_cell_line_and_cells_of_three_kits(real_data):
    """A549 of sci-CAR, nuclei, beside A549 of 10x; and three kits for whole cells beside each other."""
    cells, nuclei = real_data("cellbench_5cl_10x_celseq2_1900g.h5ad"), real_data("multiome_scicar_a549_rna.h5ad")
    line = cells[cells.obs["cell_type"] == "A549"]
    assert looks_like_nuclei(line, nuclei, "condition")
    assert looks_like_nuclei(nuclei, cells, "cell_type") is None
    blood = real_data("pbmc_3chem_10x.h5ad")
    kits = [blood[blood.obs["batch"] == name] for name in blood.obs["batch"].unique()]
    for one, other in itertools.permutations(kits, 2):
        assert looks_like_nuclei(one, other, "cell_type_derived") is None
