"""Real data to try things on: what scanpy ships, and published files, downloaded once and checked by their sha256.

A published file is one of a public repository at a commit, whose bytes were read here before its hash was written down.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from anndata import AnnData

from scduet.data.datasets import pbmc68k, simulate
from scduet.data.found import names_in
from scduet.errors import DataError, FormatError, OptionError

__all__ = ["kang", "pancreas", "pbmc3k", "pbmc68k", "simulate"]

HOST = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Published:
    """A file of a public repository at a commit."""

    repository: str
    commit: str
    path: str
    sha256: str

    @property
    def url(self) -> str:
        return f"{HOST}/{self.repository}/{self.commit}/{self.path}"


FILES = {
    "pbmc3k": Published(
        "Fred-Hutch-Innovation-Lab/FHIL.SC.utils",
        "48f278d23e1914c8d9624b5f81ec38e09069d7d2",
        "data/pbmc3k.rda",
        "33af613d2649e90098d32cd7b692122e6b58e9ff28a4f080a79eccba5eff0b99",
    ),
    "kang": Published(
        "HelenaLC/muscat",
        "017b290b414212c357e184d17edcca27f4302ace",
        "data/example_sce.rda",
        "f66811fa513a01a91dae01bad308e96ed5238277246b911d8e1cd5f4425c3ed9",
    ),
    "pancreas": Published(
        "zhiyhu/CIDER",
        "0b6e1678c5e05aabe717acb9ad4db801422abac1",
        "data/pancreas.RData",
        "16acccdc7597c655714a6f58c3ddc876bd0675cc456c029662424bb32811e41a",
    ),
}


def pbmc3k() -> AnnData:
    """2,700 peripheral blood cells, 32,738 genes, raw counts: the data of the first Seurat tutorial, without labels.

    Source: 10x Genomics (CC BY 4.0), as a Seurat object in Fred-Hutch-Innovation-Lab/FHIL.SC.utils (MIT). 2.5 MB, kept
    in the folder that SCDUET_DATA names, else in the user's cache. Raises OptionError without the package pooch,
    DataError without network, FormatError for other bytes; so do the other downloads here.
    """
    adata = _read("pbmc3k")
    adata.obs = adata.obs[["nCount_RNA", "nFeature_RNA"]]
    return adata


def kang() -> AnnData:
    """1,556 blood cells of 2 donors, untreated and with interferon beta, 1,267 genes, raw counts.

    `obs`: "cell_type", "donor", "condition" ("ctrl" or "stim"). Source: Kang et al. 2018, Nature Biotechnology 36:89, a
    part of it in HelenaLC/muscat (GPL-3). 1 MB.
    """
    adata = _read("kang")
    adata.obs = adata.obs.rename(columns={"cluster_id": "cell_type", "group_id": "condition"})
    adata.obs["donor"] = adata.obs["sample_id"].astype(str).str.replace("ctrl|stim", "", regex=True)
    return adata


def pancreas() -> AnnData:
    """350 cells of human and mouse pancreas, 12,474 genes with one name in both, raw counts: a strong batch effect.

    `obs`: "species", "sample", "cell_type". Source: Baron et al. 2016, Cell Systems 3:346, a part of it in zhiyhu/CIDER
    (MIT). 0.6 MB.
    """
    adata = _read("pancreas")
    names = {"Batch": "species", "Sample": "sample", "Group": "cell_type"}
    adata.obs = adata.obs.rename(columns=names)[list(names.values())]
    return adata


def _read(name: str) -> AnnData:
    path = _downloaded(FILES[name])
    from scduet.interop.rds import read_rds  # needs the package rdata

    adata = read_rds(path)
    adata.X = adata.X.astype("float32")
    for layer in names_in(adata.layers):
        del adata.layers[layer]
    adata.uns.clear()
    return adata


def _downloaded(file: Published) -> Path:
    """Path of the file, downloaded unless it is there."""
    if find_spec("pooch") is None:
        raise OptionError("downloads need the package pooch", "pip install 'scduet[datasets]'")
    import pooch

    folder = Path(os.environ.get("SCDUET_DATA") or pooch.os_cache("scduet"))
    known, name = f"sha256:{file.sha256}", f"{file.sha256[:8]}-{Path(file.path).name}"
    try:
        return Path(pooch.retrieve(file.url, known, name, folder, downloader=pooch.HTTPDownloader(timeout=60)))
    except ValueError as error:  # pooch removes what it downloaded
        raise FormatError(f"{file.url} is not the file that was published", "try again later") from error
    except OSError as error:
        remedy = f"connect to the network, or save the file as {folder / name}"
        raise DataError(f"{file.url} cannot be downloaded: {error}", remedy) from error
