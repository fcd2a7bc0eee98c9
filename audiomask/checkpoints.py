"""Load other people's checkpoints, without trusting them, into our class of the network.

A family is a module of `audiomask.models` with a function `from_authors(source) -> (arguments, tensors)` for
its class `AUTHORS_CLASS`, and the licence of the published weights, `AUTHORS_LICENCE`; either may be a
function of those arguments. Where the network takes spectrograms, `AUTHORS_FRONTEND` makes them.
`AUTHORS_OPTIONS` says of arguments that the weights do not tell by which keys they are found in a file.
`source` is what `read` returns, or, for a module with `AUTHORS_FILES`, the contents of those files of a
folder by name, or, for one with `AUTHORS_SEVERAL`, state dicts by the names of any files. Nothing is
unpickled but tensors and plain containers of tensors; bags of options are opened, and nothing in them is run.
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

    def __init__(self, *content: Any) -> None:
        pass


def _nothing(*content: Any) -> dict[str, Any]:
    return {}


# What may lie beside the weights: bags of values without code, as the classes are called in the files.
# Demucs keeps the class of the network, and the length of its window as a fraction; OmegaConf with each value
# what type it is to have, and a cache.
_DEMUCS = ("demucs.htdemucs.HTDemucs", "fractions.Fraction")
_OMEGACONF = (
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig")),
    *(f"omegaconf.base.{name}" for name in ("ContainerMetadata", "Metadata")),
    *(f"omegaconf.nodes.{name}Node" for name in ("Any", "String", "Integer", "Float", "Boolean")),
    *(f"builtins.{name}" for name in ("dict", "list", "tuple", "str", "int", "float", "bool")),
    "typing.Any",
)
BAGS: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    *((_Bag, name) for name in ("__main__.Config", *_DEMUCS, *_OMEGACONF)),
    (_nothing, "collections.defaultdict"),
]


class CheckpointError(AudioError):
    """An error for a checkpoint that cannot be read, or is not of the family that was named."""


def families() -> list[str]:
    """Return the modules of `audiomask.models` that know their authors' checkpoints."""
    names = [module.name for module in pkgutil.iter_modules(models.__path__)]
    return [name for name in names if hasattr(_module(name), "from_authors")]


def _module(family: str) -> ModuleType:
    return importlib.import_module(f"audiomask.models.{family}")


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(BAGS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds Python objects beside its tensors, or is damaged; it is not unpickled. Where you "
            "trust it, load it with its authors' code and save the bare state dict: "
            f"torch.save(model.state_dict(), ...) ({str(error).splitlines()[0]})"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error}") from error


def _tensors(path: Path, content: Any) -> Mapping[str, Tensor]:
    while isinstance(content, Mapping):
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return {str(key).removeprefix("module."): value for key, value in content.items()}
        content = next((content[key] for key in HOLDERS if key in content), None)
    raise CheckpointError(f"{path}: no state dict in it; looked under {', '.join(HOLDERS)}")


def _option(content: Any, place: Sequence[str]) -> float | None:
    """Return the number or truth value that lies at these keys; None without one."""
    for key in place:
        if isinstance(content, str):
            try:
                content = yaml.safe_load(content)
            except yaml.YAMLError:
                return None
        if isinstance(content, _Bag):
            content = vars(content).get("_content")
        if not isinstance(content, Mapping):
            return None
        content = content.get(key)
    content = vars(content).get("_val") if isinstance(content, _Bag) else content
    return content if isinstance(content, int | float) else None


def _graph(path: Path) -> onnx.GraphProto:
    try:
        return onnx.load(path, load_external_data=False).graph
    except (OSError, DecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as ONNX: {error}") from error


def read(paths: Sequence[str | Path]) -> tuple[Source, Any]:
    """Return a state dict (one file) or ONNX graphs (one or more), and all that is in the file.

    Raises CheckpointError otherwise.
    """
    files = [Path(path) for path in paths]
    for path in files:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
    if all(path.suffix == ".onnx" for path in files):
        return [_graph(path) for path in files], None
    if len(files) != 1:
        raise CheckpointError(f"{len(files)} files given; only ONNX graphs come in several")
    content = _content(files[0])
    return _tensors(files[0], content), content


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
    contents = {
        name: _options(path) if name.endswith(".yaml") else _tensors(path, _content(path))
        for name, path in ((name, files[name]) for name in names)
    }
    return contents, [files[name] for name in names]


def read_each(paths: Sequence[str | Path]) -> tuple[Contents, list[Path]]:
    """Return the state dicts of files by their names, and their paths.

    `paths` are files, or a folder, of which its .pth files are taken. Raises CheckpointError for files that
    are missing or cannot be read, or have one name.
    """
    files = [Path(path) for path in paths]
    if len(files) == 1 and files[0].is_dir():
        files = sorted(files[0].glob("*.pth"))
    for path in files:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
    if not files or len({path.name for path in files}) < len(files):
        raise CheckpointError(
            f"{', '.join(map(str, paths))}: give .pth files of different names, or their folder"
        )
    return {path.name: _tensors(path, _content(path)) for path in files}, files


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
    content: Any = None
    if hasattr(module, "AUTHORS_FILES"):
        source, files = read_folder(paths, module.AUTHORS_FILES)
    elif hasattr(module, "AUTHORS_SEVERAL"):
        source, files = read_each(paths)
    else:
        source, content = read(paths)
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
    for option, place in getattr(module, "AUTHORS_OPTIONS", {}).items():
        value = changes.get(option, _option(content, place))
        if value is None:
            raise CheckpointError(f"{names}: nothing in it says what {option} is; give --arg {option}=VALUE")
        arguments[option] = value
    kind, licence = (
        entry(arguments) if callable(entry) else entry
        for entry in (module.AUTHORS_CLASS, module.AUTHORS_LICENCE)
    )
    name = f"{module.__name__}.{kind}"
    config: dict[str, Any] = {"class_path": name, "init_args": {**arguments, **changes}}
    if hasattr(module, "AUTHORS_FRONTEND"):
        config[weights.FRONTEND] = module.AUTHORS_FRONTEND
    model = weights.load_model(config, nn.Module)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        words = " ".join(str(error).split())
        raise CheckpointError(f"{names}: does not fit {name}({config['init_args']}): {words}") from error
    digest = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files]
    card = {
        "description": f"{kind}, the authors' weights",
        "licence": licence,
        "training": {"imported": [Path(p).name for p in files], "sha256": digest},
    }
    return model.eval(), config, card
