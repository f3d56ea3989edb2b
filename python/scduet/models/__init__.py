"""The models by name. A new model is one file here and one row in this table; a user's own needs neither."""

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from scduet.errors import OptionError


@dataclass(frozen=True)
class Row:
    """What the rest of scduet must know of a model without importing it."""

    path: str  # "module:Class"
    obsm: str  # key of its embedding, the field's name for it
    reduction: str  # name of its reduction in a Seurat object
    r: str  # the short form in R
    scvi_tools: str | None = None  # the class there, if it is one of scvi-tools' models
    task: str = "integration"


MODELS: dict[str, Row] = {
    "scvi": Row("scduet.models.rna.scvi:SCVI", "X_scVI", "scvi", "RunSCVI", "SCVI"),
    "scanvi": Row("scduet.models.rna.scanvi:SCANVI", "X_scANVI", "scanvi", "RunSCANVI", "SCANVI", task="annotation"),
    "ldvae": Row("scduet.models.rna.ldvae:LDVAE", "X_ldvae", "ldvae", "RunLDVAE", "LinearSCVI"),
    "autozi": Row("scduet.models.rna.autozi:AutoZI", "X_autozi", "autozi", "RunAutoZI", "AUTOZI"),
    "autoencoder": Row("scduet.models.rna.autoencoder:Autoencoder", "X_autoencoder", "autoencoder", "RunAutoencoder"),
    "totalvi": Row("scduet.models.multimodal.totalvi:TotalVI", "X_totalVI", "totalvi", "RunTotalVI", "TOTALVI"),
    "peakvi": Row("scduet.models.multimodal.peakvi:PeakVI", "X_PeakVI", "peakvi", "RunPeakVI", "PEAKVI"),
    "poissonvi": Row(
        "scduet.models.multimodal.poissonvi:PoissonVI", "X_PoissonVI", "poissonvi", "RunPoissonVI", "POISSONVI"
    ),
    "multivi": Row("scduet.models.multimodal.multivi:MultiVI", "X_multivi", "multivi", "RunMultiVI", "MULTIVI"),
    "mmvae": Row("scduet.models.multimodal.mmvae:MMVAE", "X_mmvae", "mmvae", "RunMMVAE"),
    "pcca": Row("scduet.models.multimodal.pcca:PCCA", "X_pcca", "pcca", "RunPCCA"),
    "dpcca": Row("scduet.models.multimodal.dpcca:DPCCA", "X_dpcca", "dpcca", "RunDPCCA"),
    "expimap": Row("scduet.models.rna.expimap:ExpiMap", "X_expiMap", "expimap", "RunPrograms", task="programs"),
    "kpnn": Row("scduet.models.rna.kpnn:KPNN", "X_kpnn", "kpnn", "RunKPNN", task="annotation"),
    "velovi": Row("scduet.models.velocity.velovi:VeloVI", "X_veloVI", "velovi", "RunVeloVI", "VELOVI", task="velocity"),
    "dca": Row("scduet.models.rna.dca:DCA", "X_dca", "dca", "RunDCA", task="denoising"),
    "deepimpute": Row(
        "scduet.models.rna.deepimpute:DeepImpute", "X_deepimpute", "deepimpute", "RunDeepImpute", task="denoising"
    ),
    "scgen": Row("scduet.models.perturbation.scgen:SCGEN", "X_scGen", "scgen", "RunScGen", task="perturbation"),
    "trvae": Row("scduet.models.perturbation.trvae:TrVAE", "X_trVAE", "trvae", "RunTrVAE", task="perturbation"),
    "gan": Row("scduet.models.perturbation.gan:GAN", "X_gan", "gan", "RunGAN", task="generation"),
    "cardec": Row("scduet.models.reference.cardec:CarDEC", "X_CarDEC", "cardec", "RunCarDEC", task="clustering"),
    "graphdiffvae": Row(
        *("scduet.models.reference.graphdiffvae:GraphDiffVAE", "X_GraphDiffVAE", "graphdiffvae", "RunGraphDiffVAE"),
        task="graph of cells",
    ),
    "saucie": Row("scduet.models.reference.saucie:SAUCIE", "X_SAUCIE", "saucie", "RunSAUCIE", task="clustering"),
    "magan": Row("scduet.models.reference.magan:MAGAN", "X_MAGAN", "magan", "RunMAGAN"),
    "scgcn": Row("scduet.models.reference.scgcn:SCGCN", "X_scGCN", "scgcn", "RunScGCN", task="annotation"),
    "siggcn": Row("scduet.models.reference.siggcn:SigGCN", "X_sigGCN", "siggcn", "RunSigGCN", task="annotation"),
    "condscvi": Row(
        "scduet.models.spatial.condscvi:CondSCVI", "X_CondSCVI", "condscvi", "RunCondSCVI", "CondSCVI", "deconvolution"
    ),
    "destvi": Row(
        "scduet.models.spatial.destvi:DestVI", "X_DestVI", "destvi", "RunDestVI", "DestVI", task="deconvolution"
    ),
    "stereoscope_cells": Row(
        *("scduet.models.spatial.stereoscope_cells:StereoscopeCells", "X_stereoscope_cells", "stereoscopecells"),
        *("RunStereoscopeCells", "RNAStereoscope", "deconvolution"),
    ),
    "stereoscope": Row(
        *("scduet.models.spatial.stereoscope:Stereoscope", "X_stereoscope", "stereoscope"),
        *("RunStereoscope", "SpatialStereoscope", "deconvolution"),
    ),
    "gimvi": Row("scduet.models.spatial.gimvi:GimVI", "X_gimVI", "gimvi", "RunGimVI", "GIMVI", task="imputation"),
    "scaden": Row("scduet.models.spatial.scaden:Scaden", "X_scaden", "scaden", "RunScaden", task="deconvolution"),
}
TRANSFORMERS = {"geneformer": "X_geneformer", "scgpt": "X_scGPT", "scfoundation": "X_scFoundation"}  # their obsm
OWN: dict[str, type] = {}  # classes of the user's own that this session was given, by their names


