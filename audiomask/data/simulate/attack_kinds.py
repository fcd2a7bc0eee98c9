"""List the kinds of attack on marked sound: what they do, their parameters, their source.

`KINDS` is the one table: `attacks` reads specs by it, and `audiomask attack --list` and docs/attacks.md print
it. The function of a kind takes sound `[B, C, T]`, a `Scene` and the values of its parameters. It returns
sound, or `Moved` where it cuts, shifts or changes the tempo. `SUITES` are published tests, as specs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiomask import audio, weights
from audiomask.audio import AudioError
from audiomask.audio.sources import find_audio
from audiomask.data.kaldi.directory import resampled
from audiomask.data.simulate import channel, lossy
from audiomask.data.simulate import distortions as d
from audiomask.data.simulate.degrade import RowDraws, equaliser, room_response, statistical_rooms
from audiomask.nn.codec import Codec
from audiomask.runtime.catalogue import PRETRAINED

EQ_POINTS = 6
GIST = PRETRAINED / "gist"  # weights of the codec that ships
NUMBERS = 16  # uniform numbers that a row of an attack may draw


@dataclass(frozen=True)
class Scene:
    """A view of what an attack may look at beside the sound."""

    rate: int
    draws: RowDraws  # a row's random numbers
    other: Tensor | None = None  # sound `[B, C, T]` that is not marked, for splices


@dataclass(frozen=True)
class Moved:
    """Sound whose sample n was at `begin + speed * n` before the attack."""

    audio: Tensor  # [B, C, N]
    begin: Tensor  # [B] float64, in samples; negative where silence was put before the sound
    speed: float = 1.0
    own: Tensor | None = None  # bool [B, N], false where another sound was put in; None: all is its own


@dataclass(frozen=True)
class Parameter:
    """A parameter: a number from `low` to `high`, or a path where there is no range."""

    name: str
    unit: str = ""
    low: float = 0.0
    high: float = 0.0
    default: float | str | None = None  # None: it must be given
    whole: bool = False  # a whole number

    @property
    def is_path(self) -> bool:
        return self.low == self.high


@dataclass(frozen=True)
class Kind:
    """A kind of attack."""

    name: str
    doc: str
    act: Callable[..., Tensor | Moved]
    parameters: tuple[Parameter, ...] = ()
    source: str = ""  # the published test that has it
    gradient: str = "yes"  # or "straight-through": that of the untouched sound
    # Seconds of sound about a stretch that its output hangs on; None: all of it, so it is held in memory.
    reach: int | None = 1
    fresh: bool = False  # draws anew for each stretch of a long recording, as noise does
    flow: Callable[..., Iterator[np.ndarray]] | None = None  # does it block by block, by itself


def _over(draws: RowDraws, x: Tensor) -> Tensor:
    """Return Gaussian noise of the shape of `x`, of variance 1."""
    return draws.rows(torch.randn, x.shape[1] * x.shape[2]).reshape(x.shape)


def noise(x: Tensor, scene: Scene, snr_db: float) -> Tensor:
    return d.at_snr(x, _over(scene.draws, x), snr_db)


def wind(x: Tensor, scene: Scene, snr_db: float) -> Tensor:
    white = scene.draws.rows(torch.randn, x.shape[2])
    gusts = scene.draws.uniform(-25, 0, 8)
    blown = channel.wind(white, gusts, scene.draws.uniform(40, 250), scene.rate)
    return d.at_snr(x, blown[:, None], snr_db)


@lru_cache(64)
def _sound(path: str, rate: int) -> np.ndarray:
    x, given = audio.read(path)
    if not x.any():
        raise AudioError(f"{path}: is silent; choose another sound")
    return resampled(x, given, rate)


def material(path: str, x: Tensor, scene: Scene) -> Tensor:
    """Return sound like `x` from a random place of a file or of a folder's file, repeated."""
    files = [source.path for source in find_audio([path])]
    which, where = (scene.draws.uniform(0, 1).tolist() for _ in range(2))
    rows = []
    for pick, place in zip(which, where, strict=True):
        sound = _sound(files[min(int(pick * len(files)), len(files) - 1)], scene.rate)
        at = (int(place * sound.shape[1]) + np.arange(x.shape[2])) % sound.shape[1]
        rows.append(sound[np.arange(x.shape[1]) % len(sound)][:, at])
    return torch.from_numpy(np.stack(rows)).to(x)


