"""Every model that a recipe names keeps the streaming contract if it streams, and every recipe resolves.

A recipe says in a comment `# tiny: {...}` which arguments make its model small enough to test.
"""

import importlib
import re
from pathlib import Path

import contract
import pytest
import torch
import yaml
from torch import nn

from audiomask import weights
from audiomask.streaming import Streaming, StreamingModel

ROOT = Path(__file__).parents[2]
RECIPES = sorted(ROOT.glob("recipes/*/*.yaml"))


def network(recipe: Path) -> dict:
    """class_path and init_args of the recipe's network."""
    return yaml.safe_load(recipe.read_text())["model"]["init_args"]["model"]


def tiny(recipe: Path) -> StreamingModel:
    found = re.search(r"^# tiny: (\{.*?\})", recipe.read_text(), re.MULTILINE)
    assert found, f"{recipe} needs a line '# tiny: {{arguments that make its model small}}'"
    config = network(recipe)
    torch.manual_seed(0)
    arguments = config["init_args"] | yaml.safe_load(found[1])
    return weights.load_model({"class_path": config["class_path"], "init_args": arguments}, nn.Module).eval()


def streams(recipe: Path) -> bool:
    """Whether the recipe's network is one for signals; others are made to train from."""
    module, _, name = network(recipe)["class_path"].rpartition(".")
    return issubclass(getattr(importlib.import_module(module), name), Streaming)


@pytest.mark.parametrize(
    "recipe", [r for r in RECIPES if streams(r)], ids=lambda p: f"{p.parent.name}/{p.stem}"
)
@pytest.mark.parametrize("promise", contract.CONTRACT, ids=lambda f: f.__name__)
def test_contract(recipe, promise):
    promise(tiny(recipe))


@pytest.mark.parametrize(
    "recipe", [r for r in RECIPES if not streams(r)], ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_networks_to_train_from_are_made_small(recipe):
    assert 0 < sum(p.numel() for p in tiny(recipe).parameters()) < 100_000


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_recipe_resolves(recipe):
    """Every key is one that the classes know, and every class is there."""
    from audiomask.tasks.fit import parse

    cli = parse(recipe, [])
    assert (
        type(cli.model).__name__ == yaml.safe_load(recipe.read_text())["model"]["class_path"].split(".")[-1]
    )


def test_every_task_has_a_readme_that_names_its_recipes():
    for folder in {recipe.parent for recipe in RECIPES}:
        text = (folder / "README.md").read_text()
        for recipe in folder.glob("*.yaml"):
            assert recipe.name in text, f"{folder}/README.md does not mention {recipe.name}"
