"""Export a streaming model as a `.pt2` file, for servers that have torch and a GPU.

The file is `torch.export`'s program of one step of a fixed number of hops, for any number of streams at once:
stream ports `[B, C, T]`, controls `[B]` or `[B, n]` and the packed states `[B, n]` go in; outputs and the
next states come out, as in the ONNX artifact. The JSON document lies in the archive as `audiomask.json`, with
the entry `program` that says how many hops a step has. The time is fixed because `torch.export` freezes it at
torch's recurrent operators, which are fastest on a GPU.

`torch.export.load` unpickles what a file asks it to, evaluates its size expressions as Python, and resolves
any name below `torch` as an operator. `load` therefore reads the archive first and refuses pickles, operators
other than torch's own on tensors, and expressions other than arithmetic of sizes.
"""

from __future__ import annotations

import copy
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiomask.audio import AudioError, make_folder
from audiomask.export.document import describe
from audiomask.export.packing import Packed, example, folded, pack_state, port_names
from audiomask.export.proof import accepted, differences
from audiomask.ports import Port
from audiomask.runtime.artifact import FORMAT, KEY, READ, StateSpec
from audiomask.streaming import StreamingModel, whole

DOCUMENT = f"{KEY}.json"
MAX_BATCH = 65536
MEMBERS = (
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)|models/model\.json|"
    rf"data/(weights|constants)/((weight|tensor)_\d+|model_(weights|constants)_config\.json)|"
    rf"data/sample_inputs/model\.pt|extra/{re.escape(DOCUMENT)}"
)
EXPRESSION = r"((Mul|Add|Min|Max|Mod|FloorDiv|Integer|Symbol)\(|'s\d+'|(positive|integer)=True|-?\d+|[), ])+"
OPERATOR = r"torch\.ops\.aten\.(?!from_file)\w+\.\w+"
FORBIDDEN = ("as_custom_obj", "as_graph", "as_operator", "as_opaque_obj", "custom_obj", "token")


class ProgramError(AudioError):
    """An error for a `.pt2` file that must not be loaded, or a call that does not fit it."""


def export(
    model: StreamingModel, path: str | Path, config: Mapping[str, Any], hops: int = 1, **more: Any
) -> dict[str, Any]:
    """Write `model` to `path` for steps of `hops` hops; return its document.

    `more` is as in `describe`. Raises ExportError, with nothing written, for a file that differs too much.
    """
    path = Path(path)
    model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    document = describe(model, config, **more)
    document["program"] = {"hops": hops, "torch": torch.__version__}
    model = folded(model)
    port_names(model)
    values = [
        *example(model, 2, hops, torch.Generator().manual_seed(0)).values(),
        *pack_state(model.initial_state(2)).values(),
    ]
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with torch.no_grad():
        program = torch.export.export(
            Packed(model), tuple(values), dynamic_shapes=(tuple({0: batch} for _ in values),), strict=False
        )
    for module in program.graph_module.modules():  # stack traces hold paths of this machine
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta = {key: value for key, value in node.meta.items() if key in ("val", "tensor_meta")}
    program._example_inputs = None  # torch would pickle them
    program._guards_code = []  # Python text; `Program.step` checks shapes
    make_folder(path.parent)
    temporary = path.with_name(f".{path.stem}.part.pt2")
    try:
        torch.export.save(program, temporary, extra_files={DOCUMENT: json.dumps(document, default=str)})
        error = compare(model, load(temporary))
        document["equality"] = accepted(error, path, "the program differs from the model")
        torch.export.save(program, temporary, extra_files={DOCUMENT: json.dumps(document, default=str)})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return document


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _entries(item)
    elif isinstance(value, list):
        for item in value:
            yield from _entries(item)


