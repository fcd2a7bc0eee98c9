"""Runs a training by its recipe: LightningCLI, and what is kept beside the weights."""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, WeightAveraging
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.distributed.fsdp import fully_shard

from audiomask import weights
from audiomask.audio import AudioError, make_folder, replacing
from audiomask.nn import kernels
from audiomask.tasks import recipe

CHECKPOINT = timedelta(minutes=5)  # between two within an epoch: what a run that is killed loses at most


class KeepBest(Callback):
    """Writes the model when `monitor` is at its maximum, or without one at every validation.

    It is the model as validated, so averaged where weights are. The task adds to its config by `arguments()`.
    """

    def __init__(self, folder: Path, config: dict[str, Any], monitor: str | None = "val/select"):
        self.folder, self.config, self.monitor = folder, config, monitor
        self.best = -float("inf")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def on_validation_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.monitor is not None and self.monitor not in found:
            raise AudioError(
                f"the validation gave no {self.monitor}, by which the weights are chosen; it gave "
                f"{', '.join(sorted(found)) or 'nothing'}"
            )
        score = float(trainer.global_step) if self.monitor is None else found[self.monitor]
        if score > self.best:
            self.best = score
            self.write(trainer, task)

    def on_fit_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if self.best == -float("inf"):
            if trainer.is_global_zero:
                print("audiomask: no validation chose weights, so the last are kept", file=sys.stderr)
            self.write(trainer, task)

    def write(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Write the model as it is; called in all processes, of which one writes."""
        tensors = weights.tensors(task.model)  # type: ignore[arg-type]
        if trainer.is_global_zero:
            arguments: dict[str, Any] = getattr(task, "arguments", dict)()
            config = {**self.config, "init_args": {**self.config["init_args"], **arguments}}
            weights.save(self.folder, tensors, config)


class _Cli(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"seed_everything": 0})

    def before_instantiate_classes(self) -> None:
        recipe.complete(self.config)
        trainer = self.config["trainer"]
        trainer["precision"] = trainer["precision"] or precision(str(trainer["accelerator"]))


def precision(accelerator: str = "auto") -> str:
    """Return the precision that trains fastest on this hardware, for recipes that name none.

    It is bfloat16 where a GPU multiplies in it. A CPU gets float32, for which our layers are written
    (`nn.recurrent.trains_here`); many would emulate bfloat16.
    """
    gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def keep_memory() -> None:
    """Have glibc keep the memory that a step frees for the next one.

    By default it gives large blocks back to the system, and a tenth of a training step on a CPU goes into
    getting them again, page by page. One arena serves all threads.
    """
    if platform.libc_ver()[0] == "glibc":
        options = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1)}
        for option, value in options.values():
            ctypes.CDLL(None).mallopt(option, value)


def _git_commit() -> str | None:
    try:
        run = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("audiomask", "torch", "pytorch-lightning", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def parse(config: str | Path, options: Sequence[str] = ()) -> LightningCLI:
    """Return the objects that the recipe `config` with dotted overrides `options` describes.

    AudioError for what the classes refuse; argparse ends the program for an unknown key, with exit code 2.
    """
    try:
        return _Cli(
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            run=False,
            args=["--config", str(config), *options],
            # The data modules divide the rows among the processes themselves; `fit` writes the checkpoints.
            trainer_defaults={
                "logger": False,
                "use_distributed_sampler": False,
                "enable_checkpointing": False,
            },
        )
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise AudioError(f"{config}: {error}") from error


def fit(
    config: str | Path,
    out: Path,
    options: Sequence[str] = (),
    *,
    fresh: bool = False,
    command: Sequence[str] = (),
) -> pl.LightningModule:
    """Train by the recipe `config` with dotted overrides `options`, everything under `out`.

    A checkpoint in `out` is resumed unless `fresh`. AudioError for a recipe that does not resolve.
    """
    for name in ("config.yaml", "model"):
        if (out / name).exists() and not (out / "run.json").exists():
            raise AudioError(
                f"{out}/{name}: is of no training run, and would be replaced; choose another --out"
            )
    torch.set_float32_matmul_precision("high")
    cli = parse(config, options)
    if not cli.config["model"]["init_args"].get("compile"):  # the compiler takes and frees too much for that
        keep_memory()
    trainer, last = cli.trainer, out / "checkpoints" / "last.ckpt"
    if isinstance(trainer.strategy, FSDPStrategy):
        # Its shards are vectors: Muon finds no matrix in them, and weight decay no weight.
        raise AudioError(f"{config}: trainer.strategy fsdp flattens the weights; use ModelParallelStrategy")
    if isinstance(trainer.strategy, ModelParallelStrategy):
        _divide(cli)
    compiled = trainer.strategy.root_device.type == "cpu" and kernels.want()
    make_folder(out)
    if trainer.is_global_zero:  # of several processes one writes
        record = {
            "command": list(command),
            "git": _git_commit(),
            "versions": _versions(),
            "recipe": str(config),
            "processes": trainer.world_size,
            "precision": trainer.precision,
            "compiled_layers": compiled,
        }
        layers = "compiled layers" if compiled else "torch's layers (a C compiler, cc, makes it faster)"
        print(f"audiomask: training in {trainer.precision} with {layers}", file=sys.stderr)
        # first, as it says whose folder this is
        (out / "run.json").write_text(json.dumps(record, indent=2) + "\n")
        (out / "config.yaml").write_text(cli.parser.dump(cli.config, skip_none=False))

    model_config = _model_config(cli.config["model"])
    keep = KeepBest(out / "model", model_config, getattr(cli.model, "monitor", "val/select"))
    # One file, overwritten after every epoch and every few minutes.
    saver = partial(ModelCheckpoint, out / "checkpoints", "last", enable_version_counter=False)
    savers = [
        saver(every_n_epochs=1, save_on_train_epoch_end=True),
        saver(train_time_interval=CHECKPOINT, save_on_train_epoch_end=False),
    ]
    trainer.callbacks += [keep, *savers]  # type: ignore[attr-defined]
    trainer.loggers = [TensorBoardLogger(str(out), name="tensorboard", version="")]
    resume = last if last.exists() and not fresh else None
    gc.freeze()  # collections need not look at all that was imported and built, over and over
    torch.set_flush_denormal(True)  # products with numbers below 1e-38 are many times slower on a CPU
    try:
        trainer.fit(cli.model, cli.datamodule, ckpt_path=resume, weights_only=True if resume else None)
    finally:
        torch.set_flush_denormal(False)
        kernels.want(False)
        gc.unfreeze()
    if getattr(cli.datamodule, "test_dir", None):
        _test(cli, out)
    return cli.model


def _test(cli: LightningCLI, out: Path) -> None:
    """Judge the weights that were kept on the test data; `out/test.json` gets the task's report."""
    cli.model.model = weights.load(out / "model")[0]
    cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    if cli.trainer.is_global_zero:
        report = {"data": str(cli.datamodule.test_dir), **cli.model.report(cli.datamodule.classes())}
        with replacing(out / "test.json") as part:
            part.write_text(json.dumps(report, indent=1) + "\n")


def _divide(cli: LightningCLI) -> None:
    """Divide weights, gradients and the optimizer's state among the processes (FSDP2).

    The network is one unit: its blocks are stepped rather than called, so hooks on them would not run.
    AudioError for averaged weights, which Lightning does not divide, and for a mesh that gives some processes
    the rows of others (Lightning's default divides by machines only).
    """
    if any(isinstance(callback, WeightAveraging) for callback in cli.trainer.callbacks):  # type: ignore[attr-defined]
        raise AudioError(
            "trainer.strategy divides the weights, and averaged weights cannot be: "
            "add --trainer.callbacks null"
        )

    def configure_model() -> None:
        mesh = cli.model.device_mesh["data_parallel"]
        if mesh.size() != (world := cli.trainer.world_size):
            raise AudioError(
                f"trainer.strategy has data_parallel_size {mesh.size()} and there are {world} processes; "
                f"add data_parallel_size: {world}, tensor_parallel_size: 1"
            )
        fully_shard(cli.model.model, mesh=mesh)

    cli.model.configure_model = configure_model


def _model_config(task: Any) -> dict[str, Any]:
    """Return class_path and init_args of a task's network, and its front end where it has one."""

    def entry(value: Any) -> dict[str, Any]:
        value = value.as_dict() if hasattr(value, "as_dict") else dict(value)
        return {"class_path": value["class_path"], "init_args": value.get("init_args") or {}}

    parts = task["init_args"]
    front = {weights.FRONTEND: entry(parts["frontend"])} if parts.get("frontend") else {}
    return {**entry(parts["model"]), **front}
