"""Load other people's checkpoints, without trusting them, into our class of the network.

A family is a module of `audiomask.models` with a function `from_authors(source) -> (arguments, tensors)` for
its class `AUTHORS_CLASS`, and the licence of the published weights, `AUTHORS_LICENCE`, or a function of those
arguments that returns it; where the network takes spectrograms, `AUTHORS_FRONTEND` makes them. `source` is
what `read` returns, or, for a module with `AUTHORS_FILES`, the contents of those files of a folder by name.
Nothing is unpickled but tensors and plain containers of tensors.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import inspect
import pickle
import pkgutil
import types
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import onnx
import torch
import yaml
from google.protobuf.message import DecodeError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from audiomask import models, weights
from audiomask.audio import AudioError

Source: TypeAlias = Mapping[str, Tensor] | Sequence[onnx.GraphProto]
Contents: TypeAlias = Mapping[str, Mapping[str, Any]]

# The keys under which trainers keep the network, the better one first.
HOLDERS = ("best_state", "ema", "model_state_dict", "state_dict", "model", "generator", "state")


class _Bag:
    """A class without code, that stands for those in which authors keep their options."""


# What may lie beside the weights: bags of values without code, as the classes are called in the files.
BAGS: list[Any] = [argparse.Namespace, types.SimpleNamespace, (_Bag, "__main__.Config")]


class CheckpointError(AudioError):
    """An error for a checkpoint that cannot be read, or is not of the family that was named."""


def families() -> list[str]:
    """Return the modules of `audiomask.models` that know their authors' checkpoints."""
    names = [module.name for module in pkgutil.iter_modules(models.__path__)]
    return [name for name in names if hasattr(_module(name), "from_authors")]


def _module(family: str) -> ModuleType:
    return importlib.import_module(f"audiomask.models.{family}")


def _tensors(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(BAGS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds Python objects beside its tensors, or is damaged; it is not unpickled. Where you "
            "trust it, load it with its authors' code and save the bare state dict: "
            f"torch.save(model.state_dict(), ...) ({str(error).splitlines()[0]})"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error}") from error
    while isinstance(content, Mapping):
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return {str(key).removeprefix("module."): value for key, value in content.items()}
        content = next((content[key] for key in HOLDERS if key in content), None)
    raise CheckpointError(f"{path}: no state dict in it; looked under {', '.join(HOLDERS)}")


def _graph(path: Path) -> onnx.GraphProto:
    try:
        return onnx.load(path, load_external_data=False).graph
    except (OSError, DecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as ONNX: {error}") from error


def read(paths: Sequence[str | Path]) -> Source:
    """Return a state dict (one file) or ONNX graphs (one or more); CheckpointError otherwise."""
    files = [Path(path) for path in paths]
    for path in files:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
    if all(path.suffix == ".onnx" for path in files):
        return [_graph(path) for path in files]
    if len(files) != 1:
        raise CheckpointError(f"{len(files)} files given; only ONNX graphs come in several")
    return _tensors(files[0])


def read_folder(paths: Sequence[str | Path], names: Sequence[str]) -> tuple[Contents, list[Path]]:
    """Return the contents of the files `names` of a folder, and their paths.

    They are state dicts, and mappings in YAML. `paths` are the folder, or all of its files. Raises
    CheckpointError for files that are missing or cannot be read.
    """
    given = [Path(path) for path in paths]
    if len(given) == 1 and given[0].is_dir():
        given = [given[0] / name for name in names]
    files = {path.name: path for path in given}
    if set(files) != set(names) or len(given) != len(names):
        raise CheckpointError(
            f"{', '.join(map(str, paths))}: give the folder, or each of its files: {', '.join(names)}"
        )
    for path in given:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
    content = {name: (_options if name.endswith(".yaml") else _tensors)(files[name]) for name in names}
    return content, [files[name] for name in names]


def _options(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: no options in it, which are `name: value` by line")
    return content


def load(
    family: str, paths: Sequence[str | Path], **changes: Any
) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """Return our model with their weights, its config, and its card's licence and origin.

    `changes` replace arguments that the weights do not determine. Raises CheckpointError where file and
    family do not belong together.
    """
    if family not in families():
        raise CheckpointError(f"no importer for {family!r}; there are: {', '.join(families())}")
    module = _module(family)
    source: Source | Contents
    files: Sequence[str | Path] = paths
    if hasattr(module, "AUTHORS_FILES"):
        source, files = read_folder(paths, module.AUTHORS_FILES)
    else:
        source = read(paths)
    names = ", ".join(Path(path).name for path in files)
    (takes,) = inspect.signature(module.from_authors).parameters.values()
    graphs = "GraphProto" in str(takes.annotation)
    if graphs == isinstance(source, Mapping):
        raise CheckpointError(
            f"{names}: not a checkpoint of {family}, whose weights come as "
            + ("ONNX graphs" if graphs else "a state dict")
        )
    try:
        arguments, tensors = module.from_authors(source)
    except (KeyError, IndexError, ValueError) as error:  # any other is a mistake of ours
        raise CheckpointError(f"{names}: not a checkpoint of {family}: {error!r}") from error
    name = f"{module.__name__}.{module.AUTHORS_CLASS}"
    config: dict[str, Any] = {"class_path": name, "init_args": {**arguments, **changes}}
    if hasattr(module, "AUTHORS_FRONTEND"):
        config[weights.FRONTEND] = module.AUTHORS_FRONTEND
    model = weights.load_model(config, nn.Module)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        words = " ".join(str(error).split())
        raise CheckpointError(f"{names}: does not fit {name}({config['init_args']}): {words}") from error
    licence = module.AUTHORS_LICENCE
    digest = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files]
    card = {
        "description": f"{module.AUTHORS_CLASS}, the authors' weights",
        "licence": licence(arguments) if callable(licence) else licence,
        "training": {"imported": [Path(p).name for p in files], "sha256": digest},
    }
    return model.eval(), config, card
