"""Perturbations are the same in every spelling, and guides and leaks are refused."""

import pytest
from named import named

from scduet.errors import DataError
from scduet.tasks.perturbation.targets import grammar_of, refuse_leaks

LEVELS = ["ctrl", "A", "B", "CEBPA", "KLF1"]


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("A", ("A",)), ("A+ctrl", ("A",)), ("ctrl+A", ("A",)), ("A+B", ("A", "B")), ("B+A", ("A", "B")),
        ("A_B", ("A", "B")), ("B|A", ("A", "B")), ("A + B", ("A", "B")), ("A+A", ("A",)), ("ctrl", ()),
        ("non-targeting", ()), ("A KO", ("A",)), ("A NP", ("A",)), ("A_unknown", ("A_unknown",)), ("A_ctrl", ("A",)),
        ("B+A+CEBPA", ("A", "B", "CEBPA")),
    ],
)  # fmt: skip
def test_one_perturbation_has_one_name(name, target):
    assert grammar_of(LEVELS, "p", "ctrl", ["G1"]).target(name) == target


@pytest.mark.parametrize("name", ["ctrl", "control", "NT", "non-targeting", "Non_Targeting", "vehicle", "DMSO"])
def test_the_control_is_found_by_its_usual_names(name):
    assert grammar_of([name, "A"], "p", None, []).control == name


@pytest.mark.parametrize(
    ("levels", "control", "names"),
    [
        (["A", "B"], None, ("obs['p']", "control=")),
        (["ctrl", "DMSO", "A"], None, ("'ctrl'", "'DMSO'")),
        (["ctrl", "A"], "NT", ("'NT'", "'ctrl'")),
    ],
)
def test_a_control_that_cannot_be_told_is_refused(levels, control, names):
    with pytest.raises(DataError, match=named(*names)):
        grammar_of(levels, "p", control, [])


@pytest.mark.parametrize(
    ("levels", "genes"),
    [
        (["NT", "STAT2g1", "STAT2g2", "CAV1g1"], []),
        (["control", "ZAP70_1", "ZAP70_2"], ["ZAP70"]),
        (["control", "ZAP70", "ZAP70_2"], []),
    ],
)
def test_guides_of_one_gene_are_refused(levels, genes):
    with pytest.raises(DataError, match=named("guides", *levels[1:3])):
        grammar_of(levels, "p", None, genes)


@pytest.mark.parametrize(
    "levels", [["ctrl", "Atg5", "Atg7", "Nkx2-1"], ["ctrl", "compound_1", "compound_2"], ["NT", "IL-2", "IL-4"]]
)
def test_names_that_end_in_numbers_are_no_guides(levels):
    assert grammar_of(levels, "p", None, ["Atg5", "Atg7", "Nkx2-1"]).target(levels[1]) == (levels[1],)


@pytest.mark.parametrize(
    ("tested", "trained"), [("A+B", "B+A"), ("A_B", "A+B"), ("CEBPA", "CEBPA_sg2"), ("A+ctrl", "A")]
)
def test_perturbations_that_leaked_into_training_are_refused(tested, trained):
    grammar = grammar_of(LEVELS, "p", "ctrl", [])
    with pytest.raises(DataError, match=named(repr(tested), repr(trained))):
        refuse_leaks([tested], ["KLF1", trained], grammar)
    assert refuse_leaks([tested], ["KLF1", "ctrl"], grammar) == {("KLF1",)}
