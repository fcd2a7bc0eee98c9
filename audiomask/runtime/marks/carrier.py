"""Make the carriers that say a message, from a key that nobody else has.

    carrier = Carrier(read_key("me.key"))
    part = carrier.wave(0xBEEF)                 # [4096], to be repeated with opposite sign each time

A carrier is noise, flat from 200 to 6800 Hz, of a period of 8192 samples whose second half is the first one
turned over, so it has odd harmonics alone. Their phases come from the key:

    r = sqrt(1/3) p + sqrt(2/3) sum_j b_j d(n - 32 j) / sqrt(128),        j = 0 .. 127

The pilot p tells that a mark is there, and where its periods begin. The b_j, 1 or -1, are the codeword of
the message by a linear code of 128 bits; as each multiplies the same d, one correlation finds them all.
Phases and code are the bits of SHA-256 in counter mode, the same in any language.

As the carrier repeats, it can be found to repeat, without the key: so the speed is found at which it is
played. What repeats in sound itself, be it a tone or a loop, seldom turns over with it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

import numpy as np

from audiomask.audio import AudioError, replacing

RATE, PERIOD = 16000, 8192  # Hz, samples
LOW_HZ, HIGH_HZ = 200, 6800  # of the carrier
BITS, PARTS = 16, 128
STEP = PERIOD // 2 // PARTS  # samples between the parts of a codeword
PILOT = 1 / 3  # of the power
HZ = np.arange(PERIOD // 2 + 1) * RATE / PERIOD
HARMONICS = (HZ >= LOW_HZ) & (HZ <= HIGH_HZ) & (np.arange(len(HZ)) % 2 == 1)  # that a carrier has


def parse_key(text: str) -> bytes | None:
    """Return the 16 bytes of 32 hex digits, or None for anything else."""
    return bytes.fromhex(text) if re.fullmatch("[0-9a-fA-F]{32}", text) else None


def read_key(path: str | Path) -> bytes:
    """Return the 16 bytes of a key, which a file holds as 32 hex digits; may raise `AudioError`."""
    try:
        text = Path(path).read_bytes()[:100].decode("ascii", "replace").strip()
    except OSError as error:
        remedy = f"audiomask mark --new-key {path} makes one" if isinstance(error, FileNotFoundError) else ""
        why = f"{path}: no key can be read there ({error.strerror})"
        raise AudioError(f"{why}; {remedy or 'check the name and its rights'}") from error
    if (key := parse_key(text)) is None:
        raise AudioError(f"{path}: no key, which is 32 hex digits; audiomask mark --new-key FILE makes one")
    return key


def write_key(path: str | Path, *, overwrite: bool = False) -> None:
    """Write a new key, which nobody can guess, to a file that its owner alone may read.

    Raises `AudioError` for a path that cannot be written, or that exists without `overwrite`.
    """
    with replacing(path, overwrite=overwrite) as part:
        part.touch(0o600)
        part.write_text(f"{secrets.token_hex(16)}\n", "ascii")


def draw(key: bytes, label: str, count: int) -> np.ndarray:
    """Return so many bytes that follow from key and label, as uint8."""
    start, size = key + label.encode(), hashlib.sha256().digest_size
    blocks = (hashlib.sha256(start + i.to_bytes(4, "little")).digest() for i in range(-(-count // size)))
    return np.frombuffer(b"".join(blocks)[:count], np.uint8)


def _phases(key: bytes, label: str) -> np.ndarray:
    """Return a spectrum `[PERIOD / 2 + 1]`: of magnitude 1 at odd harmonics in the band, else 0."""
    turns = draw(key, label, 2 * len(HARMONICS)).view("<u2") / 65536
    return np.exp(2j * np.pi * turns) * HARMONICS


def _code() -> tuple[np.ndarray, np.ndarray]:
    """Return the signs `[256, PARTS]` that the two bytes of a message, low and high, stand for."""
    rows = np.unpackbits(draw(b"", "code", BITS * PARTS // 8)).reshape(BITS, PARTS)
    bits = np.arange(256)[:, None] >> np.arange(8) & 1
    low, high = (1 - 2 * (bits @ part.astype(int) % 2).astype(np.float32) for part in (rows[:8], rows[8:]))
    return low, high


class Carrier:
    """All that a key says of a mark.

    Attributes: `pilot` and `data`, spectra of p and d of magnitude 1, `[4097]`; `low`, `high`: see `_code`.
    """

    def __init__(self, key: bytes):
        if len(key) != 16:
            raise ValueError(f"a key of {len(key)} bytes; it has 16")
        self.pilot, self.data = _phases(key, "pilot"), _phases(key, "data")
        self.low, self.high = _code()

    def codeword(self, message: int) -> np.ndarray:
        """Return the signs `[PARTS]` of a message of 16 bits."""
        if not 0 <= message < 2**BITS:
            raise ValueError(f"message {message}: wants 0 to {2**BITS - 1}")
        return self.low[message % 256] * self.high[message // 256]

    def comb(self, message: int) -> np.ndarray:
        """Return the spectrum `[4097]` of a message's codeword.

        The power of its odd harmonics is 1 in the mean.
        """
        comb = np.zeros(PERIOD)
        comb[: PERIOD // 2 : STEP] = self.codeword(message)
        return np.fft.rfft(comb) / np.sqrt(PARTS)

    def wave(self, message: int) -> np.ndarray:
        """Return the half period `[4096]` that says the message, as dense as noise of power 1."""
        parts = np.sqrt(1 - PILOT) * self.comb(message) * self.data
        wave = np.fft.irfft(np.sqrt(2 * PERIOD) * (np.sqrt(PILOT) * self.pilot + parts), PERIOD)
        return wave[: PERIOD // 2].astype(np.float32)

    def decode(self, soft: np.ndarray) -> tuple[int, float]:
        """Return the message whose codeword agrees best with `soft [PARTS]`, and its sum."""
        sums = self.sums(soft)
        at = int(sums.argmax())
        return at, float(sums[at])

    def sums(self, soft: np.ndarray) -> np.ndarray:
        """Return how well `soft [PARTS]` agrees with the codeword of each message, `[65536]`."""
        return ((self.high * soft.astype(np.float32)) @ self.low.T).ravel()
