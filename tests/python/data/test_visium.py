"""Folders of Space Ranger, old and new: counts, places, pictures; and what is missing in them is named."""

import json

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from named import named
from PIL import Image

import scduet as sd
from scduet.errors import FormatError
from scduet.io.cells import read

COUNTS = sp.csc_matrix(np.random.default_rng(0).poisson(1.0, (7, 5)))  # (gene, spot)
BARCODES = [f"{base}ACGT-1" for base in "ACGTN"]
ROWS, COLUMNS = [100, 200, 300, 400, 500], [11, 22, 33, 44, 55]
SCALES = {"tissue_hires_scalef": 0.1, "tissue_lowres_scalef": 0.05, "spot_diameter_fullres": 60.0}
HEADER = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n"


def visium(outs, header, barcodes=BARCODES, matrix="filtered_feature_bc_matrix.h5"):
    """The last spot is not under tissue; positions are in another order than the matrix, with a spot more."""
    (outs / "spatial").mkdir(parents=True)
    with h5py.File(outs / matrix, "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(COUNTS, name)
        group["shape"], group["barcodes"] = COUNTS.shape, np.array(barcodes, "S")
        features = group.create_group("features")
        features["id"], features["name"] = np.array([[f"E{i}", f"G{i}"] for i in range(7)], "S").T
        features["feature_type"] = np.array(["Gene Expression"] * 7, "S")
    lines = [f"{b},{int(i < 4)},{i},{2 * i},{ROWS[i]},{COLUMNS[i]}\n" for i, b in enumerate(BARCODES)]
    name = "tissue_positions.csv" if header else "tissue_positions_list.csv"
    (outs / "spatial" / name).write_text((HEADER if header else "") + "".join(["TTTT-1,0,9,9,9,9\n", *reversed(lines)]))
    (outs / "spatial" / "scalefactors_json.json").write_text(json.dumps(SCALES))
    Image.fromarray(np.full((60, 8, 3), 200, np.uint8)).save(outs / "spatial" / "tissue_hires_image.png")
    return outs


@pytest.mark.parametrize("header", [True, False])
def test_counts_places_and_pictures(tmp_path, header):
    spots = read(visium(tmp_path / "slide" / "outs", header))
    assert list(spots.obs_names) == BARCODES[:4]
    assert spots.X.toarray().tolist() == COUNTS.T.toarray()[:4].tolist()
    assert spots.obsm["spatial"].tolist() == [[x, y] for x, y in zip(COLUMNS[:4], ROWS[:4], strict=True)]
    assert spots.obs["array_col"].tolist() == [0, 2, 4, 6]
    stored = spots.uns["spatial"]["slide"]
    assert stored["scalefactors"] == SCALES
    assert stored["images"]["hires"].shape == (60, 8, 3)
    assert sd.pl.spatial(spots, "G0").axes[0].images[0].get_extent() == [0, 80, 600, 0]


def test_written_and_read_again(tmp_path):
    sd.convert(visium(tmp_path / "slide", True), tmp_path / "spots.h5ad")
    spots = read(tmp_path / "spots.h5ad")
    assert spots.obsm["spatial"][0].tolist() == [11, 100]
    assert spots.uns["spatial"]["slide"]["scalefactors"]["spot_diameter_fullres"] == 60


def test_a_prefix_as_geo_has_it(tmp_path):
    spots = read(visium(tmp_path / "slide", True, matrix="GSM1_filtered_feature_bc_matrix.h5"))
    assert spots.n_obs == 4


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FormatError, match=named("'GGGG-1'", "position")):
        read(visium(tmp_path / "other", True, barcodes=[*BARCODES[:4], "GGGG-1"]))
    short = visium(tmp_path / "short", False)
    (short / "spatial" / "tissue_positions_list.csv").write_text("AACGT-1,1,3\n")
    with pytest.raises(FormatError, match=named("tissue_positions_list.csv", "pxl_col_in_fullres")):
        read(short)
