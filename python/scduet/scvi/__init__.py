"""scvi-tools' public names over our engine: `from scduet import scvi` in place of `import scvi`.

What differs, all on purpose: bad data are refused with a message that names them, genes are matched by name, unused
categories are no classes, early stopping keeps the best weights, query mapping moves no reference cell, and the mean of
a logistic-normal state is taken over fixed draws (theirs over new ones at each call: up to 1e-2 apart). Of proteins
and peaks: `plan_kwargs` of train() hold where theirs are overwritten by defaults, library_size is applied once with
several transform_batch, counts drawn of proteins have the capture efficiency of their batch, reads and binary values
are no fragments, POISSONVI.differential_accessibility calls what differs (theirs of 1.4 what does not), and tables of
several groups say which row is of which. Of spots: DestVI.from_rna_model takes a CondSCVI of either prior and keeps
what setup_anndata was told, free proportions are a softmax everywhere, and get_fine_celltypes adds up states by type.
GIMVI leaves the batches of its data as they are, get_elbo and the like take both data sets, and spatial genes without
any count are none of its panel.
"""

from scduet._version import __version__
from scduet.scvi import data, external, model, settings, utils
from scduet.scvi.registry import REGISTRY_KEYS, instead_of

__all__ = ["REGISTRY_KEYS", "__version__", "data", "external", "model", "settings", "utils"]
_INSTEAD = {  # modules of scvi-tools: what to use here
    "autotune": "call scduet.fit in a loop, and scduet.score",
    "criticism": "use scduet.posterior_predictive_check",
    "dataloaders": "pass train(train_size=, datasplitter_kwargs=); train(datamodule=) takes theirs",
    "distributions": "use scduet.nn.distributions",
    "hub": "use scduet.load",
    "module": "a model's network is model.module",
    "nn": "use scduet.nn",
    "train": "pass train(plan_kwargs=, callbacks=)",
}
__getattr__ = instead_of("scduet.scvi", _INSTEAD)
