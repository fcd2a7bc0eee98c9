"""Describe a model in the JSON document that its file carries."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import torch

from audiomask import __version__
from audiomask.export.packing import PACKS, packs_of
from audiomask.runtime.artifact import FORMAT
from audiomask.streaming import StreamingModel, whole
from audiomask.weights import fingerprint


def describe(model: StreamingModel, config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the JSON document; `more`: version, description, licence, training, scores."""
    states = []
    for dtype, leaves in packs_of(model).items():
        row = torch.cat([tensor.flatten() for _, tensor in leaves]).numpy()
        raw = row.astype(row.dtype.newbyteorder("<")).tobytes()
        states.append(
            {
                "name": PACKS[dtype],
                "dtype": row.dtype.name,
                "shape": [row.size],
                "initial": {"base64": base64.b64encode(raw).decode()} if row.any() else None,
                "layout": [[name, list(tensor.shape[1:])] for name, tensor in leaves],
            }
        )
    return {
        "format": FORMAT,
        "name": model.name,
        "task": model.task,
        "version": more.pop("version", __version__),
        "description": more.pop("description", ""),
        "sample_rate": model.sample_rate,
        "hop": model.hop,
        "delay": whole(model.delay, "delay"),
        "latency": whole(model.latency, "latency"),
        "inputs": [port.document() for port in model.inputs],
        "outputs": [port.document() for port in model.outputs],
        "states": states,
        **more,
        "config": config,
        "hash": fingerprint(model, config),
    }
