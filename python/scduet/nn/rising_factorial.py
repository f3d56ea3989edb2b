"""log Γ(x + r) / (Γ(r) x!) and its derivative by r, for many counts x and one r per gene: a table for small x.

For a whole number x this is a sum of x logarithms, sum_{k<x} log((r + k) / (k + 1)), and its derivative
sum_{k<x} 1 / (r + k). So for the small counts that most stored counts are, both come from a table of running sums,
which also loses no digits where r is large, as the difference of two `lgamma` does.
"""

from __future__ import annotations

from scduet._torch import torch

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

SMALL = 12  # counts up to this come from the table; of UMI counts above zero about one in fifty is larger


@dataclass(frozen=True)
class RisingFactorial:
    """`log` and `slope` of the counts 0 to SMALL for each gene."""

    dispersion: Float[Tensor, " gene"]
    log: Float[Tensor, "count gene"]
    slope: Float[Tensor, "count gene"]

    @classmethod
    def of(cls, dispersion: Float[Tensor, " gene"]) -> RisingFactorial:
        k = torch.arange(SMALL, dtype=dispersion.dtype, device=dispersion.device)[:, None]
        factor = dispersion + k
        log, slope = factor.new_zeros(SMALL + 1, factor.shape[1]), factor.new_zeros(SMALL + 1, factor.shape[1])
        torch.cumsum((factor / (k + 1)).log_(), 0, out=log[1:])
        torch.cumsum(factor.reciprocal_(), 0, out=slope[1:])
        return cls(dispersion, log, slope)

    def at(
        self, count: Float[Tensor, " entry"], gene: Int[Tensor, " entry"]
    ) -> tuple[Float[Tensor, " entry"], Float[Tensor, " entry"]]:
        """The logarithm and its derivative by the gene's r at each count."""
        whole = count.clamp(max=SMALL).floor_()
        place = whole.long().mul_(self.log.shape[1]).add_(gene)
        log, slope = (table.view(-1).index_select(0, place) for table in (self.log, self.slope))
        rest = (whole != count).nonzero().squeeze(1)  # large counts, and those that are not whole numbers
        if len(rest):
            log[rest], slope[rest] = log_rising_factorial(count[rest], self.dispersion[gene[rest]])
        return log, slope


def log_rising_factorial(
    count: Float[Tensor, " entry"], dispersion: Float[Tensor, " entry"]
) -> tuple[Float[Tensor, " entry"], Float[Tensor, " entry"]]:
    """The same without a table: any count, one r per entry."""
    kind = count.dtype
    if count.device.type != "mps":  # which has no float64; the differences of large numbers need it
        count, dispersion = count.double(), dispersion.double()
    total = count + dispersion
    log = torch.lgamma(total) - torch.lgamma(dispersion) - torch.lgamma(count + 1)
    return log.to(kind), (torch.digamma(total) - torch.digamma(dispersion)).to(kind)