def background(x: Tensor, scene: Scene, snr_db: float, path: str) -> Tensor:
    return d.at_snr(x, material(path, x, scene), snr_db)


def filtering(make: Callable[..., d.Response], x: Tensor, scene: Scene, *values: float) -> Tensor:
    return d.filtered(x, make(*values), scene.rate)


def eq(x: Tensor, scene: Scene, gain_db: float) -> Tensor:
    gains = scene.draws.uniform(-gain_db, gain_db, EQ_POINTS)
    return d.filtered(x, lambda n, rate: equaliser(gains, n, rate), scene.rate)


def echo(x: Tensor, scene: Scene, volume: float, delay_s: float) -> Tensor:
    late = round(delay_s * scene.rate)
    return x + volume * torch.nn.functional.pad(x, (late, 0))[..., : x.shape[-1]]


def room(x: Tensor, scene: Scene, rt60_s: float, drr_db: float) -> Tensor:
    rows = torch.ones(len(x), device=x.device)
    length = round(rt60_s * scene.rate)
    return d.convolved(x, statistical_rooms(rt60_s * rows, drr_db * rows, length, scene.rate, scene.draws))


@lru_cache(32)
def _response(path: str, rate: int) -> Tensor:
    x, given = audio.read(path)
    return torch.from_numpy(room_response(x[0], given, rate, path))[None]


def response(x: Tensor, scene: Scene, path: str) -> Tensor:
    return d.convolved(x, _response(path, scene.rate))


def speaker(x: Tensor, scene: Scene, corner_hz: float) -> Tensor:
    return d.overloaded(d.filtered(x, d.small_loudspeaker(corner_hz), scene.rate))


def shush(x: Tensor, scene: Scene, fraction: float) -> Tensor:
    return x * (torch.arange(x.shape[2], device=x.device) >= int(fraction * x.shape[2]))


def speed(x: Tensor, scene: Scene, factor: float) -> Moved:
    y, exact = d.played(x, factor, scene.rate)
    return Moved(y, torch.zeros(len(x), dtype=torch.float64), exact)


def stretch(x: Tensor, scene: Scene, rate: float) -> Moved:
    return Moved(d.stretched(x, rate, scene.rate), torch.zeros(len(x), dtype=torch.float64), rate)


def _from(x: Tensor, begin: Tensor, length: int) -> Tensor:
    """Return `[B, C, length]` of `x`, from sample `begin [B]` of each row."""
    at = begin.to(x.device)[:, None] + torch.arange(length, device=x.device)
    return x.gather(2, at[:, None].expand(-1, x.shape[1], -1))


def _start(x: Tensor, scene: Scene, length: int) -> Tensor:
    """Return random first samples `[B]` of stretches of `length`; AudioError if they do not fit."""
    if not 1 <= length <= x.shape[2]:
        raise AudioError(
            f"{length / scene.rate:g} s cannot be cut out of {x.shape[2] / scene.rate:g} s; give fewer"
        )
    return (scene.draws.uniform(0, 1) * (x.shape[2] - length + 1)).long().clamp(max=x.shape[2] - length)


def crop(x: Tensor, scene: Scene, seconds: float) -> Moved:
    length = round(seconds * scene.rate)
    begin = _start(x, scene, length)
    return Moved(_from(x, begin, length), begin.double().cpu())


def shift(x: Tensor, scene: Scene, seconds: float) -> Moved:
    cut = round(seconds * scene.rate)
    if cut >= x.shape[2]:
        raise AudioError(f"{seconds:g} s cannot be cut off {x.shape[2] / scene.rate:g} s; give fewer")
    y = x[..., cut:] if cut >= 0 else torch.nn.functional.pad(x, (-cut, 0))
    return Moved(y, torch.full((len(x),), float(cut), dtype=torch.float64))


def splice(x: Tensor, scene: Scene, seconds: float, path: str) -> Moved:
    if not path and scene.other is None:
        raise AudioError("splice: give the other sound, as in splice:1.5:other.wav")
    other = material(path, x, scene) if path else scene.other
    assert other is not None
    length = round(seconds * scene.rate)
    begin = _start(x, scene, length)[:, None]
    n = torch.arange(x.shape[2], device=x.device)
    own = (n < begin) | (n >= begin + length)
    y = torch.where(own[:, None], x, other)
    return Moved(y, torch.zeros(len(x), dtype=torch.float64), own=own)


