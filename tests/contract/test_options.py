"""Every option is documented, has one meaning, and is refused by name when wrong. Reading them imports no torch."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from named import named

import scduet as sd
from scduet.cli import main
from scduet.errors import OptionError
from scduet.models import MODELS, find
from scduet.options import build, options_of, refuse_unknown, settings_at
from scduet.train.config import RECIPES, TrainConfig
from scduet.train.defaults import COMPUTED, N_CELLS, default_text

R_PACKAGE = Path(__file__).resolve().parents[2] / "r-package"


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


def options(model="scvi"):
    return {option.name: option for option in options_of(model)}


def test_defaults_are_told_by_recipe():
    told = {name: default_text(option) for name, option in options().items()}
    assert told["lr"] == "auto: 0.005; scvi-tools: 0.001"
    assert told["batch_size"] == "128"
    assert told["n_latent"] == "10"
    assert told["clip_gradient"] == ""


def test_what_depends_on_the_data_is_said_in_words():
    """The words begin with the number for few cells, and are there exactly where other data give another number."""
    for recipe, chosen in RECIPES.items():
        few = chosen(N_CELLS, None)
        varying = {name for other in (chosen(10**6, None), chosen(10, 15)) for name in few if other[name] != few[name]}
        assert {name for where, name in COMPUTED if where == recipe} == varying
        for name in varying:
            assert int(COMPUTED[recipe, name].split()[0]) == few[name]


@pytest.mark.parametrize("function", [sd.fit, sd.integrate])
def test_the_help_of_python_tells_every_option_and_default(function):
    told = " ".join((inspect.getdoc(function) or "").split())
    common, *others = told.split("Options of the model ")[1:]
    data_and_training = told.partition("Options of the model ")[0]
    for model, own in zip(MODELS, ["", *others], strict=True):
        for name, option in options(model).items():
            default = default_text(option)
            line = f" {name}: {option.help}" + (f" Default: {default}." if default else "")
            shared = option == options().get(name)
            assert line in (data_and_training + common if shared else own), (model, name)


@pytest.mark.parametrize(
    ("command", "own"),
    [
        (["fit"], {}),
        (["fit", "--model", "scanvi"], {}),
        (["map"], {"weight_decay": 0}),
        (["pretrain"], settings_at("scduet.tasks.foundation.pretrain:RECIPE")),
        (["finetune"], {**settings_at("scduet.tasks.foundation.finetune:RECIPE"), "lr": "lora: 0.001; full: 0.0001"}),
    ],
)
def test_the_help_of_the_command_line_tells_defaults(capsys, command, own):
    assert main([*command, "--help"]) == 0
    told = "".join(capsys.readouterr().out.split())
    for name, option in options(command[-1] if command[-1] in MODELS else "scvi").items():
        flag = f"--{name.replace('_', '-')}"
        if name in ("lr", "max_epochs", "batch_size", "weight_decay", "seed", "early_stopping"):
            value = own.get(name, default_text(option))
            default = f"{value:g}" if isinstance(value, float) else str(value)
            of_flag = told.partition(flag)[2].partition("(default:")[2]
            assert of_flag.startswith("".join(default.split())), (name, of_flag[:40])


def test_recipes_are_read_from_source_as_they_are():
    from scduet.tasks.foundation import finetune, pretrain

    assert settings_at("scduet.tasks.foundation.pretrain:RECIPE") == pretrain.RECIPE
    assert settings_at("scduet.tasks.foundation.finetune:RATES") == finetune.RATES


def in_r(text):
    return text.replace("None", "NULL").replace("True", "TRUE").replace("False", "FALSE")


@pytest.mark.parametrize("where", ["man/RunModel.Rd", "R/run_model.R"])
def test_the_help_of_r_tells_the_main_options_and_defaults(where):
    text = (R_PACKAGE / where).read_text(encoding="utf-8").replace("\n#'", " ")
    plain = " ".join(re.sub(r"\\code\{(\w+)\}|`(\w+)`", r"\1\2", text).split())
    known = options()
    listed = re.findall(r"(?:\\item|\*) (\w+) \(default ", plain)
    assert {"n_latent", "n_layers", "gene_likelihood", "max_epochs", "batch_size", "lr", "recipe"} <= set(listed)
    for name in listed:
        assert f"{name} (default {in_r(default_text(known[name]))}): {in_r(known[name].help)}" in plain
