"""Train networks that classify bins, by cross-entropy with the ideal binary mask.

In a recipe, in the place of `Signals`:

    model:
      class_path: audiomask.tasks.masks.IdealMasks
      init_args:
        model: {class_path: audiomask.models.ibm_cnn.IBMCNN}
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from audiomask.data.example import Example, Simulation
from audiomask.losses import Objective
from audiomask.models.ibm_cnn import IBMCNN
from audiomask.tasks.signals import Signals


class IdealMasks(Signals):
    """Trains a network to tell the bins of one sound in a mixture from the rest.

    Args:
        model: Network to train.
        objective: Is measured in validation, on the sounds that come out; it trains nothing.
        simulation: See `Signals`.
        reconstruct: Train it as an autoencoder of the bins that are that sound, to start from.
        signals: See `Signals`.
    """

    def __init__(
        self,
        model: IBMCNN,
        objective: Objective,
        simulation: Simulation,
        reconstruct: bool = False,
        **signals: Any,
    ):
        super().__init__(model, objective, simulation, **signals)
        self.reconstruct = reconstruct

    def compare(self, example: Example) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return the cross-entropy, its parts, and in validation the network's output."""
        mixture = example.given[self.model.inputs[0].name]
        wanted = example.wanted[self.model.outputs[0].name]
        value = self.model.cross_entropy(mixture, wanted, self.reconstruct)
        own = {"cross_entropy": value.detach(), "loss": value.detach()}
        if self.training:
            return value, own, {}
        _, parts, made = super().compare(example)
        return value, parts | own, made
