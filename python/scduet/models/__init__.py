"""The models by name. A new model is one file here and one row in this table."""

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

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
    "totalvi": Row("scduet.models.multimodal.totalvi:TotalVI", "X_totalVI", "totalvi", "RunTotalVI", "TOTALVI"),
    "peakvi": Row("scduet.models.multimodal.peakvi:PeakVI", "X_PeakVI", "peakvi", "RunPeakVI", "PEAKVI"),
    "poissonvi": Row(
        "scduet.models.multimodal.poissonvi:PoissonVI", "X_PoissonVI", "poissonvi", "RunPoissonVI", "POISSONVI"
    ),
    "multivi": Row("scduet.models.multimodal.multivi:MultiVI", "X_multivi", "multivi", "RunMultiVI", "MULTIVI"),
    "expimap": Row("scduet.models.rna.expimap:ExpiMap", "X_expiMap", "expimap", "RunPrograms", task="programs"),
    "dca": Row("scduet.models.rna.dca:DCA", "X_dca", "dca", "RunDCA", task="denoising"),
    "deepimpute": Row(
        "scduet.models.rna.deepimpute:DeepImpute", "X_deepimpute", "deepimpute", "RunDeepImpute", task="denoising"
    ),
    "scgen": Row("scduet.models.perturbation.scgen:SCGEN", "X_scGen", "scgen", "RunScGen", task="perturbation"),
    "trvae": Row("scduet.models.perturbation.trvae:TrVAE", "X_trVAE", "trvae", "RunTrVAE", task="perturbation"),
    "gan": Row("scduet.models.perturbation.gan:GAN", "X_gan", "gan", "RunGAN", task="generation"),
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
}
TRANSFORMERS = {"geneformer": "X_geneformer", "scgpt": "X_scGPT", "scfoundation": "X_scFoundation"}  # their obsm


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
    """The module class called `name`."""
    path, _, cls = path_of(name).partition(":")
    return getattr(import_module(path), cls)