def jitter(x: Tensor, scene: Scene, samples: float) -> Tensor:
    return d.jittered(x, samples * scene.draws.rows(torch.randn, x.shape[2]))


def straight_through(x: Tensor, y: np.ndarray) -> Tensor:
    """Return `y` with the gradient of `x`."""
    made = torch.from_numpy(np.ascontiguousarray(y)).to(x)
    return x + (made - x).detach() if x.requires_grad else made


def flowing(flow: Callable[..., Iterator[np.ndarray]], x: Tensor, scene: Scene, *values: Any) -> Tensor:
    rows = x.detach().cpu().float().numpy()
    made = [np.concatenate(list(flow(iter([row]), scene.rate, *values)), 1) for row in rows]
    return straight_through(x, np.stack(made))


def at_once(code: Callable[..., np.ndarray], x: Tensor, scene: Scene, *values: Any) -> Tensor:
    rows = x.detach().cpu().float().numpy()
    return straight_through(x, np.stack([code(row, scene.rate, *values) for row in rows]))


def by_ffmpeg(name: str) -> Callable[..., Iterator[np.ndarray]]:
    return lambda blocks, rate, kbps: lossy.through_ffmpeg(blocks, rate, name, kbps)


def neural(x: Tensor, scene: Scene, kbps: float, *stem: str) -> Tensor:
    rows = x.detach().cpu().float().flatten(0, 1).numpy()  # channels are coded one by one: all rows at once
    made = list(lossy.through_codec(iter([rows]), scene.rate, kbps, *stem))
    return straight_through(x, np.concatenate(made, 1).reshape(x.shape))


@lru_cache(4)
def _network(folder: str) -> Codec:
    """Return the codec of one channel whose weights a folder holds, or ours, itself not trained."""
    if not folder and not GIST.is_dir():
        raise AudioError(f"{GIST} is in a checkout of the repository only; give a folder, network:6:FOLDER")
    with torch.random.fork_rng():  # its first weights are drawn: a run that is resumed draws at another step
        model, _ = weights.load(folder or GIST)
    if not isinstance(model, Codec) or model.channels != 1 or model.beside:
        raise AudioError(f"{folder}: {type(model).__name__} is no codec of one channel without segments")
    return model.requires_grad_(False)


def network(x: Tensor, scene: Scene, kbps: float, folder: str) -> Tensor:
    model = _network(folder).to(x.device)
    codes = model.codes
    each = float(model.sample_rate * codes.rate) * (codes.levels - 1).bit_length() / 1000
    books = round(kbps / each)
    if not 1 <= books <= codes.channels or abs(books * each - kbps) > 1e-3 * each:
        raise AudioError(
            f"{folder or model.name}: has 1 to {codes.channels} times {each:g} kbit/s, not {kbps:g}"
        )
    rows = d.converted(x.flatten(0, 1)[:, None], scene.rate, model.sample_rate)
    y, _ = model.learn(rows, books=torch.full((len(rows),), books, device=x.device))
    return d.converted(y, model.sample_rate, scene.rate)[..., : x.shape[2]].reshape(x.shape)


def _coder(
    name: str, doc: str, source: str, flow: Callable[..., Iterator[np.ndarray]], *more: Parameter, **how: Any
) -> Kind:
    act = how.pop("act", None) or partial(flowing, flow)
    return Kind(name, doc, act, more, source, "straight-through", flow=flow, **how)


def _snr(low: float = -20.0) -> Parameter:
    return Parameter("SNR", "dB", low, 100.0, 20.0)


def _hz(name: str, default: float) -> Parameter:
    return Parameter(name, "Hz", 20.0, 100_000.0, default)


def _kbps(low: float, high: float, default: float) -> Parameter:
    return Parameter("KBPS", "kbit/s", low, high, default)


def _threshold(default: float) -> Parameter:
    return Parameter("THRESHOLD", "dBFS", -80.0, 0.0, default)


