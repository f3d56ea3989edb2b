"""Whether a reference is of nuclei where the mixtures hold whole cells."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from scduet.errors import ScduetWarning
from scduet.tasks.spatial.platform import one_composition
from scduet.tasks.spatial.reference import Reference

# Nuclei hold unspliced RNA, most of all of genes with introns of hundreds of kilobases, and some long non-coding RNAs;
# they lack mitochondria and the abundant, short-introned messages of the cytoplasm (Bakken et al. 2018, PLOS ONE
# 13:e0209648). Names are those of people; of mice in upper case.
NUCLEAR = frozenset(
    """
    MALAT1 NEAT1 MEG3 XIST KCNQ1OT1 SNHG11 ADARB2 ADGRB3 ANK2 ANKS1B ARHGAP15 ASIC2 ASTN2 AUTS2 BACH2 CACNA1C
    CADM2 CADPS CDH18 CNTN5 CNTNAP2 CSMD1 CSMD3 CTNNA2 CTNNA3 CTNND2 DAB1 DCC DLG2 DLGAP1 DMD DOCK2 DPP10 DPP6
    DSCAM ELMO1 ERBB4 FGF14 FHIT FOXP1 FTX GPC5 GPC6 GPHN GRID2 GRIK2 GRM5 GRM7 IL1RAPL1 IMMP2L KCNIP4 KCNQ5
    LINGO2 LPP LRP1B LRRC4C LRRTM4 LSAMP MACROD2 MAGI1 MAGI2 MAML2 NAALADL2 NAV2 NAV3 NEGR1 NKAIN2 NLGN1 NPAS3
    NRG1 NRG3 NRXN1 NRXN3 OPCML PARD3 PCDH15 PCDH9 PDE4B PDE4D PRKCB PRKG1 PTPRD PTPRG PTPRK PTPRM PTPRT RAD51B
    RALYL RBFOX1 RBMS3 ROBO1 ROBO2 RORA RUNX1 RYR2 SDK1 SGCD SGCZ SLIT2 SLIT3 SMYD3 SNTG1 SORCS1 SOX5 TCF4 TENM2
    TENM3 TENM4 THSD7A TRPM3 UNC5C UNC5D WWOX XYLT1 ZBTB20 ZNF385D
    """.split()  # noqa: SIM905  a list of names is easier to read without quotes
)
CYTOPLASMIC = frozenset(
    """
    ACTB ACTG1 ALDOA ATP1B1 B2M CALM1 CALM2 CALM3 CFL1 CKB CST3 EEF1A1 EEF1B2 EEF2 EIF1 ENO1 FAU FTH1 FTL FTL1
    GAPDH GNAS GPX4 H3F3B HSP90AA1 HSP90AB1 HSPA8 ITM2B ITM2C LDHA LDHB MYL6 NACA PEBP1 PFN1 PKM PPIA PSAP PTMA
    RACK1 SELENOW SERF2 SLC25A3 SLC25A5 TMSB10 TMSB4X TPT1 TUBA1A TUBA1B TUBB4B UBA52 UBB UBC YWHAE YWHAZ
    """.split()  # noqa: SIM905
)
MACHINERY = r"(?:RP[LS]\d+\w*|RPLP\d|RPSA|COX\d\w*|NDUF[ABSV]\w*|ATP5\w*|UQCR\w*)$"  # ribosomes, respiration
# Between shares, tells nuclei from cells: of cytoplasmic RNA 7 and 17 in two pairs of nuclei and cells, 0.7 to 1.4
# between cells of different technologies.
RATIO = 3.0
LEAST = 0.003  # share taken for the smaller one, where it is less
FEWEST = 5  # cytoplasmic genes, and genes that tell the composition
MITOCHONDRIAL, CYTOPLASM, NUCLEUS = "mitochondrial RNA", "cytoplasmic RNA (ACTB, ...)", "nuclear RNA (MALAT1, ...)"


class Shares(NamedTuple):
    """Of one kind of RNA: in the counts of the mixtures, and in the reference at their composition."""

    mixtures: float
    reference: float

    @property
    def is_lacking(self) -> bool:
        """Whether the reference has much less of it than the mixtures."""
        return self.mixtures > RATIO * max(self.reference, LEAST)

    @property
    def is_kept(self) -> bool:
        """Whether it has much more."""
        return self.reference > RATIO * max(self.mixtures, LEAST)


def check_nuclei(
    mixtures: Float[np.ndarray, " gene"], reference: Reference, genes: pd.Index, what: str = "spots"
) -> str | None:
    """A sentence, also warned, where the reference looks like nuclei and the mixtures like cells.

    mixtures: sums of counts over all mixtures, of `genes`. Types differ in these kinds of RNA, so shares are compared
    at the composition that explains the other genes best.
    """
    kinds = kinds_of(genes)
    share = _shares(mixtures, reference.on(genes), kinds)
    cytoplasmic, mitochondrial, nuclear = (share.get(name) for name in (CYTOPLASM, MITOCHONDRIAL, NUCLEUS))
    if cytoplasmic is not None and kinds[CYTOPLASM].sum() >= FEWEST:
        found = cytoplasmic.is_lacking and (nuclear is None or nuclear.reference > nuclear.mixtures)
    elif mitochondrial is not None:
        found = mitochondrial.is_lacking and (nuclear is None or nuclear.is_kept)
    else:
        found = nuclear is not None and nuclear.is_kept
    if not found:
        return None
    figures = "; ".join(f"{name}: {a:.1%} of the {what}, {b:.1%} of the reference" for name, (a, b) in share.items())
    message = f"the reference looks like nuclei where the {what} hold cells ({figures})"
    advice = "the totals of nuclei are no guide to those of cells: prefer per='rna', or a reference of cells"
    warnings.warn(f"{message}; {advice}", ScduetWarning, stacklevel=4)
    return f"{message}."


def kinds_of(genes: pd.Index) -> dict[str, Bool[np.ndarray, " gene"]]:
    """Which genes tell each kind of RNA."""
    upper = genes.str.upper()
    machinery = np.asarray(upper.str.match(MACHINERY), bool)
    return {
        MITOCHONDRIAL: np.asarray(upper.str.startswith("MT-"), bool),
        CYTOPLASM: upper.isin(CYTOPLASMIC) | machinery,
        NUCLEUS: upper.isin(NUCLEAR),
    }


def _shares(
    mixtures: Float[np.ndarray, " gene"], profile: Float[np.ndarray, "type gene"], kinds: dict[str, np.ndarray]
) -> dict[str, Shares]:
    """Of each kind that either has any of."""
    others = ~np.any(list(kinds.values()), axis=0)
    rows = others if others.sum() >= max(FEWEST, len(profile)) else np.ones(len(others), bool)
    known = one_composition(mixtures[rows], profile[:, rows]) @ profile
    found = {
        name: Shares(float(mixtures[own].sum() / mixtures.sum()), float(known[own].sum() / known.sum()))
        for name, own in kinds.items()
    }
    return {name: share for name, share in found.items() if any(share)}
