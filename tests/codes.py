"""Files of random codes, and damage to them, for the tests of what reads them; no model is needed."""

import numpy as np

from audiomask.runtime.codes.container import Header, Packer

HEADER = Header("gist", b"\x01\x02\x03\x04\x05\x06\x07\x08", 16000, 320, 16000, 1, 1, 18, 1024, 25)


def drawn(header=HEADER, frames=150, books=12, seed=0):
    """Codes `[streams x books, frames]`, those of later books -1."""
    shape = (header.streams, header.books, frames)
    codes = np.random.default_rng(seed).integers(0, header.levels, shape)
    codes[:, books:] = -1
    return codes.reshape(header.streams * header.books, frames)


def packed(codes, header=HEADER, samples=None, blocks=(7, 64, 1), probabilities=None):
    """The bytes of a file, made of blocks of several lengths."""
    packer, at = Packer(header, probabilities), 0
    data = packer.head()
    while at < codes.shape[1]:
        n = blocks[at % len(blocks)]
        data += packer.push(codes[:, at : at + n])
        at += n
    return data + packer.finish(header.samples(codes.shape[1]) if samples is None else samples)


def _flip(data, rng):
    out = bytearray(data)
    for at in rng.integers(0, len(out), rng.integers(1, 20)):
        out[at] ^= 1 << rng.integers(0, 8)
    return bytes(out)


def _cut(data, rng):
    a, b = sorted(rng.integers(0, len(data), 2))
    return data[:a] if rng.random() < 0.5 else data[:a] + data[b:]


def _swap(data, rng):
    a, b, c = sorted(rng.integers(0, len(data), 3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _lengthen(data, rng):
    a, b = rng.integers(0, len(data), 2)
    what = [rng.bytes(rng.integers(1, 3000)), data[b : b + 1000], data][rng.integers(0, 3)]
    return data[:a] + what + data[a:]


def _absurd(data, rng):
    """Headers that promise much, with nothing right behind them."""
    out = bytearray(data)
    size = rng.integers(1, 40)
    start = rng.choice([0, 4, 38, len(data) - 60])
    out[start : start + size] = [b"\xff", b"\x00", b"\x7f"][rng.integers(0, 3)] * int(size)
    return bytes(out)


DAMAGE = (_flip, _cut, _swap, _lengthen, _absurd)


def damaged(data, count, seed=0):
    """Yield files that something happened to, one kind of damage after the other."""
    for n in range(count):
        yield DAMAGE[n % len(DAMAGE)](data, np.random.default_rng([seed, n]))
