"""Every model that a recipe names keeps the streaming contract if it streams, or the one that runs it on
samples does, and every recipe resolves.

A recipe says in a comment `# tiny: {...}` which arguments make its model small enough to test.
"""

import importlib
import inspect
import re
from pathlib import Path

import contract
import pytest
import torch
import yaml
from torch import nn

from audiomask import weights
from audiomask.streaming import Streaming

ROOT = Path(__file__).parents[2]
RECIPES = sorted(ROOT.glob("recipes/*/*.yaml"))


def network(recipe: Path) -> dict:
    """The config of the recipe's network: class_path, init_args, perhaps frontend."""
    parts = yaml.safe_load(recipe.read_text())["model"]["init_args"]
    return parts["model"] | {k: parts[k] for k in ("frontend",) if k in parts}


def tiny(recipe: Path) -> dict:
    """The same, small."""
    found = re.search(r"^# tiny: (\{.*?\})", recipe.read_text(), re.MULTILINE)
    assert found, f"{recipe} needs a line '# tiny: {{arguments that make its model small}}'"
    config, small = network(recipe), yaml.safe_load(found[1])
    config["init_args"] |= small
    if "frontend" in config:
        front = config["frontend"]["init_args"]
        front |= {key: value for key, value in small.items() if key in front}
    return config


def build(config: dict) -> nn.Module:
    torch.manual_seed(0)
    return weights.load_model(config, nn.Module).eval()


def kind(recipe: Path) -> type[nn.Module]:
    module, _, name = network(recipe)["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def streams(recipe: Path) -> bool:
    """Whether the recipe's network is one for signals, or names one that runs it on them."""
    return issubclass(kind(recipe), Streaming) or hasattr(kind(recipe), "parts")


@pytest.mark.parametrize(
    "recipe", [r for r in RECIPES if streams(r)], ids=lambda p: f"{p.parent.name}/{p.stem}"
)
@pytest.mark.parametrize(
    "promise", [*contract.CONTRACT, contract.delay_is_composed], ids=lambda f: f.__name__
)
def test_contract(recipe, promise):
    for config in weights.part_configs(tiny(recipe)).values():
        if "every" in inspect.signature(weights.class_of(config["class_path"])).parameters:
            config["init_args"]["every"] = 2  # columns a hop: one promise has a row for each sample of it
        promise(build(config))


# Before they are trained these pass their input on. Tests of the others compare them with the authors'.
PASSING = {"denoise": ("sieve", "sieve_medium", "ca_dense_unet"), "conceal": ("darn", "frn", "nsnet2_plc")}


@pytest.mark.parametrize("recipe", [f"{task}/{name}" for task, names in PASSING.items() for name in names])
def test_delay_is_the_measured_one(recipe):
    contract.output_is_aligned_with_input(build(tiny(ROOT / f"recipes/{recipe}.yaml")))


@pytest.mark.parametrize(
    "recipe",
    [r for r in RECIPES if not issubclass(kind(r), Streaming)],
    ids=lambda p: f"{p.parent.name}/{p.stem}",
)
def test_networks_to_train_from_are_made_small(recipe):
    assert 0 < sum(p.numel() for p in build(tiny(recipe)).parameters()) < 100_000


@pytest.fixture
def unfilled(monkeypatch):
    """Networks whose weights are left as memory is: those of full size take seconds to draw."""
    for name in ("trunc_normal_", "normal_", "uniform_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_recipe_resolves(recipe, unfilled):
    """Every key is one that the classes know, and every class is there."""
    from audiomask.tasks.training import parse

    cli = parse(recipe, [])
    assert (
        type(cli.model).__name__ == yaml.safe_load(recipe.read_text())["model"]["class_path"].split(".")[-1]
    )


def test_every_task_has_a_readme_that_names_its_recipes():
    for folder in {recipe.parent for recipe in RECIPES}:
        text = (folder / "README.md").read_text()
        for recipe in folder.glob("*.yaml"):
            assert recipe.name in text, f"{folder}/README.md does not mention {recipe.name}"
