"""Export a streaming model as one self-describing ONNX file that provably agrees with torch.

The graph's inputs are the model's stream ports `[B, C, T]` (any batch, any multiple of the hop), its controls
`[B]` or `[B, n]`, then its state, packed by type into `state_f32` and `state_i64` `[B, n]`; its outputs are
the output ports and `next_state_*`. The metadata key `audiomask` holds the document of `export/document.py`.
Before a file is written, its graph runs whole and in random pieces against torch; it is refused where the two
differ by more than 1e-5 of the peak.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audiomask.audio import make_folder, replacing
from audiomask.export.document import describe
from audiomask.export.graph import build, to_bytes
from audiomask.export.proof import accepted, compare
from audiomask.runtime.artifact import KEY
from audiomask.streaming import StreamingModel


def export(model: StreamingModel, path: str | Path, config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Write `model` to `path` and return its document (`describe`), or raise ExportError."""
    path = Path(path)
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    document = describe(model, config, **more)
    graph = build(model)
    name, error = max(compare(model, to_bytes(graph)).items(), key=lambda item: item[1])
    document["equality"] = accepted(error, path, f"ONNX Runtime differs from torch in {name}")
    graph.metadata_props[KEY] = json.dumps(document, default=str)
    make_folder(path.parent)
    with replacing(path) as part:
        part.write_bytes(to_bytes(graph))
    return document
