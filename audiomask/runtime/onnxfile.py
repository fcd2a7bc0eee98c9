"""Read what an ONNX file holds from its bytes, without running or trusting any of it.

ONNX is protobuf: fields of (number << 3 | wire type) followed by a varint (type 0), 8 bytes (1), a length and
that many bytes (2) or 4 bytes (5). Field numbers are from onnx.proto (Apache-2.0). ONNX Runtime would follow
a model's external data to any path and complain about foreign operators late, so both are looked for here
first.
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
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise MalformedError("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


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


def _text(value: int | memoryview) -> str:
    if isinstance(value, int):
        raise MalformedError("a number where text belongs")
    return bytes(value).decode("utf-8", errors="replace")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise MalformedError("a number where a message belongs")
    return value


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


def parse(data: bytes) -> Contents:
    """Return a model's metadata, operators and external tensors; raise `MalformedError`."""
    contents = Contents()
    graphs = 0
    for number, value in _fields(memoryview(data)):
        if number == 7:  # ModelProto.graph
            graphs += 1
            _graph(_message(value), contents, 0)
        elif number == METADATA:
            contents.metadata |= _property(value)
        elif number == 25:  # ModelProto.functions: their nodes (7) are operators and count as the graph's
            for n, v in _fields(_message(value)):
                if n == 7:
                    _node(_message(v), contents, 0)
    if not graphs:
        raise MalformedError("there is no graph in it")
    return contents


def _graph(data: memoryview, contents: Contents, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise MalformedError(f"graphs are nested more than {MAX_DEPTH} deep")
    for number, value in _fields(data):
        if number == 1:  # node
            _node(_message(value), contents, depth)
        elif number == 5:  # initializer
            _tensor(_message(value), contents)
        elif number == 15:  # sparse_initializer: values (1), indices (2)
            for n, v in _fields(_message(value)):
                if n in (1, 2):
                    _tensor(_message(v), contents)


def _node(data: memoryview, contents: Contents, depth: int) -> None:
    kind = domain = ""
    contents.nodes += 1
    for number, value in _fields(data):
        if number == 4:
            kind = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:  # attribute: t (5), g (6), tensors (10), graphs (11), sparse tensors (22, 23)
            for n, v in _fields(_message(value)):
                if n in (5, 10):
                    _tensor(_message(v), contents)
                elif n in (6, 11):
                    _graph(_message(v), contents, depth + 1)
                elif n in (22, 23):
                    for m, w in _fields(_message(v)):
                        if m in (1, 2):
                            _tensor(_message(w), contents)
    contents.operators.add((domain, kind))


def _tensor(data: memoryview, contents: Contents) -> None:
    name, external = "", False
    for number, value in _fields(data):
        if number == 8:
            name = _text(value)
        elif number == 13 or (number == 14 and value == 1):  # external_data, data_location EXTERNAL
            external = True
    if external:
        contents.external.append(name or "unnamed")