SEAL, OMNI, RAW, MARK = "AudioSeal", "OmniSealBench", "RAW-Bench", "AudioMarkBench"
SEAL_OMNI, ALL = f"{SEAL}, {OMNI}", f"{SEAL}, {OMNI}, {RAW}, {MARK}"

_TABLE: Iterable[Kind] = (
    Kind(
        "noise", "white noise at an SNR over the whole clip", noise, (_snr(),), f"{RAW}, {MARK}", reach=None
    ),
    Kind(
        "white",
        "white noise of a level",
        lambda x, scene, std: x + std * _over(scene.draws, x),
        (Parameter("STD", "of full scale", 1e-6, 1.0, 0.001),),
        SEAL_OMNI,
        fresh=True,
    ),
    Kind(
        "pink",
        "pink noise of a level",
        lambda x, scene, std: x + std * d.pink(_over(scene.draws, x)),
        (Parameter("STD", "of full scale", 1e-6, 1.0, 0.01),),
        SEAL_OMNI,
        fresh=True,
    ),
    Kind(
        "background",
        "sound of a file, or of one of a folder, at an SNR",
        background,
        (_snr(), Parameter("FILE")),
        f"{RAW}, {MARK}",
        reach=None,
    ),
    Kind("wind", "simulated gusts in a microphone at an SNR", wind, (_snr(),), "audiomask", reach=None),
    Kind(
        "lowpass",
        "low-pass, -6 dB at a frequency",
        partial(filtering, d.low_pass_at),
        (_hz("HZ", 5000.0),),
        ALL,
    ),
    Kind(
        "highpass",
        "high-pass, -6 dB at a frequency",
        partial(filtering, d.high_pass_at),
        (_hz("HZ", 500.0),),
        ALL,
    ),
    Kind(
        "bandpass",
        "band-pass, -6 dB at both edges",
        partial(filtering, d.band_pass_at),
        (_hz("LOW", 300.0), _hz("HIGH", 8000.0)),
        SEAL_OMNI,
    ),
    Kind(
        "smooth",
        "centred moving average",
        partial(filtering, d.smoother),
        (Parameter("SAMPLES", "samples", 2, 1000, 6, whole=True),),
        f"{SEAL_OMNI}, {MARK}",
    ),
    Kind(
        "eq",
        f"equaliser with random gains at {EQ_POINTS} frequencies",
        eq,
        (Parameter("DB", "dB", 0.1, 40.0, 6.0),),
        RAW,
    ),
    Kind(
        "allpass",
        "all-pass of first order, which moves phases only",
        partial(filtering, d.all_pass),
        (_hz("HZ", 1000.0),),
        "audiomask",
    ),
    Kind(
        "phase",
        "all frequencies turned by an angle",
        partial(filtering, d.rotator),
        (Parameter("DEGREES", "degrees", -180.0, 180.0, 90.0),),
        RAW,
        reach=None,
    ),
    Kind(
        "echo",
        "one echo",
        echo,
        (Parameter("VOLUME", "", 0.01, 1.0, 0.3), Parameter("DELAY", "s", 0.001, 3.0, 0.3)),
        f"{SEAL_OMNI}, {MARK}",
        reach=4,
    ),
    Kind(
        "room",
        "simulated room, by reverberation time and direct-to-reverberant ratio",
        room,
        (Parameter("RT60", "s", 0.05, 3.0, 0.5), Parameter("DRR", "dB", -20.0, 40.0, 3.0)),
        RAW,
        reach=4,
    ),
    Kind(
        "ir",
        "measured impulse response, of a room or a loudspeaker, from its peak on",
        response,
        (Parameter("FILE"),),
        RAW,
        reach=None,
    ),
    Kind(
        "speaker",
        "small loudspeaker: 12 dB an octave less below a frequency, overloaded at full scale",
        speaker,
        (_hz("HZ", 250.0),),
        "audiomask",
    ),
    Kind(
        "gain",
        "louder or softer (AudioSeal's boost and duck)",
        lambda x, scene, db: x * 10 ** (db / 20),
        (Parameter("DB", "dB", -80.0, 40.0, -6.0),),
        f"{SEAL_OMNI}, {RAW}",
    ),
    Kind("polarity", "inverted", lambda x, scene: -x, (), RAW),
    Kind("mono", "one channel, the mean of all", lambda x, scene: x.mean(1, keepdim=True), (), "audiomask"),
    Kind(
        "compressor",
        "turns down what is above a threshold",
        lambda x, scene, threshold, ratio: d.compressed(x, scene.rate, threshold, ratio),
        (_threshold(-24.0), Parameter("RATIO", "", 1.0, 50.0, 4.0)),
        RAW,
    ),
    Kind(
        "expander",
        "turns down what is below a threshold",
        lambda x, scene, threshold, ratio: d.expanded(x, scene.rate, threshold, ratio),
        (_threshold(-14.0), Parameter("RATIO", "", 1.0, 10.0, 2.0)),
        RAW,
    ),
    Kind(
        "limiter",
        "turns down about peaks above a threshold",
        lambda x, scene, threshold: d.limited(x, scene.rate, threshold),
        (_threshold(-24.0),),
        RAW,
    ),
    Kind(
        "quantise",
        "fewer bits a sample, without dither",
        lambda x, scene, bits: d.quantised(x, bits),
        (Parameter("BITS", "bits", 2, 24, 8, whole=True),),
        f"{RAW}, {MARK}",
        gradient="straight-through",
    ),
    Kind(
        "shush",
        "silence at the beginning",
        shush,
        (Parameter("FRACTION", "of the length", 0.0001, 0.99, 0.001),),
        OMNI,
        reach=None,
    ),
    Kind(
        "resample",
        "to another rate and back",
        lambda x, scene, hz: d.resampled_via(x, scene.rate, int(hz)),
        (Parameter("HZ", "Hz", audio.MIN_RATE, audio.MAX_RATE, 8000, whole=True),),
        SEAL_OMNI,
        reach=1,
    ),
    Kind(
        "jitter",
        "random reading times about each sample",
        jitter,
        (Parameter("SAMPLES", "samples", 0.001, 2.0, 0.1),),
        RAW,
        fresh=True,
    ),
    Kind(
        "speed",
        "played faster or slower; pitch and length follow",
        speed,
        (Parameter("FACTOR", "", 0.25, 4.0, 1.25),),
        SEAL_OMNI,
        reach=None,
    ),
    Kind(
        "stretch",
        "another tempo at the same pitch",
        stretch,
        (Parameter("FACTOR", "", 0.25, 4.0, 1.1),),
        f"{RAW}, {MARK}",
        reach=None,
    ),
    Kind(
        "pitch",
        "another pitch at the same tempo",
        lambda x, scene, semitones: d.pitched(x, semitones, scene.rate),
        (Parameter("SEMITONES", "semitones", -24.0, 24.0, 1.0),),
        "audiomask",
        reach=None,
    ),
    Kind(
        "crop",
        "so much of it, from a random place",
        crop,
        (Parameter("SECONDS", "s", 0.001, 36000.0, 2.0),),
        "audiomask",
        reach=None,
    ),
    Kind(
        "shift",
        "so much cut off the beginning; negative: silence put before it",
        shift,
        (Parameter("SECONDS", "s", -60.0, 36000.0, 0.1),),
        "audiomask",
        reach=None,
    ),
    Kind(
        "splice",
        "a random stretch replaced by another sound",
        splice,
        (Parameter("SECONDS", "s", 0.001, 36000.0, 1.5), Parameter("FILE", default="")),
        "audiomask",
        reach=None,
    ),
    _coder("opus", "Opus", MARK, by_ffmpeg("opus"), _kbps(0.5, 510, 16)),
    _coder("mp3", "MP3", ALL, by_ffmpeg("mp3"), _kbps(8, 320, 128)),
    _coder("aac", "AAC", f"{SEAL_OMNI}, {RAW}", by_ffmpeg("aac"), _kbps(4, 512, 128)),
    Kind(
        "vorbis",
        "Vorbis, at the quality that comes nearest",
        partial(at_once, lossy.through_vorbis),
        (_kbps(8, 500, 48),),
        RAW,
        "straight-through",
        reach=None,
    ),
    _coder(
        "gist", "our own codec, each channel", "audiomask", lossy.through_codec, _kbps(1.5, 9, 6), act=neural
    ),
    _coder(
        "codec",
        "a neural codec from audiomask import or export, each channel: EnCodec, DAC, Mimi, ...",
        f"{SEAL}, {RAW}, {MARK}",
        lossy.through_codec,
        _kbps(0.1, 100, 6),
        Parameter("STEM"),
        act=neural,
    ),
    Kind(
        "network",
        "a neural codec with its own gradients, each channel: ours, or by the weights of audiomask import",
        network,
        (_kbps(0.1, 100, 6), Parameter("FOLDER", default="")),
        f"{SEAL}, {RAW}, {MARK}",
        reach=None,
    ),
    Kind(
        "lyra",
        "Lyra v2, each channel, by the model files of its repository",
        partial(at_once, lossy.through_lyra),
        (_kbps(0.2, 9.2, 6), Parameter("FOLDER")),
        "audiomask",
        "straight-through",
        reach=None,
    ),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in _TABLE}

