"""GMT files as they are found, and enrichment against Fisher's test."""

import gzip

import numpy as np
import pytest
from named import named
from scipy.stats import false_discovery_control, fisher_exact

import scduet as sd
from scduet.errors import DataError, FormatError

SETS = {"even": [f"G{i}" for i in range(0, 40, 2)], "first": ["G0", "G1", "G2", "G3"], "elsewhere": ["X1", "X2", "X3"]}
BACKGROUND = [f"G{i}" for i in range(40)]


def test_gmt_files_with_and_without_weights_and_compression(tmp_path):
    plain, packed = tmp_path / "a.gmt", tmp_path / "a.gmt.gz"
    plain.write_text("one\thttp://x\tA\tB\n\ntwo\t\tC\n")
    with gzip.open(packed, "wt") as file:
        file.write("one\t\tA,1.0\tB,0.5\t\ntwo\tof two\tC,1.0\n")
    assert sd.read_gmt(plain) == sd.read_gmt(packed) == {"one": {"A", "B"}, "two": {"C"}}


@pytest.mark.parametrize(("name", "content"), [("a.gmt", "one\tA\n"), ("a.gmt", ""), ("a.gmt.gz", "one\t\tA\n")])
def test_a_file_that_is_no_gmt_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(FormatError):
        sd.read_gmt(tmp_path / name)
    with pytest.raises(FormatError):
        sd.read_gmt(tmp_path / "absent.gmt")


def test_enrichment_is_fishers_test_and_benjamini_hochberg():
    groups = {"a": ["G0", "G2", "G4", "G6", "G7"], "b": ["G1", "G2", "G3", "not here"]}
    table = sd.enrichment(groups, SETS, BACKGROUND).set_index(["group", "term"])
    expected, members = {}, {name: set(genes) & set(BACKGROUND) for name, genes in SETS.items()}
    for group, genes in groups.items():
        inside = set(genes) & set(BACKGROUND)
        for term in ("even", "first"):
            both = len(inside & members[term])
            only = len(inside) - both, len(members[term]) - both
            rest = len(BACKGROUND) - both - sum(only)
            expected[group, term] = fisher_exact([[both, only[0]], [only[1], rest]], alternative="greater").pvalue
    assert set(table.index) == set(expected)
    assert np.allclose(table["p_value"], [expected[key] for key in table.index])
    assert np.allclose(table["fdr"], false_discovery_control(table["p_value"]))
    assert table.loc[("b", "first"), "fold"] == pytest.approx(3 / (3 * 4 / 40))
    assert table.loc[("b", "first"), "genes"] == "G1, G2, G3"


def test_tests_of_pairs_without_a_shared_gene_count_too():
    """The correction is over all tests, not over those that could be significant."""
    few = sd.enrichment({"a": ["G1", "G3"]}, {"first": SETS["first"]}, BACKGROUND)
    many = {f"other{i}": [f"G{j}" for j in range(5 + i, 10 + i)] for i in range(9)}
    more = sd.enrichment({"a": ["G1", "G3"]}, {"first": SETS["first"], **many}, BACKGROUND)
    assert len(more) == 1
    assert more["fdr"][0] == pytest.approx(10 * few["p_value"][0])


def test_sets_of_other_names_are_an_error():
    with pytest.raises(DataError, match=named("'G0'", "'X1'")):
        sd.enrichment({"a": ["G1"]}, {"elsewhere": ["X1", "X2"]}, BACKGROUND)
