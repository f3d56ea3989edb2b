"""Every option is documented, has one meaning, and is refused by name when wrong. Reading them imports no torch."""

import json
import subprocess
import sys

import pytest
from named import named

from scduet.errors import OptionError
from scduet.models import MODELS, find
from scduet.options import build, options_of, refuse_unknown
from scduet.train.config import TrainConfig


@pytest.mark.parametrize("model", MODELS)
def test_every_option_is_documented_and_named_once(model):
    options = options_of(model)
    assert [option.name for option in options if not option.help] == []
    names = [option.name for option in options]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("model", MODELS)
def test_read_from_source_equals_the_class(model):
    config = find(model).Config()
    read = {option.name: option.default for option in options_of(model) if option.group == "model"}
    assert read == vars(config)


def test_reading_options_imports_no_torch():
    code = (
        "import sys, json, scduet.options as o; names = [x.name for x in o.options_of('scvi')];"
        "print(json.dumps([names, 'torch' in sys.modules]))"
    )
    names, torch_came = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    assert {"batch_key", "max_epochs", "n_latent"} <= set(names)
    assert not torch_came


def test_unknown_options_name_the_nearest():
    with pytest.raises(OptionError, match=named("'n_latnt'", "'scvi'", "'n_latent'")):
        refuse_unknown(["n_latnt"], ["n_latent", "n_hidden"], "model 'scvi'")
    with pytest.raises(OptionError, match=named("'scv'", "'scvi'")):
        find("scv")
    with pytest.raises(OptionError, match=named("'scGPT'", "load()")):
        find("scGPT")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"recipe": "fast"}, ("'recipe'", "'fast'", "'auto'", "'scvi-tools'")),
        ({"max_epochs": 2.5}, ("'max_epochs'", 2.5, None)),
        ({"max_epochs": "ten"}, ("'max_epochs'", "'ten'")),
        ({"max_epochs": 0}, ("'max_epochs'", 0, 1)),
        ({"early_stopping": 1}, ("'early_stopping'", 1, True, False, None)),
        ({"train_size": 1.5}, ("'train_size'", 1.5, 0, 1)),
    ],
)
def test_wrong_values_are_named(given, names):
    with pytest.raises(OptionError, match=named(*names)):
        build(TrainConfig, given)


def test_whole_floats_are_integers():
    """R has no plain integers: seed = 2 arrives as 2.0."""
    config = build(TrainConfig, {"seed": 2.0, "max_epochs": 3.0, "lr": 1})
    assert (config.seed, config.max_epochs) == (2, 3)
    assert type(config.seed) is int
