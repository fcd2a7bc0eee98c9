"""Take apart the texts that clients send to `audiomask serve`; a wrong one raises `Refusal`."""

from __future__ import annotations

import json
from typing import Any

MAX_TEXT = 65536  # characters of a command


class Refusal(Exception):
    """An error that ends a socket; message and /metrics say `code`, the websocket `close`."""

    def __init__(self, code: str, close: int, words: str, counter: str = "errors_total"):
        super().__init__(words)
        self.code, self.close, self.counter = code, close, counter


class BadValue(Refusal):
    """An error for a value in a command that makes no sense."""

    def __init__(self, words: str):
        super().__init__("bad_value", 1007, words)


def message(text: str) -> tuple[str, dict[str, Any]]:
    """Return the type of a command and its other fields, or raise `Refusal`."""
    if len(text) > MAX_TEXT:
        raise Refusal("too_big", 1009, f"a text message has {len(text)} characters; {MAX_TEXT} are taken")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("type"), str):
        raise Refusal("bad_message", 1007, 'a text message is no JSON object with a "type"')
    return found.pop("type"), found


def field(
    entry: dict[str, Any],
    name: str,
    kinds: type | tuple[type, ...],
    default: Any,
    secret: bool = False,
) -> Any:
    """Take a value out of a command and return it, or raise `Refusal` for a wrong type.

    The error says the value too, unless it is a `secret`.
    """
    value = entry.pop(name, None)
    if value is None:
        return default
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise BadValue(f"{name} is {'' if secret else f'{str(value)[:50]!r}, '}of a wrong type")
    return value


def rest(entry: dict[str, Any], **fields: tuple) -> dict[str, Any]:
    """Take the last fields out of a command, see `field`; raise `Refusal` for more."""
    found = {name: field(entry, name, *spec) for name, spec in fields.items()}
    if entry:
        raise BadValue(f"unknown: {' '.join(entry)[:100]}")
    return found
