"""A callback of a trainer that writes where the time of every step goes; see training.py beside it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback

import audiomask


class StepClock(Callback):
    """Writes the seconds of every part of every step to `file`, with its processor time and its loss."""

    def __init__(self, file: str):
        self.file, self.steps, self.last = Path(file), [], 0.0
        self.now: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Count the time since the last lap as that of `part`."""
        now = time.perf_counter()
        self.now[part] = self.now.get(part, 0.0) + now - self.last
        self.last = now

    def on_train_start(self, trainer: Any, task: Any) -> None:
        names = {"simulation": "simulate", "model": "network", "objective": "loss"}
        names |= {"degrade": "simulate", "loss": "loss"}  # up to 08a0d69
        for name, part in names.items():
            module = getattr(task, name, None)
            module = getattr(module, "sent", module)  # of what packets are lost
            if hasattr(module, "register_forward_hook"):
                module.register_forward_pre_hook(lambda *_: self.lap("other"))
                module.register_forward_hook(lambda *_, part=part: self.lap(part))
        self.last, self.cpu = time.perf_counter(), time.process_time()

    def on_train_batch_start(self, *_: Any) -> None:
        self.lap("data")

    def on_before_backward(self, *_: Any) -> None:
        self.lap("other")

    def on_after_backward(self, *_: Any) -> None:
        self.lap("gradient")

    def on_before_zero_grad(self, *_: Any) -> None:
        self.lap("other")

    def on_train_batch_end(self, trainer: Any, task: Any, outputs: Any, *_: Any) -> None:
        self.lap("optimizer")
        cpu = time.process_time()
        self.steps.append({**self.now, "cpu": cpu - self.cpu, "value": float(outputs["loss"])})
        self.now, self.cpu = {}, cpu

    def on_train_end(self, *_: Any) -> None:
        found = {"package": str(Path(audiomask.__file__).parent), "steps": self.steps}
        self.file.write_text(json.dumps(found))