# Published tests, as far as they need no files. Where they draw a value, so do these: LOW..HIGH.
SUITES: dict[str, tuple[str, ...]] = {
    "audioseal": (
        "speed:0.8..1.2", "resample:32000", "echo:0.1..0.5:0.1..0.5", "white:0.001", "pink:0.01",
        "lowpass:5000", "highpass:500", "bandpass:300:8000", "smooth:2..10", "gain:1.58", "gain:-1.94",
        "mp3:128", "aac:128",
    ),
    "raw-bench": (
        "noise:20..40", "room:0.5:0..6", "aac:64", "mp3:64", "vorbis:48", "compressor:-36..-18",
        "expander:-16..-12", "limiter:-36..-18", "eq:6.5", "highpass:250..500", "lowpass:3500..6000",
        "gain:-14..-6", "gain:3.5..14", "phase:-180..180", "polarity", "quantise:12..16",
        "jitter:0.01..0.2", "stretch:0.75..0.95", "stretch:1.05..1.25",
    ),
    "omniseal": (
        *(f"speed:{0.1 * n:.1f}" for n in (5, 6, 7, 8, 9, 11, 12, 13, 14, 15)), "speed:1.25",
        *(f"echo:{0.1 * n:.1f}:{0.1 * n:.1f}" for n in range(1, 6)),
        *(f"white:{std}" for std in (0.001, 0.01, 0.05, 0.1, 0.3)),
        *(f"pink:{std}" for std in (0.01, 0.05, 0.1, 0.3, 1)),
        *(f"lowpass:{hz}" for hz in (500, 1000, 2000, 3500, 5000)),
        *(f"highpass:{hz}" for hz in (500, 1000, 1500, 3000, 5000)),
        *(f"gain:{20 * np.log10(1 + n / 10):.2f}" for n in (1, 3, 5, 7, 9)),
        *(f"gain:{20 * np.log10(1 - n / 10):.2f}" for n in (1, 3, 5, 7, 9)),
        *(f"shush:{part}" for part in (0.001, 0.01, 0.1, 0.3)), *(f"smooth:{n}" for n in (2, 6, 10, 20, 40)),
        *(f"{codec}:{kbps}" for codec in ("aac", "mp3") for kbps in (12, 24, 32, 64, 128, 256)),
        "resample:32000", "bandpass:300:8000",
    ),
    "audiomarkbench": (
        *(f"stretch:{rate}" for rate in (0.7, 0.9, 1.1, 1.3, 1.5)),
        *(f"noise:{snr}" for snr in (40, 30, 20, 10, 5)), *(f"opus:{kbps}" for kbps in (6, 8, 16, 24, 31)),
        *(f"quantise:{bits}" for bits in (2, 3, 4, 5, 6)),
        *(f"lowpass:{hz}" for hz in (1600, 3200, 4800, 6400)),
        *(f"highpass:{hz}" for hz in (1600, 3200, 4800, 6400)), *(f"smooth:{n}" for n in (6, 10, 14, 18, 22)),
        *(f"echo:{volume}:0.1" for volume in (0.1, 0.3, 0.5, 0.7, 0.9)),
        *(f"mp3:{kbps}" for kbps in (8, 16, 24, 32, 40)),
    ),
    "survival": (
        "mp3:64", "aac:48", "opus:16", "opus:9", "crop:2", "shift:0.1", "gain:-6", "polarity",
        "resample:8000", "noise:20", "speed:0.9", "speed:1.1", "gist:9", "speed:0.8", "speed:1.2", "gist:6",
    ),
}  # fmt: skip
