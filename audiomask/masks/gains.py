"""Make ideal time-frequency masks, and bound, apply and draw masks.

    estimate = apply(wiener(speech, noise), mixture)

Ideal masks come from the known speech and noise: they are training targets, and their scores are upper bounds
(oracles) of what a network with such an output can reach. Their functions take complex spectra S (speech), N
(noise) and Y = S + N (mixture) of one shape, numpy arrays or torch tensors, and return the same kind.
Networks hold complex numbers as pairs of real ones: `multiply` and `bounded` are for those.

| mask | value | range | source |
|---|---|---|---|
| `binary` | 1 where S^2 > N^2 times a threshold | {0, 1} | Wang 2005 |
| `ratio` | (S^2 / (S^2 + N^2))^.5 | 0..1 | Wang, Narayanan & Wang 2014 |
| `wiener` | S^2 / (S^2 + N^2) | 0..1 | the Wiener gain with instant powers for expectations |
| `amplitude` | |S| / |Y| | 0..limit | Wang, Narayanan & Wang 2014 |
| `phase_sensitive` | |S| / |Y| cos(arg S - arg Y) | low..high | Erdogan et al. 2015 |
| `complex_ratio` | S / Y | plane, or the disc |M| <= limit | Williamson, Wang & Wang 2016 |

`IDEAL` has them for any number of sources, and `multichannel_wiener` weighs the channels of a mixture by
where its sources come from; `masks.oracles` runs them over songs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from audiomask.masks.markov import Array, like, module_of

TINY = 1e-20  # added to powers, so that silence divides to 0: far below one 24-bit step in any spectrum


def _power(x: Array) -> Array:
    return x.real**2 + x.imag**2


def binary(speech: Array, noise: Array, threshold_db: float = 0.0) -> Array:
    """Return 1 where the local signal-to-noise ratio is above `threshold_db`, else 0."""
    above = _power(speech) > 10.0 ** (threshold_db / 10.0) * _power(noise)
    return above * module_of(speech).ones_like(speech.real)


def ratio(speech: Array, noise: Array, exponent: float = 0.5) -> Array:
    """Return (S^2 / (S^2 + N^2))^exponent; 0 where both are silent."""
    speech, noise = _power(speech), _power(noise)
    return (speech / (speech + noise + TINY)) ** exponent


def wiener(speech: Array, noise: Array) -> Array:
    """Return S^2 / (S^2 + N^2), `ratio` with exponent 1."""
    return ratio(speech, noise, 1.0)


def amplitude(speech: Array, mixture: Array, limit: float = 10.0) -> Array:
    """Return |S| / |Y|, at most `limit` (it is above 1 where speech and noise cancel)."""
    return (abs(speech) / (abs(mixture) + TINY)).clip(0.0, limit)


def phase_sensitive(speech: Array, mixture: Array, low: float = 0.0, high: float = 1.0) -> Array:
    """Return Re(S / Y) within low..high, the real gain of least error (Erdogan 2015, eq. 7)."""
    return complex_ratio(speech, mixture).real.clip(low, high)


def complex_ratio(speech: Array, mixture: Array, limit: float | None = None) -> Array:
    """Return S / Y, complex. With a `limit` the magnitude is cut to it and the phase kept."""
    mask = speech * mixture.conj() / (_power(mixture) + TINY)
    if limit is None:
        return mask
    size = abs(mask)
    return mask * (limit / size.clip(limit, None))


def apply(mask: Array, mixture: Array) -> Array:
    """Return M Y; a real mask keeps the mixture's phase. ValueError where the shapes differ."""
    if tuple(mask.shape) != tuple(mixture.shape):
        raise ValueError(f"a mask of shape {tuple(mask.shape)} for a spectrum of {tuple(mixture.shape)}")
    return mask * mixture


def multiply(mask: Array, spectrum: Array, strength: Array | None = None) -> Array:
    """Multiply spectra by masks as networks hold them, real torch tensors `[B, 2 C, T, F]`.

    Channel 2 c is the real part of signal c, and 2 c + 1 the imaginary part (see `frontend.stft`). Masks are
    complex, of that shape too, or a real gain `[B, 1, T, F]`, which keeps the phase. A `strength` w of 0..1,
    `[B, 1, 1, 1]`, makes the mask 1 - w + w M.
    """
    if mask.shape[1] == 1:
        return spectrum * (mask if strength is None else 1 - strength + strength * mask)
    axis = 1 if spectrum.shape[1] == 2 else 2
    if axis == 2:  # a signal at a time
        mask, spectrum = mask.unflatten(1, (-1, 2)), spectrum.unflatten(1, (-1, 2))
        strength = None if strength is None else strength[:, None]
    re, im = (mask if strength is None else strength * mask).split(1, axis)
    re = re if strength is None else re + (1 - strength)
    a, b = spectrum.split(1, axis)
    y = spectrum * re + module_of(a).concatenate([-b, a], axis) * im
    return y if axis == 1 else y.flatten(1, 2)


