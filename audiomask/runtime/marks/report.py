"""Say what a detector has found in the words of JSON, for files, sockets and the page alike."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from audiomask.runtime.marks.carrier import BITS

LEAST_P = sys.float_info.min  # what is less becomes 0 in binary fractions

if TYPE_CHECKING:
    from audiomask.runtime.marks.detector import Detection


def spell(message: int) -> str:
    """Return a message as its hex digits, lower-case, all of them."""
    return f"{message:0{BITS // 4}x}"


def document(found: Detection, start: float = 0.0) -> dict[str, Any]:
    """Return a detection, from `start` seconds on, as JSON has it: messages in hex, else pairs."""
    return {
        "present": bool(found.present),
        "p": max(float(found.p), LEAST_P),
        "message": None if found.message is None else spell(found.message),
        "bits": [[int(bit), round(float(sure), 6)] for bit, sure in found.bits],
        "segments": [[round(float(start + a), 3), round(float(start + b), 3)] for a, b in found.segments],
        "speed": None if found.speed is None else round(float(found.speed), 6),
        "others": [spell(message) for message in found.others],
        "seconds": round(float(found.seconds), 3),
    }
