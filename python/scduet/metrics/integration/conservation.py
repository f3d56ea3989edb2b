"""Conservation of biology other than labels: cell cycle, variable genes, trajectories."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import sparse

from scduet.metrics.core.inputs import Undefined, codes, points
from scduet.metrics.integration.diffusion import pseudotime
from scduet.metrics.integration.genes import variable_genes
from scduet.metrics.integration.pcr import explained_variance


def cell_cycle_conservation(before: ArrayLike, after: ArrayLike, phase_scores: ArrayLike, batch: ArrayLike) -> float:
    """1 - |change| / before of the variance that the S and G2M scores explain, per batch, mean over batches.

    Range [0, 1], higher is better; a batch in which it more than doubles counts 0. `before`: unintegrated PCA (cell,
    pc); `phase_scores`: (cell, 2), scored on unintegrated data. Source: scIB (Luecken et al. 2022).

    Raises:
        Undefined: the scores explain nothing before integration in any batch.
    """
    before, after, phase = points(before, "before"), points(after, "after"), points(phase_scores, "phase_scores")
    groups = codes(batch, "batch", len(after))
    scores = []
    for group in range(int(groups.max()) + 1):
        cells = groups == group
        first, second = (explained_variance(x[cells], phase[cells]) for x in (before, after))
        if first > 1e-12:
            scores.append(max(0.0, 1 - abs(second - first) / first))
    if not scores:
        raise Undefined("the cell-cycle scores explain no variance before integration")
    return float(np.mean(scores))


def hvg_overlap(
    before: np.ndarray | sparse.spmatrix, after: np.ndarray | sparse.spmatrix, batch: ArrayLike, n_top: int = 500
) -> float:
    """Share of the highly variable genes of each batch that stay so in the corrected expression, mean over batches.

    Range [0, 1], higher is better. Both (cell, gene), log-normalized, same genes; at most half of the genes are called
    variable. For methods that return expression only. Source: scIB (Luecken et al. 2022), scanpy's "cell_ranger" genes.

    Raises:
        ValueError: the matrices have different shapes.
    """
    if before.shape != after.shape:
        raise ValueError(
            f"before has shape {before.shape} and after {after.shape}; the same cells and genes are compared"
        )
    groups = codes(batch, "batch", before.shape[0])
    n_top = min(n_top, before.shape[1] // 2)
    if n_top < 1:
        raise Undefined("variable genes need at least two genes")
    before, after = (sparse.csr_array(x) if sparse.issparse(x) else np.asarray(x) for x in (before, after))
    shares = []
    for group in range(int(groups.max()) + 1):
        cells = np.flatnonzero(groups == group)
        first, second = variable_genes(before[cells], n_top), variable_genes(after[cells], n_top)
        shares.append(len(np.intersect1d(first, second)) / n_top)
    return float(np.mean(shares))


def trajectory_conservation(
    pseudotime_before: ArrayLike, after: ArrayLike, root: int | None = None, n_neighbors: int = 15
) -> float:
    """(1 + Spearman correlation) / 2 of pseudotime before and diffusion pseudotime on the integrated embedding.

    Range [0, 1], 0.5 is chance, higher is better. `pseudotime_before`: one value a cell, NaN for cells not on the
    trajectory; `root`: the first cell, by default the one with the smallest pseudotime. Cells that the graph does not
    connect to the root are left out. Source: scIB (Luecken et al. 2022), which votes for the root among early cells.

    Raises:
        Undefined: fewer than three cells are left to compare, or their pseudotime is constant.
    """
    from scipy.stats import spearmanr

    before, after = np.asarray(pseudotime_before, dtype=np.float64), points(after, "after")
    if before.shape != (len(after),):
        raise ValueError(f"pseudotime_before has shape {before.shape} for {len(after)} cells")
    on = np.flatnonzero(np.isfinite(before))
    if len(on) < 3:
        raise Undefined("a trajectory needs three cells with a pseudotime")
    start = int(np.argmin(before[on])) if root is None else int(np.searchsorted(on, root))
    time = pseudotime(after[on], start, n_neighbors)
    both = np.isfinite(time)
    if both.sum() < 3 or np.ptp(time[both]) == 0 or np.ptp(before[on][both]) == 0:
        raise Undefined("pseudotime is constant, or fewer than three cells are connected to the root")
    return float((1 + spearmanr(before[on][both], time[both]).statistic) / 2)


def known_genes(genes: ArrayLike) -> int:
    """How many of the cell-cycle genes are among these symbols."""
    return int(np.isin(f"{S_GENES} {G2M_GENES}".split(), np.char.upper(np.asarray(genes).astype(str))).sum())


def phase_scores(
    x: np.ndarray | sparse.spmatrix, genes: ArrayLike, batch: ArrayLike
) -> Float[np.ndarray, "cell phase"]:
    """S and G2M scores of log-normalized data (cell, gene): mean of the phase's genes minus the mean of all, per batch.

    `genes`: symbols, human or mouse. Gene lists: Tirosh et al. 2016.

    Raises:
        Undefined: fewer than five genes of a phase are in the data.
    """
    symbol, groups = np.char.upper(np.asarray(genes).astype(str)), codes(batch, "batch", x.shape[0])
    scores = np.empty((x.shape[0], 2))
    for column, phase in enumerate((S_GENES, G2M_GENES)):
        found = np.flatnonzero(np.isin(symbol, phase.split()))
        if len(found) < 5:
            raise Undefined(f"only {len(found)} genes of a cell-cycle phase are in the data, by their symbols")
        scores[:, column] = np.asarray(x[:, found].mean(1)).ravel() - np.asarray(x.mean(1)).ravel()
    for group in range(int(groups.max()) + 1):
        scores[groups == group] -= scores[groups == group].mean(0)
    return scores


S_GENES = """MCM5 PCNA TYMS FEN1 MCM2 MCM4 RRM1 UNG GINS2 MCM6 CDCA7 DTL PRIM1 UHRF1 MLF1IP CENPU HELLS RFC2 RPA2 NASP
RAD51AP1 GMNN WDR76 SLBP CCNE2 UBR7 POLD3 MSH2 ATAD2 RAD51 RRM2 CDC45 CDC6 EXO1 TIPIN DSCC1 BLM CASP8AP2 USP1 CLSPN
POLA1 CHAF1B BRIP1 E2F8"""
G2M_GENES = """HMGB2 CDK1 NUSAP1 UBE2C BIRC5 TPX2 TOP2A NDC80 CKS2 NUF2 CKS1B MKI67 TMPO CENPF TACC3 FAM64A PIMREG SMC4
CCNB2 CKAP2L CKAP2 AURKB BUB1 KIF11 ANP32E TUBB4B GTSE1 KIF20B HJURP CDCA3 HN1 JPT1 CDC20 TTK CDC25C KIF2C RANGAP1
NCAPD2 DLGAP5 CDCA2 CDCA8 ECT2 KIF23 HMMR AURKA PSRC1 ANLN LBR CKAP5 CENPE CTCF NEK2 G2E3 GAS2L3 CBX5 CENPA"""
