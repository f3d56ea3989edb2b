"""Names for the shapes that the signatures of models share. Axes are named as in `contract`."""

from scduet._torch import torch  # noqa: F401  before any other import of it

from jaxtyping import Float, Int
from torch import Tensor

State = Float[Tensor, "cell latent"]  # of each cell: its place in the latent space
CellValue = Float[Tensor, "cell 1"]  # a number for each cell, such as the log of its library size
CellCode = Int[Tensor, " cell"]  # a code for each cell, such as that of its batch
