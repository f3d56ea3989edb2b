"""The rules of `recommend`, each with a published source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """For a task, when all conditions hold for the data: what to use and who found so."""

    task: str
    when: tuple[tuple[str, str, Any], ...]  # trait, comparison, value; see `traits`
    method: str
    deep: bool
    reason: str
    source: str


RULES = (  # of each task the first rule that fits is given; the last of each always fits
    Rule(
        "visualization",
        (("n_batches", ">=", 2),),
        "PCA of log-normalized counts, Harmony if the batches stand apart, then UMAP",
        False,
        "of 14 methods Harmony, LIGER and Seurat 3 did best; Harmony, much the quickest of them, is the first to try "
        "(that a picture needs no deep model is our judgement)",
        "Tran et al. 2020, Genome Biology 21:12",
    ),
    Rule(
        "visualization",
        (),
        "PCA of log-normalized counts, then UMAP",
        False,
        "of six tools UMAP was the quickest and most reproducible and kept clusters best; but two dimensions distort: "
        "read no distances off it (Chari & Pachter 2023)",
        "Becht et al. 2019, Nature Biotechnology 37:38; Chari & Pachter 2023, PLOS Computational Biology 19:e1011288",
    ),
    Rule(
        "integration",
        (("n_cells", "<", 100),),
        "PCA of log-normalized counts",
        False,
        "PCA does well without tuning, and a model with hundreds of thousands of weights has too little to learn from "
        "(the limit of 100 cells is ours)",
        "Raimundo et al. 2020, Genome Biology 21:212",
    ),
    Rule(
        "integration",
        (("n_batches", "==", 1),),
        "PCA of log-normalized counts",
        False,
        "one batch: there is nothing to integrate, and PCA competes with deep models that are not tuned",
        "Raimundo et al. 2020, Genome Biology 21:212",
    ),
    Rule(
        "integration",
        (("counts", "==", False),),
        "Harmony on the PCA of these values",
        False,
        "scVI and its kin model raw counts, which these are not",
        "Tran et al. 2020, Genome Biology 21:12; Lopez et al. 2018, Nature Methods 15:1053",
    ),
    Rule(
        "integration",
        (("n_cells", "<", 3000), ("n_batches", "<=", 3), ("n_labels", "<", 2)),
        "Harmony first; scduet.integrate(adata, 'scvi') if score() says that it is better",
        False,
        "Harmony is the first to try and suits simple tasks, though not complex ones "
        "(that below 3,000 cells in 3 batches a task is simple is our guess)",
        "Tran et al. 2020, Genome Biology 21:12; Luecken et al. 2022, Nature Methods 19:41",
    ),
    Rule(
        "integration",
        (("n_labels", ">=", 2),),
        "scduet.integrate(adata, 'scanvi'), beside 'scvi', Harmony and no integration in scduet.score",
        True,
        "scANVI is among the best on complex tasks, and cell types that are known help it to keep biology; "
        "scores of the labels that it was given are then no test",
        "Luecken et al. 2022, Nature Methods 19:41; Heumos et al. 2023, Nature Reviews Genetics 24:550",
    ),
    Rule(
        "integration",
        (),
        "scduet.integrate(adata, 'scvi'), beside Harmony and no integration in scduet.score",
        True,
        "many cells or batches, no cell types: among the best on complex tasks, and it scales",
        "Luecken et al. 2022, Nature Methods 19:41; Lopez et al. 2018, Nature Methods 15:1053",
    ),
    Rule(
        "annotation",
        (("n_labels", "<", 2),),
        "marker genes, or scduet.annotate(adata, reference) with a labeled reference",
        False,
        "these cells carry no labels to learn from; automatic labels want a check by hand, such as by markers",
        "Clarke et al. 2021, Nature Protocols 16:2749",
    ),
    Rule(
        "annotation",
        (("n_batches", ">=", 2), ("counts", "==", True), ("n_cells", ">=", 100)),
        "logistic regression; scANVI if the table of scduet.annotate(query, reference) says that it is better",
        False,
        "logistic regression did better than methods that model batch effects (Open Problems), and as well as scANVI "
        "in the results of January 2025; in its authors' tests scANVI compares favorably",
        "Luecken et al. 2025, Nature Biotechnology 43:1035 (Open Problems); "
        "Xu et al. 2021, Molecular Systems Biology 17:e9620",
    ),
    Rule(
        "annotation",
        (),
        "logistic regression or a linear SVM on log-normalized counts",
        False,
        "of 22 classifiers a linear SVM was the best overall, within data sets and across them; "
        "logistic regression beat more complex methods (Open Problems)",
        "Abdelaal et al. 2019, Genome Biology 20:194; "
        "Luecken et al. 2025, Nature Biotechnology 43:1035 (Open Problems)",
    ),
    Rule(
        "reference mapping",
        (("n_batches", ">=", 2), ("counts", "==", True), ("n_cells", ">=", 100)),
        "scduet.fit(reference, 'scvi' or 'scanvi'), then scduet.map_query(query, model)",
        True,
        "few weights are trained for the query: its batch effect is removed and the reference stays as it is",
        "Lotfollahi et al. 2022, Nature Biotechnology 40:121",
    ),
    Rule(
        "reference mapping",
        (),
        "anchors on PCA (Seurat's TransferData), or projection on the reference's PCA",
        False,
        "anchors carry labels to the query as well as scANVI does (Open Problems, results of January 2025); "
        "that one batch, under 100 cells or no counts are too little for a deep model is our judgement",
        "Stuart et al. 2019, Cell 177:1888; Luecken et al. 2025, Nature Biotechnology 43:1035 (Open Problems)",
    ),
    Rule(
        "differential expression between conditions",
        (),
        "sums of counts for each donor and cell type (scduet.pseudobulk), then edgeR, DESeq2 or limma",
        False,
        "donors are the replicates, not cells: methods that ignore how donors vary find differences where there are "
        "none, and pseudobulk did better than mixed models of cells",
        "Squair et al. 2021, Nature Communications 12:5692; Murphy & Skene 2022, Nature Communications 13:7851; "
        "Crowell et al. 2020, Nature Communications 11:6077",
    ),
    Rule(
        "marker genes of cell types",
        (("n_batches", ">=", 2), ("n_labels", ">=", 2), ("counts", "==", True), ("n_cells", ">=", 100)),
        "Wilcoxon test in each batch; scduet.differential_expression(model, adata) for effect sizes across batches",
        True,
        "a simple test finds markers; the model's fold changes allow for depth and batch, and were closer to the truth "
        "than those of other methods in its authors' tests",
        "Pullin & McCarthy 2024, Genome Biology 25:56; Boyeau et al. 2023, PNAS 120:e2209124120",
    ),
    Rule(
        "marker genes of cell types",
        (),
        "Wilcoxon test on log-normalized counts",
        False,
        "of 59 methods simple ones did well, especially the Wilcoxon test, the t-test and logistic regression",
        "Pullin & McCarthy 2024, Genome Biology 25:56",
    ),
    Rule(
        "perturbation response",
        (),
        "the mean of the training perturbations and the additive model first; a deep model only if it beats both",
        False,
        "none of seven deep models predicted genetic perturbations better than simple baselines: the mean for unseen "
        "genes, the sum of the single effects for pairs",
        "Ahlmann-Eltze, Huber & Anders 2025, Nature Methods 22:1657",
    ),
    Rule(
        "embedding by a foundation model",
        (),
        "PCA of variable genes, or scduet.integrate; a foundation model only if it beats these on your data",
        False,
        "without fine-tuning, Geneformer and scGPT were often worse than variable genes, Harmony and scVI "
        "(fine-tuned models were not tested there)",
        "Kedzierska et al. 2025, Genome Biology 26:101",
    ),
    Rule(
        "rare cell types",
        (("n_labels", ">=", 2),),
        "balanced logistic regression on scduet.fit(adata, 'scvi').embed() of all cells, labeled or not",
        True,
        "generated cells, said to help, hold no more than the model learned from the rare ones: with 10 labeled cells "
        "they did no more than class weights, a latent space of all cells did (our measurement)",
        "Marouf et al. 2020, Nature Communications 11:166",
    ),
    Rule(
        "rare cell types",
        (),
        "integrate first, cluster finely, check by markers; scCAD or CellSIUS to search for rare clusters",
        False,
        "detectors did best on pooled, corrected samples, scCAD was the most stable; none needs a deep model",
        "Ye et al. 2026, Genes 17:31",
    ),
    Rule(
        "denoising",
        (("n_cells", "<=", 50_000),),
        "none for statistics; for display scduet.denoise(adata, 'walk'), beside others in scduet.compare_denoisers",
        False,
        "averages over neighbors predicted held-out molecules as well as any network, or better, in three data sets "
        "(our measurement); imputation did not improve clustering or trajectories, and tests on imputed values can "
        "find false signals",
        "Hou et al. 2020, Genome Biology 21:218; Andrews & Hemberg 2018, F1000Research 7:1740",
    ),
    Rule(
        "denoising",
        (),
        "none for statistics; for display scduet.denoise(adata, 'scvi'), beside others in scduet.compare_denoisers",
        True,
        "scVI with a Poisson likelihood was the best network on held-out molecules (our measurement), and needs no "
        "neighbors of every cell; imputation did not improve clustering or trajectories, and tests on imputed values "
        "can find false signals",
        "Hou et al. 2020, Genome Biology 21:218; Andrews & Hemberg 2018, F1000Research 7:1740",
    ),
    Rule(
        "prediction across modalities",
        (),
        "kernel ridge or nearest neighbors on PCA, CCA to match cells: use='best' in predict_modality, match_cells",
        False,
        "kernel ridge predicted proteins best at NeurIPS 2021 and is ahead in the results of February 2025 (Open "
        "Problems); the tables of both functions say whether a deep model does better on your cells",
        "Lance et al. 2022, PMLR 176:162; Luecken et al. 2025, Nature Biotechnology 43:1035 (Open Problems)",
    ),
    Rule(
        "RNA velocity",
        (("unspliced", "==", 0.0),),
        "none: a velocity needs counts of spliced and unspliced molecules, as velocyto, STARsolo and alevin-fry write",
        False,
        "the direction comes from unspliced molecules alone",
        "La Manno et al. 2018, Nature 560:494",
    ),
    Rule(
        "RNA velocity",
        (("unspliced", "<", 0.03),),
        "none: a trajectory on expression, with a start that you know",
        False,
        "hardly any molecule is unspliced, where 10 to 25% are usual: what is fitted is noise, and streams look "
        "smooth whatever the data are (the limit of 3% is ours)",
        "La Manno et al. 2018, Nature 560:494; Bergen et al. 2021, Molecular Systems Biology 17:e10282",
    ),
    Rule(
        "RNA velocity",
        (("beyond_noise", "<", 0.0),),
        "none: the velocity in these data fits cells hardly better than shuffled ones",
        False,
        "within cell types there is nothing but noise to fit (the limits of 2 to 3.5, by the model, are ours)",
        "Gayoso, Weiler et al. 2024, Nature Methods 21:50",
    ),
    Rule(
        "RNA velocity",
        (("n_cells", "<", 100),),
        "none: the mean over 30 neighbors of so few cells is one over clusters",
        False,
        "velocities are fitted to means over neighbors (the limit of 100 cells is ours)",
        "Bergen et al. 2021, Molecular Systems Biology 17:e10282",
    ),
    Rule(
        "RNA velocity",
        (),
        "scduet.compare_velocity with transitions that you know: 'steady_state' unless another model does better there",
        False,
        "on the pancreas, whose order is known, veloVI's direction was no better than that of models fitted in "
        "seconds; it gives times and an uncertainty (our measurement)",
        "Gayoso, Weiler et al. 2024, Nature Methods 21:50",
    ),
)
ALIASES: Mapping[str, tuple[str, ...]] = {  # what users may call a task
    "visualization": ("visualization",),
    "umap": ("visualization",),
    "integrate": ("integration",),
    "batch correction": ("integration",),
    "annotate": ("annotation",),
    "label transfer": ("annotation", "reference mapping"),
    "map_query": ("reference mapping",),
    "mapping": ("reference mapping",),
    "differential_expression": ("differential expression between conditions", "marker genes of cell types"),
    "differential expression": ("differential expression between conditions", "marker genes of cell types"),
    "de": ("differential expression between conditions", "marker genes of cell types"),
    "markers": ("marker genes of cell types",),
    "perturb": ("perturbation response",),
    "perturbation": ("perturbation response",),
    "foundation model": ("embedding by a foundation model",),
    "imputation": ("denoising",),
    "rare cells": ("rare cell types",),
    "predict_modality": ("prediction across modalities",),
    "match_cells": ("prediction across modalities",),
    "velocity": ("RNA velocity",),
}
TASKS = tuple(dict.fromkeys(rule.task for rule in RULES))
