"""Walk over the states of blocks: nested dicts and tuples of tensors, batch first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

State: TypeAlias = Any  # nested dict or tuple of tensors, or None


def tree_map(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply `function` to every tensor of a state, keeping its structure."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, Mapping):
        return {key: tree_map(function, value) for key, value in sorted(state.items())}
    return tuple(tree_map(function, value) for value in state)


def flatten_state(state: State, path: str = "") -> list[tuple[str, Tensor]]:
    """Return all tensors of a state with dotted names below `path`, ordered by name."""
    if state is None:
        return []
    if isinstance(state, Tensor):
        return [(path, state)]
    items = sorted(state.items()) if isinstance(state, Mapping) else enumerate(state)
    parts = (flatten_state(value, f"{path}.{key}" if path else str(key)) for key, value in items)
    return [leaf for part in parts for leaf in part]


def unflatten_state(like: State, tensors: Sequence[Tensor]) -> State:
    """Return `tensors` in the structure of `like`: the inverse of `flatten_state`."""
    rest = iter(tensors)
    state = tree_map(lambda _: next(rest), like)
    if next(rest, None) is not None:
        raise ValueError(f"{len(tensors)} tensors given for a state of {len(flatten_state(like))}")
    return state
