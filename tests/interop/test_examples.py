"""The examples of R's help pages run, as `example()` and R CMD check run them; those of \\dontrun are left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

MAN = Path(__file__).parents[2] / "r-package" / "man"
# Examples of pages that need downloaded weights, data of their own or minutes.
NOT_RUN = {
    "GeneEmbeddings", "NodeWeights", "PerturbGenes", "PredictGenes", "PredictPerturbation", "PretrainTransformer",
    "RankPerturbations", "RunCondSCVI", "RunGimVI", "RunKPNN", "RunMAGAN", "RunPretrained", "RunPrograms", "RunSigGCN",
    "WriteReport", "install_scduet",
}  # fmt: skip

RUN = """
library(scduet)
pages <- sort(list.files("{man}", "[.]Rd$", full.names = TRUE), method = "radix")
pdf(NULL)
for (page in pages) {{
  file <- tempfile(fileext = ".R")
  tools::Rd2ex(page, file)
  if (!file.exists(file)) next
  seconds <- system.time(problem <- tryCatch(
    {{ capture.output(suppressMessages(source(file, local = new.env(), echo = TRUE))); "" }},
    error = function(e) gsub("\\n", " ", conditionMessage(e))
  ))[["elapsed"]]
  cat(sub("[.]Rd$", "", basename(page)), round(seconds, 1), problem, sep = "\\t")
  cat("\\n")
}}
"""


@pytest.mark.parametrize("r", ["seurat5"], indirect=True)  # one R is enough, and with this one all run
def test_the_examples_of_the_help_run(r):
    said = r.run(RUN.format(man=r.shared_in_r / "r-package" / "man"))
    rows = [line.split("\t") for line in said.splitlines() if line.count("\t") == 2]
    assert len(rows) > 40
    assert not {name: problem for name, _, problem in rows if problem}


def test_pages_without_an_example_that_runs_are_known():
    bare = set()
    for page in MAN.glob("*.Rd"):
        shown = page.read_text(encoding="utf-8").partition("\\examples{\n")[2]
        if shown and re.match(r"\\dontrun\{", shown):
            bare.add(page.stem)
    assert bare == NOT_RUN