def name_of(model: Any) -> str:
    """The name of a model that is given by name, as a class, or as "file.py:Class".

    A class becomes known by its own name, in place of an earlier class of this name. Raises OptionError for one that
    cannot be a model, or is called like a model of the table.
    """
    if not is_own(model):
        return str(model)
    from scduet.models.own import check_class, class_in  # imports torch

    cls = class_in(model) if isinstance(model, str) else model
    check_class(cls)
    if cls.__name__ in MODELS:
        raise OptionError(f"there is a model {cls.__name__!r} already", "give your class another name")
    OWN[cls.__name__] = cls
    return cls.__name__


def is_own(model: Any) -> bool:
    """Whether this is a class, or says in which file there is one."""
    return isinstance(model, type) or (isinstance(model, str) and model.rpartition(":")[0].endswith(".py"))


def key_of(name: str) -> str:
    """Where the embedding of a model, or another reduction, goes in obsm."""
    row = MODELS.get(name) or next((row for row in MODELS.values() if row.reduction == name), None)
    return TRANSFORMERS.get(name, f"X_{name}") if row is None else row.obsm


def reduction_of(key: str) -> str:
    """Name of the reduction that is obsm[key]."""
    return next((row.reduction for row in MODELS.values() if row.obsm == key), key.removeprefix("X_"))


def path_of(name: str) -> str:
    """Where the model called `name` is written, as "module:Class"."""
    if name not in MODELS:
        near = get_close_matches(str(name).lower(), MODELS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {sorted(MODELS)}"
        if str(name).lower() in TRANSFORMERS:
            hint = "a transformer is read with load() from its folder, made with pretrain(), and taught with finetune()"
        raise OptionError(f"unknown model {name!r}", hint)
    return MODELS[name].path


def find(name: str) -> type:
    """The module class called `name`, of the table or of the user's own."""
    if name in OWN:
        return OWN[name]
    path, _, cls = path_of(name).partition(":")
    return getattr(import_module(path), cls)
