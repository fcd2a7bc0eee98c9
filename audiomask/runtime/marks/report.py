"""Say what a detector has found in the words of JSON, for files, sockets and the page alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from audiomask.runtime.marks.carrier import BITS

if TYPE_CHECKING:
    from audiomask.runtime.marks.detector import Detection


def spell(message: int) -> str:
    """Return a message as its hex digits, lower-case, all of them."""
    return f"{message:0{BITS // 4}x}"


def document(found: Detection) -> dict[str, Any]:
    """Return a detection as JSON has it: messages in hex, `bits` and `segments` in pairs."""
    return {
        "present": found.present,
        "p": found.p,
        "message": None if found.message is None else spell(found.message),
        "bits": [[bit, round(sure, 6)] for bit, sure in found.bits],
        "segments": [[round(start, 3), round(end, 3)] for start, end in found.segments],
        "speed": None if found.speed is None else round(found.speed, 6),
        "others": [spell(message) for message in found.others],
        "seconds": round(found.seconds, 3),
    }
