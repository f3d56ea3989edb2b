"""References of a model and of scores."""

import re

import pandas as pd
import pytest
from named import named

import scduet as sd
from scduet.errors import OptionError
from scduet.metrics import METRICS
from scduet.models import MODELS, TRANSFORMERS
from scduet.models.papers import PAPERS
from scduet.tasks.quality.cite import source_of


def lines_of(text):
    return dict(re.fullmatch(r"(.+?): (.+)", line).groups() for line in text.splitlines())


def test_every_model_has_papers_with_a_doi():
    assert {*MODELS, *TRANSFORMERS} <= set(PAPERS)
    every = [paper for papers in PAPERS.values() for paper in papers]
    assert all(re.fullmatch(r"10\.\d{4,5}/\S+", paper.doi) or paper.url.startswith("http") for paper in every)


def test_a_trained_model_is_cited_as_its_name(counts):
    model = sd.fit(counts, "ldvae", max_epochs=1, callback=lambda event: None)
    assert sd.cite(model) == sd.cite("ldvae")
    assert "10.1093/bioinformatics/btaa169" in lines_of(sd.cite(model))["ldvae"]


def test_scanvi_builds_on_scvi():
    cited = sd.cite("scanvi")
    assert "10.15252/msb.20209620" in cited
    assert "10.1038/s41592-018-0229-2" in cited


def test_scores_cite_their_metrics_and_baselines():
    table = pd.DataFrame({"ilisi": [0.5, 0.4], "bras": [0.9, 0.8], "bio": [1.0, 1.0]}, index=["X_scVI", "X_harmony"])
    found = lines_of(sd.cite(scores=table.rename_axis("embedding")))
    assert set(found) == {"scduet", "scores of integration", "X_harmony", METRICS["ilisi"].label, METRICS["bras"].label}
    assert "Korsunsky" in found["X_harmony"]
    assert "10.1038/s41587-025-02743-4" in found["BRAS"]


def test_long_scores_too():
    table = pd.DataFrame({"embedding": ["X_pca"], "metric": ["kbet"], "value": [0.1]})
    assert {"scduet", "scores of integration", "kBET"} == set(lines_of(sd.cite(scores=table)))


def test_a_source_that_is_that_of_another_metric():
    assert source_of("clisi") == source_of("ilisi")
    assert "Korsunsky" in source_of("clisi")


def test_what_cannot_be_cited_is_refused():
    with pytest.raises(OptionError, match=named("'scvy'", "'scvi'")):
        sd.cite("scvy")
    with pytest.raises(OptionError, match=named("scores")):
        sd.cite(scores=pd.DataFrame({"other": [1]}))
    with pytest.raises(OptionError, match=named("7")):
        sd.cite(7)
