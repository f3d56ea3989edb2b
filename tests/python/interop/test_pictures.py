"""Pictures of a tissue keep rows, columns and channels apart on the way to R's matrices and back."""

import anndata as ad
import numpy as np
import pytest

from scduet.interop.pictures import pictures, put_picture

RED_GREEN = np.random.default_rng(0).random((4, 3, 2))  # (row, column, channel)


def as_r_sends(picture):
    """R's array as a matrix: the columns of each channel in turn."""
    return np.concatenate([picture[:, :, i] for i in range(picture.shape[2])], 1)


def spots():
    return ad.AnnData(np.zeros((2, 2), np.float32), obsm={"spatial": np.zeros((2, 2))})


def test_a_picture_goes_there_and_back():
    adata = spots()
    put_picture(adata, "slice", "lowres", as_r_sends(RED_GREEN), 2, {"tissue_lowres_scalef": 0.1})
    library = adata.uns["spatial"]["slice"]
    assert library["images"]["lowres"].dtype == np.uint8
    assert np.allclose(library["images"]["lowres"] / 255, RED_GREEN, atol=0.002)
    (found,) = pictures(adata)
    assert (found.name, found.kind, found.n_channels) == ("slice", "lowres", 2)
    assert found.scales == {"tissue_lowres_scalef": 0.1}
    values = np.reshape(found.values.values, found.values.shape, order="F")  # as R fills a matrix
    assert np.allclose(values, as_r_sends(RED_GREEN), atol=0.002)


@pytest.mark.parametrize("shown", [RED_GREEN[..., 0], (RED_GREEN[..., 0] * 255).astype(np.uint8)])
def test_gray_pictures_have_three_channels(shown):
    adata = spots()
    scales = {"tissue_hires_scalef": 0.2, "tissue_lowres_scalef": 0.1}
    adata.uns["spatial"] = {"a": {"images": {"hires": shown}, "scalefactors": scales}, "b": {"images": {}}}
    (found,) = pictures(adata)
    assert (found.kind, found.n_channels) == ("hires", 3)
    values = np.reshape(found.values.values, found.values.shape, order="F")
    assert np.allclose(values, np.tile(RED_GREEN[..., 0], 3), atol=0.005)


def test_pictures_without_places_or_scale_are_left():
    adata = spots()
    adata.uns["spatial"] = {"a": {"images": {"hires": RED_GREEN}, "scalefactors": {}}}
    assert pictures(adata) == []
    adata.uns["spatial"]["a"]["scalefactors"] = {"tissue_hires_scalef": 0.2}
    assert len(pictures(adata)) == 1
    del adata.obsm["spatial"]
    assert pictures(adata) == []
