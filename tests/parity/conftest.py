"""Parity tests compare with the reference implementations, and are skipped where those are not installed."""

import logging
import os
import warnings

import pytest


@pytest.fixture(scope="session")
def scvi_tools():
    """The package scvi-tools, quiet. The one that the figures hold for is 1.4.2."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi = pytest.importorskip("scvi", reason="scvi-tools is not installed: pip install scduet[parity]")
    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return scvi
