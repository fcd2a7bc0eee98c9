"""Save and load models as folders of `config.json` and `model.safetensors`.

A config says which class and which arguments, as LightningCLI writes it for a model: `{"class_path":
"audiomask.models.x.X", "init_args": {...}}`, nested where an argument is itself an object. For a network on
spectrograms it also says, as `frontend`, what makes them. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from audiomask.audio import AudioError, make_folder, replacing
from audiomask.streaming import Streaming

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FRONTEND = "frontend"  # a key of a config beside class_path and init_args


class WeightsError(AudioError):
    """An error for a model folder or config that cannot be used."""


def _build(value: Any) -> Any:
    if isinstance(value, Mapping):
        nested = "class_path" in value
        return _instance(value) if nested else {key: _build(item) for key, item in value.items()}
    return [_build(item) for item in value] if isinstance(value, list | tuple) else value


def class_of(path: Any) -> type[nn.Module]:
    module, _, name = str(path).rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise WeightsError(
            f"no class {path!r}: {error}; class_path is a Python path, package.module.Class"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise WeightsError(f"{path} is not a model: only classes of torch modules are built from a config")
    return cls


def _instance(config: Mapping[str, Any]) -> Any:
    path = config["class_path"]
    if unknown := set(config) - {"class_path", "init_args"}:
        raise WeightsError(f"{path}: unknown keys {sorted(unknown)} beside class_path and init_args")
    cls = class_of(path)
    try:
        return cls(**_build(config.get("init_args") or {}))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: {error}; see its arguments in `init_args`") from error


def load_model(config: Mapping[str, Any], kind: type[nn.Module] = Streaming) -> Any:
    """Build a model of class `kind`, with fresh weights; WeightsError for a wrong config."""
    if "class_path" not in config:
        raise WeightsError(f"a model config needs class_path; this one has {sorted(config)}")
    model = _instance({key: value for key, value in config.items() if key != FRONTEND})
    if not isinstance(model, kind):
        raise WeightsError(f"{config['class_path']} is not a streaming model")
    return model


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of `model`, on the CPU.

    All processes have to call this together: tensors that are divided among them are gathered.
    """
    state = {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in model.state_dict().items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def save(folder: str | Path, model: nn.Module | dict[str, Tensor], config: Mapping[str, Any]) -> Path:
    """Write `model`, or its `tensors`, and its config to `folder`; each file whole or not."""
    folder = Path(folder)
    make_folder(folder)
    state = tensors(model) if isinstance(model, nn.Module) else model
    with replacing(folder / WEIGHTS) as part:
        save_file(state, part)
    with replacing(folder / CONFIG) as part:
        part.write_text(json.dumps(config, indent=2, default=str) + "\n")
    return folder


def part_configs(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, by name, the configs of the streaming models that make up a network.

    A network names their classes as `parts`, such as `{"enc": "codec.Encoder", "dec": "codec.Decoder"}`. They
    take its arguments, and the front end where they have one, and hold its weights (`part_tensors`). A
    network without parts is its only one, "". Raises WeightsError where no front end is given.
    """
    path = config.get("class_path")
    parts: Mapping[str, str] = getattr(class_of(path), "parts", {}) if path else {}
    if path in parts.values():  # a part, which inherits them
        parts = {}
    found = {}
    for name, path in parts.items():
        arguments = dict(config.get("init_args") or {})
        if FRONTEND in inspect.signature(class_of(path).__init__).parameters:
            if FRONTEND in config:
                arguments.setdefault(FRONTEND, config[FRONTEND])
            if FRONTEND not in arguments:
                raise _no_frontend(config)
        found[name] = {"class_path": path, "init_args": arguments}
    return found or {"": dict(config)}


def part_tensors(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors of a part `name`: those of the child of that name, else all."""
    own = {key.removeprefix(f"{name}."): x for key, x in state.items() if key.startswith(f"{name}.")}
    return own or dict(state)


def load_frontend(folder: str | Path, **changes: Any) -> Any:
    """Return the front end of the network in `folder`; `changes` replace its arguments."""
    config, _ = read(folder)
    front = config.get(FRONTEND) or (config.get("init_args") or {}).get(FRONTEND)
    if front is None:
        raise _no_frontend(config)
    return load_model(_changed(front, changes), nn.Module)


def _changed(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "init_args": {**(config.get("init_args") or {}), **changes}}


def _no_frontend(config: Mapping[str, Any]) -> WeightsError:
    return WeightsError(
        f"{config['class_path']}: nothing says what makes its pictures; add "
        '"frontend": {"class_path": "audiomask.frontend.logmel.LogMel", "init_args": {"corpus": ...}} to '
        f"{CONFIG}"
    )


def load_parts(folder: str | Path, **changes: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return model and config, as `load` does, by part (`part_configs`); `changes` are for all."""
    config, state = read(folder)
    return {
        name: _assemble(folder, part, part_tensors(state, name), changes)
        for name, part in part_configs(config).items()
    }


def load(folder: str | Path, **changes: Any) -> tuple[Any, dict[str, Any]]:
    """Return the model in `folder` (or `folder/model`), in evaluation mode, and its config.

    A training run keeps it in `model`. `changes` replace arguments; the weights must still fit.
    """
    return _assemble(folder, *read(folder), changes)


def _designed(path: Path) -> dict[str, Any]:
    """Return the config of a model that has no weights; may raise `WeightsError`."""
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WeightsError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: holds no class_path and init_args of a model")
    if load_model(config, nn.Module).state_dict():
        raise WeightsError(f"{path}: this model has weights; give a folder that `audiomask train` wrote")
    return config


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return config and tensors of a folder, see `load`, or of a .yaml without weights."""
    folder = Path(folder)
    if folder.suffix == ".yaml":
        return _designed(folder), {}
    if not (folder / CONFIG).is_file() and (folder / "model" / CONFIG).is_file():
        folder = folder / "model"
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise WeightsError(
                f"{folder}: no {name}; give a folder that `audiomask train` or `weights.save` wrote"
            )
    try:
        return json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise WeightsError(f"{folder}: damaged: {error}") from error


def average(
    folders: Sequence[str | Path], shares: Sequence[float] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the first folder's config and the mean of all tensors, weighted by `shares`.

    The shares have the sum 1; None stands for equal ones. Counts, which are whole numbers, are the first
    folder's. Raises WeightsError for architectures that differ.
    """
    shares = shares or [1 / len(folders)] * len(folders)
    config, first = read(folders[0])
    found = {name: tensor.double() * shares[0] for name, tensor in first.items()}
    for folder, share in zip(folders[1:], shares[1:], strict=True):
        other, state = read(folder)
        shapes = [{name: (x.shape, x.dtype) for name, x in part.items()} for part in (first, state)]
        if other["class_path"] != config["class_path"] or shapes[0] != shapes[1]:
            raise WeightsError(f"{folder}: another architecture than that of {folders[0]}: no mean of them")
        for name, tensor in state.items():
            found[name] += tensor.double() * share
    mean = {k: found[k].to(x.dtype) if x.is_floating_point() else x for k, x in first.items()}
    return config, mean


def grow(folder: str | Path, config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the model of `folder` and a larger one by `config`, which computes the same.

    A class grows by its method `grow_from(small)`, which writes the weights of `small` into the larger model.
    Raises WeightsError for a class without one, or another class than `folder` holds.
    """
    small, _ = load(folder)
    large = load_model(config, nn.Module)
    if not hasattr(large, "grow_from") or type(large) is not type(small):
        raise WeightsError(
            f"{folder}: a {type(small).__name__} does not grow into a {type(large).__name__}; "
            "classes that grow have a method grow_from, and grow into themselves"
        )
    new = large.state_dict()
    for name, x in small.state_dict().items():
        if name not in new or any(m < n for m, n in zip(new[name].shape, x.shape, strict=True)):
            raise WeightsError(f"{name} would shrink: every size has to be at least that of {folder}")
    try:
        large.grow_from(small)
    except ValueError as error:
        raise WeightsError(f"{folder}: {error}") from error
    return small, large.eval()


def _assemble(
    folder: str | Path, config: dict[str, Any], state: dict[str, Tensor], changes: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    config = _changed(config, changes) if changes else config
    model = load_model(config, nn.Module)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{folder}: the weights do not fit the config: {error}") from error
    return model.eval(), config


def fingerprint(model: nn.Module, config: Mapping[str, Any]) -> str:
    """Return sha256 over the config (sorted keys) and each tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