def _inspect(data: bytes) -> dict[str, Any]:
    """Return the document of an archive with nothing to execute; else raise ValueError."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        roots = {name.partition("/")[0] for name in names}
        if len(roots) != 1 or len(set(names)) != len(names):
            raise ValueError("its members are not one folder")
        root = roots.pop() + "/"
        strange = [name for name in names if not re.fullmatch(MEMBERS, name.removeprefix(root))]
        if strange:
            raise ValueError(f"it holds {strange[0]}")

        def read(name: str) -> Any:
            return json.loads(archive.read(root + name))

        if archive.getinfo(f"{root}data/sample_inputs/model.pt").file_size:
            raise ValueError("it holds pickled sample inputs")
        for part in ("weights", "constants"):
            for name, entry in read(f"data/{part}/model_{part}_config.json")["config"].items():
                tensor = re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"])
                if entry["use_pickle"] is not False or not tensor:
                    raise ValueError(f"{name} is a pickle")
        model = read("models/model.json")
        document = read(f"extra/{DOCUMENT}")
    if model["guards_code"]:
        raise ValueError("it holds Python code (guards)")
    for key, value in _entries(model):
        if key in FORBIDDEN and value:
            raise ValueError(f"it holds {key}")
        if key == "target" and not re.fullmatch(OPERATOR, str(value)):
            raise ValueError(f"it calls {value}")
        if key == "metadata" and value:
            raise ValueError("its nodes have metadata")
        if key == "expr_str" and not (isinstance(value, str) and re.fullmatch(EXPRESSION, value)):
            raise ValueError(f"it holds the expression {str(value)[:60]}")
    if not isinstance(document, dict) or document.get("format") not in READ or "program" not in document:
        raise ValueError(f"{DOCUMENT} in it is not of format {FORMAT}")
    return document


def load(path: str | Path, device: str | torch.device = "cpu") -> Program:
    """Load a `.pt2` of `export` on `device`; any other raises ProgramError before it could run."""
    path = Path(path)
    try:
        data = path.read_bytes()
        document = _inspect(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ProgramError(
            f"{path}: is no program that audiomask wrote, and is not loaded: {error}; write it with: "
            "audiomask export RUN -o FILE.pt2"
        ) from None
    program = torch.export.load(io.BytesIO(data))
    if torch.device(device).type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    return Program(path, document, program.module(), torch.device(device))


class Program:
    """A loaded `.pt2` that runs any number of streams.

        state = program.initial_state(batch)
        outputs, state = program.step({"audio": x}, state)

    Each `step` takes `hops` of `meta["hop"]` samples.
    """

    def __init__(self, path: Path, meta: dict[str, Any], module: Any, device: torch.device) -> None:
        self.path, self.meta, self.module, self.device = path, meta, module, device
        self.hops = int(meta["program"]["hops"])
        self.inputs = [Port.parse(entry) for entry in meta["inputs"]]
        self.outputs = [Port.parse(entry) for entry in meta["outputs"]]
        self.states = [StateSpec.parse(entry) for entry in meta["states"]]

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """Return the packed states of `batch` streams at their start."""
        return {spec.name: torch.from_numpy(spec.rows(batch)).to(self.device) for spec in self.states}

    @torch.no_grad()
    def step(
        self, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Run one step of `hops` hops; return outputs by name and the next state.

        `inputs` has streams `[B, C, T]` and controls by port; missing controls take their default. Raises
        ProgramError for inputs that lack a stream or have another shape.
        """
        unknown = set(inputs) - {port.name for port in self.inputs}
        if unknown:
            raise ProgramError(f"{self.path}: has no input {sorted(unknown)[0]}")
        first = inputs.get(self.inputs[0].name)
        batch = 0 if first is None else len(first)
        values: list[Tensor] = []
        for port in self.inputs:
            given = inputs.get(port.name)
            if port.is_stream:
                shape = [batch, port.channels, whole(self.hops * self.meta["hop"] * port.rate)]
            else:
                shape = [batch] if port.channels == 1 else [batch, port.channels]
                if given is None and port.default is not None:
                    given = torch.full(shape, float(port.default), device=self.device)
            if given is None or list(given.shape) != shape or not batch:
                have = "missing" if given is None else list(given.shape)
                raise ProgramError(f"{self.path}: {port.name} is {have}, a step takes {shape}")
            values.append(given.to(self.device))
        for spec in self.states:
            if tuple(state[spec.name].shape) != (batch, *spec.shape):
                raise ProgramError(f"{self.path}: {spec.name} is not the state of {batch} streams")
            values.append(state[spec.name])
        names = [port.name for port in self.outputs] + [spec.name for spec in self.states]
        found = dict(zip(names, self.module(*values), strict=True))
        return found, {spec.name: found.pop(spec.name) for spec in self.states}


@torch.no_grad()
def compare(model: StreamingModel, program: Program, seed: int = 0) -> float:
    """Return the greatest difference in any output or state, relative to its peak.

    `model` runs whole, on the CPU, and `program` step by step, over several numbers of streams and steps.
    Integers are judged as by `audiomask.export`. On a GPU, products are taken in full float32 here.
    """

    def steps(hops: int) -> list[list[int]]:
        return [[program.hops] * (hops // program.hops)]

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    sizes = [(batch, count * program.hops) for batch, count in ((1, 1), (2, 3), (5, 4), (3, 9))]
    generator = torch.Generator().manual_seed(seed)
    try:
        return max(differences(model, program, sizes, steps, generator).values())
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
