"""audiomask.export with a model that is told what is lost: the file computes the same, told of losses."""

import concealer
import numpy as np
import pytest
import torch

from audiomask.export.onnx_file import export
from audiomask.export.packing import ExportError, example
from audiomask.export.proof import check_file
from audiomask.runtime.artifact import Artifact
from audiomask.runtime.session import Session
from audiomask.streaming import Delay, Port, StreamingModel


class Repeat(StreamingModel):
    """As `concealer.repeat`, `concealer.DELAY` samples late."""

    name, task = "repeat_16k", "conceal"
    inputs = (Port("audio"), Port("lost", type="lost"))
    outputs = (Port("concealed"),)
    hop, delay, reach = concealer.HOP, concealer.DELAY, concealer.REACH

    def __init__(self):
        super().__init__()
        self.wait = Delay(self.delay, 1)

    def initial_state(self, batch, device=None, dtype=torch.float32):
        past = torch.zeros(batch, 1, self.reach, device=device, dtype=dtype)
        return {"past": past, "wait": self.wait.initial_state(batch, device, dtype)}

    def step(self, x, state, *, lost):
        received = torch.cat([state["past"], x * (1 - lost)], 2)
        y = torch.where(lost > 0, received[:, :, : -self.reach], x)
        y, wait = self.wait.step(y, state["wait"])
        return y, {"past": received[:, :, -self.reach :], "wait": wait}


def test_examples_lose_bursts():
    lost = example(Repeat(), 3, 40, torch.Generator().manual_seed(0))["lost"]
    assert lost.shape == (3, 1, 40 * concealer.HOP)
    assert set(lost.unique().tolist()) == {0, 1}
    edges = (lost.diff(dim=2) != 0).nonzero()[:, 2] + 1
    assert (edges % concealer.HOP != 0).any()
    assert len(edges) < 80


def test_a_model_with_a_mask_becomes_a_file(tmp_path):
    """Export, check, play; and a file that ignores what it is told is found out."""
    document = export(Repeat(), tmp_path / "repeat.onnx", {})
    lost = {"name": "lost", "kind": "stream", "type": "lost", "channels": 1, "rate": "1"}
    assert document["inputs"][1] == lost
    artifact = Artifact.load(tmp_path / "repeat.onnx")
    assert (artifact.task, artifact.lost.name) == ("conceal", "lost")
    assert check_file(Repeat(), artifact.path, 0.5) == 0
    rng = np.random.default_rng(0)
    x, lost = rng.standard_normal((1, 5000)).astype(np.float32), np.repeat(rng.random(50) < 0.3, 100)
    s = Session(artifact)
    assert np.array_equal(np.concatenate([s.feed(x, lost), s.flush()[None]], 1), concealer.repeat(x, lost))
    other = Repeat()
    other.reach = 160
    with pytest.raises(ExportError, match="differs from torch"):
        check_file(other, artifact.path, 0.5)
