"""Options: one place for each, and the command line and the components take them from there."""

import math
from dataclasses import dataclass

import pytest
import typer.main

from latentfaces.common.config import EvaluateOptions, RunOptions
from latentfaces.common.errors import UserError
from latentfaces.common.models import (
    MODELS,
    all_parameters,
    find_model,
    joint_options,
    joint_parameters,
    presets,
    settle,
)
from latentfaces.common.options import check, option, options_of, parameters, pick
from latentfaces.pipelines.cli import app
from latentfaces.preprocessing.options import PreprocessConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Some."""

    size: int = option(3, help="A size.", minimum=1, maximum=9)
    share: float = option(0.5, help="A share.", minimum=0)
    kind: str = option("a", help="A kind.", choices=("a", "b"))
    names: list[str] = option(["x"], help="Names.")
    derived: int = 0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"size": 0}, "--size 0 is out of bounds: it has to be at least 1 and at most 9"),
        ({"size": 10}, "--size 10 is out of bounds"),
        ({"share": -0.1}, "--share -0.1 is out of bounds: it has to be at least 0"),
        ({"share": math.nan}, "--share 'nan' has the wrong type: give a number"),
        ({"share": math.inf}, "--share 'inf' has the wrong type"),
        ({"size": True}, "--size 'True' has the wrong type: give a whole number"),
        ({"size": "2"}, "has the wrong type"),
        ({"size": 2.0}, "has the wrong type"),
        ({"names": "x"}, "has the wrong type: give a list of texts"),
        ({"kind": "c"}, "--kind c is unknown: choose one of a, b"),
    ],
)
def test_values_out_of_bounds_are_told(values, says):
    with pytest.raises(UserError, match=says):
        check(Options(**values))
    check(Options(size=9, share=0, kind="b"))


def test_options_become_parameters():
    assert [(each.name, each.default) for each in parameters(Options)] == [
        ("size", 3),
        ("share", 0.5),
        ("kind", "a"),
        ("names", ["x"]),
    ]
    assert pick(Options, {"size": 1, "other": 2}) == {"size": 1}


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("preprocess", parameters(PreprocessConfig)),
        ("train", [*all_parameters(), *parameters(RunOptions)]),
        ("evaluate", parameters(EvaluateOptions)),
    ],
)
def test_the_command_line_has_every_option(command, options):
    shown = {each.name: each for each in typer.main.get_command(app).commands[command].params}
    for each in options:
        assert shown[each.name].help
        if each.default is not each.empty:
            assert shown[each.name].default == (each.default or shown[each.name].default)


def test_models_trained_together_share_what_is_shared():
    values = {each.name: each.default for each in joint_parameters()}
    assert {"vae_preset", "gan_preset", "vae_epochs", "gan_rebalance", "seed"} <= values.keys()
    assert "vae_rebalance" not in values and "vae_seed" not in values
    for name in MODELS:
        options = joint_options(name, values | {f"{name}_epochs": 7, "seed": 5})
        models = [find_model(name, preset) for preset in presets(name)]
        assert options.keys() == {key for model in models for key in options_of(model.Config)}
        config = settle(name, options, (64, 64, 3))
        assert (config.epochs, config.seed) == (7, 5)
        assert config.batch_size == presets(name)[config.preset].settings["batch_size"]


def test_an_option_of_another_model_is_refused():
    with pytest.raises(UserError, match="--rebalance is not an option of the VAE"):
        settle("vae", {"preset": "small", "rebalance": True}, (32, 32, 3))
    with pytest.raises(UserError, match="batch size 32 of the GAN can't be divided among 6 replicas"):
        RunOptions(workers=3, gpus_per_worker=2).check_batch("GAN", 32)


def test_any_seed_will_do_and_small_ones_stay_as_they_are():
    def short(seed):
        return settle("vae", {"preset": "small", "seed": seed}, (32, 32, 3)).short_seed

    assert [short(seed) for seed in (0, 7, 2**32 - 1)] == [0, 7, 2**32 - 1]
    large = {short(seed) for seed in (2**32, 2**32 + 1, 1_795_653_667_000, 10**40)}
    assert len(large) == 4 and all(0 <= seed < 2**32 for seed in large)
    with pytest.raises(UserError, match="--seed -1 is out of bounds: it has to be at least 0"):
        short(-1)
