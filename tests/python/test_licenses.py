"""A plain install brings no code under the GPL."""

from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement


def installed_with(name: str, found: dict) -> dict:
    """The distribution `name` and all that it requires without extras, by name; what is not installed here is left out."""
    try:
        of = distribution(name)
    except PackageNotFoundError:
        return found
    found[name] = of
    for text in of.requires or ():
        wanted = Requirement(text)
        if wanted.name not in found and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            installed_with(wanted.name, found)
    return found


def is_gpl(of) -> bool:
    """Whether a distribution says that it is under the GPL or AGPL (not the LGPL) in any of the places for it."""
    told = [of.metadata["License-Expression"], *(of.metadata["License"] or "").splitlines()[:1]]
    told += [text for text in of.metadata.get_all("Classifier", []) if text.startswith("License")]
    return any(
        ("GPL" in text or "GNU" in text) and "LGPL" not in text and "Lesser" not in text for text in told if text
    )


def test_a_plain_install_has_no_gpl():
    found = installed_with("scduet", {})
    assert {"torch", "scanpy", "numpy"} <= found.keys()
    assert not [name for name, of in found.items() if is_gpl(of)]


def test_gpl_is_recognized():
    assert is_gpl(distribution("igraph"))
    assert is_gpl(distribution("harmonypy"))
    assert not is_gpl(distribution("numpy"))