def bounded(z: Array, limit: float, axis: int = 1) -> Array:
    """Return the mask z / sqrt(1 + |z|^2 / limit^2), |M| < limit, of parts along `axis`."""
    return z / (1 + z.square().sum(axis, keepdim=True) / limit**2).sqrt()


def loudest(sources: Array) -> Array:
    """Return 1 where a source is louder than each of the others, else 0, of sources `[N, ...]`."""
    module, powers = module_of(sources), _power(sources)
    if len(powers) < 2:
        return module.ones_like(powers)
    most = [
        module.amax(module.concatenate([powers[:i], powers[i + 1 :]]), 0)  # of the others
        for i in range(len(powers))
    ]
    return (powers > module.stack(most)) * module.ones_like(powers)


def shares(sources: Array, exponent: float = 1.0) -> Array:
    """Return (S^2 / sum of all S^2)^exponent of sources `[N, ...]`."""
    powers = _power(sources)
    return (powers / (powers.sum(0) + TINY)) ** exponent


# The masks of sources `[N, ...]` in their mixture `[...]`, by name.
IDEAL: dict[str, Callable[[Array, Array], Array]] = {
    "binary": lambda sources, mixture: loudest(sources),
    "ratio": lambda sources, mixture: shares(sources, 0.5),
    "wiener": lambda sources, mixture: shares(sources),
    "phase_sensitive": phase_sensitive,
    "complex_bounded": lambda sources, mixture: complex_ratio(sources, mixture, limit=1.0),
    "complex": complex_ratio,
}


def ideal(speech: Array, noise: Array) -> dict[str, Array]:
    """Return every ideal mask of speech in noise by name, for comparison and pictures."""
    sources = module_of(speech).stack([speech, noise])
    return {name: mask(sources, speech + noise)[0] for name, mask in IDEAL.items()}


def covariances(sources: Array) -> tuple[Array, Array]:
    """Return sums of S S^H, `[N, F, C, C]`, and |S|^2 / C, `[N, F]`, of sources `[N, C, F, T]`.

    They are over all frames; those of several stretches may be added. Their quotient says how a source lies
    in the channels.
    """
    module = module_of(sources)
    outer = module.einsum("ncft,ndft->nfcd", sources, sources.conj())
    return outer, _power(sources).sum(-1).sum(1) / sources.shape[1]


def multichannel_wiener(powers: Array, spatial: Array, mixture: Array) -> Array:
    """Return the sources `[N, C, F, T]` of least expected error in a mixture `[C, F, T]`.

        v_j R_j (sum_k v_k R_k + e I)^-1 Y

    The powers v are `[N, F, T]`, and R `[N, F, C, C]`, the spatial covariances, are those of `covariances`
    over one another (Duong, Vincent & Gribonval 2010; R constant in time as in Nugraha, Liutkus & Vincent
    2016). Of one channel it is `wiener`.
    """
    module, channels = module_of(mixture), mixture.shape[0]
    total = module.einsum("nft,nfcd->ftcd", powers + 0j, spatial)
    trace = module.einsum("ftcc->ft", total).real
    # so little that it tells only where the matrix has no inverse, as where all sources are in the middle
    total = total + (1e-10 * trace + TINY)[..., None, None] * like(np.eye(channels), mixture)
    white = module.linalg.solve(total, module.einsum("cft->ftc", mixture)[..., None])[..., 0]
    return module.einsum("nft,nfcd,ftd->ncft", powers + 0j, spatial, white)


def draw(mask: np.ndarray, axes: Any, sample_rate: float, hop: int, title: str = "", top: float = 1.0) -> Any:
    """Draw a mask `[F, T]` on matplotlib axes, time in s, frequency in kHz; return the image.

    Real masks are drawn in grey from 0 (black) to `top`. In complex ones brightness is the magnitude up to
    `top` and hue the phase: red keeps it, cyan turns it by 180 degrees.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"a mask of shape {mask.shape}; draw takes [F, T]")
    span = (0.0, mask.shape[1] * hop / sample_rate, 0.0, sample_rate / 2000)
    style: dict[str, Any] = {"origin": "lower", "aspect": "auto", "extent": span, "interpolation": "nearest"}
    if np.iscomplexobj(mask):
        from matplotlib.colors import hsv_to_rgb

        size = np.clip(np.abs(mask) / top, 0, 1)
        hue = np.angle(mask) / (2 * np.pi) % 1.0
        image = axes.imshow(hsv_to_rgb(np.stack([hue, np.full_like(size, 0.75), size], axis=-1)), **style)
    else:
        image = axes.imshow(mask, cmap="gray", vmin=0.0, vmax=top, **style)
    axes.set(title=title, xlabel="time (s)", ylabel="frequency (kHz)")
    return image
