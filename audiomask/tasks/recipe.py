"""Fill in what a recipe says once, before anything is built from it."""

from __future__ import annotations

from typing import Any

from audiomask import weights
from audiomask.audio import AudioError


def complete(config: Any) -> None:
    """Put the network's sample rate and stems, and `data.segment`, where they are not written.

    That is the data module, and the simulation with the ones inside it.

    Args:
        config: Resolved configuration of a training, which is changed.

    Raises:
        AudioError: A place already has another value for one of them.
    """
    task, data = config.model.init_args, config.data.init_args
    maker = task.get("frontend") or task.model
    own = getattr(weights.class_of(maker.class_path), "sample_rate", None)  # set by networks for one rate
    known = {
        "sample_rate": ("the sample rate of the model", maker.get("init_args", {}).get("sample_rate", own)),
        "segment": ("data.segment", data.get("segment")),
        "stems": ("those of the model are", maker.get("init_args", {}).get("stems")),
    }
    places, part, place = {"data": data}, task.get("simulation"), "model.simulation"
    while part is not None:
        places[place] = part.get("init_args", {})
        part, place = places[place].get("sent"), f"{place}.sent"
    for place, arguments in places.items():
        for name in [name for name in known if name in arguments]:
            source, value = known[name]
            if arguments[name] is None:
                arguments[name] = value
            elif value not in (None, arguments[name]):
                raise AudioError(f"{place}.{name} is {arguments[name]} and {source} {value}; leave it out")
