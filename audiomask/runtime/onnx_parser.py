"""Read what an ONNX file holds from its bytes, without running or trusting any of it.

ONNX is protobuf: fields of (number << 3 | wire type) followed by a varint (type 0), 8 bytes (1), a length and
that many bytes (2) or 4 bytes (5). Field numbers are from onnx.proto (Apache-2.0). ONNX Runtime would follow
external data to any path and complain about foreign operators late, so this module looks for both first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

METADATA = 14  # ModelProto.metadata_props
MAX_DEPTH = 16  # subgraphs within subgraphs; real models have two or three


class MalformedError(ValueError):
    """The bytes are not an ONNX model."""


@dataclass
class Contents:
    metadata: dict[str, str] = field(default_factory=dict)
    operators: set[tuple[str, str]] = field(default_factory=set)  # (domain, type)
    external: list[str] = field(default_factory=list)  # tensors whose data lie in another file
    nodes: int = 0


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for n, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * n
        if byte < 0x80:
            return value, at + n + 1
    raise MalformedError("a number is cut off")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, integer or bytes) for each field of one message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise MalformedError(f"wire type {wire} does not exist")
        if at + length > len(data):
            raise MalformedError("a field is cut off")
        yield number, data[at : at + length]
        at += length


def _message(value: int | memoryview, what: str = "a message") -> memoryview:
    if isinstance(value, int):
        raise MalformedError(f"a number where {what} belongs")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value, "text")).decode("utf-8", errors="replace")


def _property(value: int | memoryview) -> dict[str, str]:
    entry = {n: _text(v) for n, v in _fields(_message(value)) if n in (1, 2)}  # key, value
    return {entry.get(1, ""): entry.get(2, "")}


def metadata(data: Any) -> dict[str, str]:
    """Return only the metadata of `data` (bytes, or a file in memory), skipping the graph."""
    found: dict[str, str] = {}
    for number, value in _fields(memoryview(data)):
        if number == METADATA:
            found |= _property(value)
    return found


# The messages that are walked, by kind: the kind of what each of these fields holds.
_PARTS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},  # operators, which count as the graph's
    "graph": {1: "node", 5: "tensor", 15: "sparse"},  # nodes, initializers
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},  # values, indices
    "tensor": {},
}
_TEXTS = {"node": (4, 7), "tensor": (8,)}  # type and domain; name


def parse(data: bytes) -> Contents:
    """Return a model's metadata, operators and external tensors; raise `MalformedError`."""
    contents = Contents(metadata(data))
    _walk("model", memoryview(data), contents, -1)
    return contents


def _walk(kind: str, data: memoryview, contents: Contents, depth: int) -> None:
    depth += kind == "graph"
    if depth > MAX_DEPTH:
        raise MalformedError(f"graphs are nested more than {MAX_DEPTH} deep")
    parts = _PARTS[kind]
    external, graphs = False, 0
    words: dict[int, str] = {}
    for number, value in _fields(data):
        if number in parts:
            graphs += parts[number] == "graph"
            _walk(parts[number], _message(value), contents, depth)
        elif number in _TEXTS.get(kind, ()):
            words[number] = _text(value)
        elif kind == "tensor" and (number == 13 or (number == 14 and value == 1)):
            external = True  # external_data, data_location EXTERNAL
    if kind == "model" and not graphs:
        raise MalformedError("there is no graph in it")
    if kind == "node":
        contents.nodes += 1
        contents.operators.add((words.get(7, ""), words.get(4, "")))
    if external:
        contents.external.append(words.get(8) or "unnamed")
