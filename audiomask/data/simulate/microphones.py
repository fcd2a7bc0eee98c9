"""Simulate the signals of a microphone array, in batches on the training device.

Image sources take about a second a room, so rooms are simulated ahead, once, into a bank (`simulate_rooms`,
`Rooms.save`). `ArrayScenes` plays speech and noises through rooms of the bank and mixes them, as
`degrade.Degrade` does for one microphone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from audiomask.audio import AudioError, make_folder, replacing
from audiomask.data.example import Simulation
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.simulate import degrade
from audiomask.data.simulate.channel import unit
from audiomask.data.simulate.mixtures import MixSettings, Mixture, mixtures, write_pairs

SOUND = 343.0  # m/s, in air at 20 degrees C
SIZES_M = ((3.0, 8.0), (3.0, 6.0), (2.4, 3.5))  # length, width and height of a room
LEAD = 16  # samples of a response before its first direct sound: half of the interpolated pulse


@dataclass(frozen=True)
class Rooms:
    """A bank of N rooms, in each S sources, the first a talker, and an array of M microphones."""

    sample_rate: int
    microphones: Tensor  # [M, 3], metres from the array's centre, before it was turned
    responses: Tensor  # [N, S, M, L], direct sound about 1, from `LEAD` samples before the earliest on
    delays: Tensor  # [N, M], samples from the start of the talker's responses to its direct sound

    def save(self, path: str | Path) -> None:
        """Write the bank, its responses as 16-bit floats: an error of -66 dB at half the size."""
        make_folder(Path(path).parent)
        tensors = {"microphones": self.microphones, "responses": self.responses.half(), "delays": self.delays}
        with replacing(path) as part:
            save_file(tensors, part, {"sample_rate": str(self.sample_rate)})

    @classmethod
    def load(cls, path: str | Path) -> Rooms:
        """Return the bank in a file; AudioError if it is missing or holds something else."""
        try:
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
                return cls(int(file.metadata()["sample_rate"]), **tensors)
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise AudioError(
                f"{path}: no bank of rooms ({error}); make it with: "
                "python tools/corpora/simulate_array.py rooms"
            ) from None


def simulate_rooms(
    microphones: np.ndarray,
    count: int,
    noises: int = 3,
    sample_rate: int = 16000,
    seconds: float = 0.4,
    rt60_s: tuple[float, float] = (0.15, 0.5),
    distance_m: tuple[float, float] = (0.5, 3.0),
    seed: int = 0,
) -> Rooms:
    """Return `count` shoebox rooms by image sources (pyroomacoustics), drawn uniformly.

    The array `microphones [M, 3]` (metres) stands anywhere at table height, turned about the vertical. The
    talker is at `distance_m` from it, `noises` point sources are anywhere at least as far. Room i depends on
    (seed, i) only.
    """
    import pyroomacoustics as pra

    microphones = np.asarray(microphones, np.float64)
    microphones = microphones - microphones.mean(0)
    length = round(seconds * sample_rate)
    responses = np.zeros((count, 1 + noises, len(microphones), length), np.float32)
    delays = np.zeros((count, len(microphones)), np.float32)
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        while True:
            size = np.array([rng.uniform(*range_) for range_ in SIZES_M])
            try:  # Sabine's formula has no answer for large rooms that are too dry
                absorption, order = pra.inverse_sabine(rng.uniform(*rt60_s), size)
                break
            except ValueError:
                continue
        room = pra.ShoeBox(size, sample_rate, materials=pra.Material(absorption), max_order=order)
        turn = rng.uniform(0, 2 * math.pi)
        c, s = math.cos(turn), math.sin(turn)
        centre = np.array([rng.uniform(1, size[0] - 1), rng.uniform(1, size[1] - 1), rng.uniform(0.8, 1.4)])
        placed = centre + microphones @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        sources = [_place(rng, size, centre, distance_m)]
        sources += [_place(rng, size, centre, (distance_m[0], math.inf)) for _ in range(noises)]
        for source in sources:
            room.add_source(source)
        room.add_microphone_array(placed.T)
        room.compute_rir()
        pulse = pra.constants.get("frac_delay_length") // 2  # a source at no distance peaks here
        for k, source in enumerate(sources):
            paths = np.linalg.norm(placed - source, axis=1)
            arrivals = paths / SOUND * sample_rate
            start = int(arrivals.min()) + pulse - LEAD
            for m in range(len(placed)):
                h = room.rir[m][k][start : start + length]
                responses[i, k, m, : len(h)] = h * paths.mean()
            if k == 0:
                delays[i] = arrivals + pulse - start
    tensors = (torch.from_numpy(x) for x in (microphones.astype(np.float32), responses, delays))
    return Rooms(sample_rate, *tensors)


def _place(
    rng: np.random.Generator, size: np.ndarray, centre: np.ndarray, distance_m: tuple[float, float]
) -> np.ndarray:
    """Return a place at mouth height, `distance_m` from `centre` and at least 30 cm from walls."""
    for _ in range(1000):
        place = np.append(rng.uniform(0.3, size[:2] - 0.3), rng.uniform(1.0, 1.9))
        if distance_m[0] <= np.linalg.norm(place - centre) <= distance_m[1]:
            return place
    raise AudioError(
        f"no place {distance_m} m from the array in a room of {size.round(1)} m; widen distance_m"
    )


def diffuse_field(
    microphones: Tensor, rows: int, n_fft: int, sample_rate: int, waves: int, generator: torch.Generator
) -> Tensor:
    """Return transfer functions `[rows, M, n_fft // 2 + 1]` that make one noise diffuse.

    They sum `waves` plane waves from uniform directions u, each with the noise shifted circularly by s
    samples: H_m(f) = sum_w e^(-2 pi i f (s_w - r_m u_w / c)) / sqrt(waves). On average over draws the
    coherence of two microphones d apart is sin(k d) / (k d), k = 2 pi f / c: an isotropic field.
    """
    device = microphones.device
    f = torch.fft.rfftfreq(n_fft, device=device)  # cycles a sample
    total = torch.zeros(rows, len(microphones), len(f), dtype=torch.complex64, device=device)
    for _ in range(waves):
        u = nn.functional.normalize(torch.randn(rows, 3, generator=generator, device=device), dim=1)
        shift = torch.randint(n_fft, (rows, 1), generator=generator, device=device)
        along = (u[:, None] * microphones).sum(2)  # [rows, M]; no matrix product: autocast would round it
        arrival = shift - along * (sample_rate / SOUND)
        turns = (arrival[..., None] * f) % 1.0  # in circles: whole ones cost precision
        total += torch.polar(torch.ones_like(turns), -2 * math.pi * turns)
    total[..., 0] = 0  # shifts turn nothing at 0 Hz, so all waves would add up
    return total / math.sqrt(waves)


class ArrayScenes(Simulation):
    """Makes (noisy, clean) pairs of scenes around an array, drawn uniformly from ranges.

    Args:
        rooms: File of a bank (`Rooms`), read when it is first needed, or the bank itself.
        sample_rate, segment: See `Simulation`.
        reference, snr_db: Microphone that the target belongs to, and the SNR there.
        clean, diffuse, waves: Fractions of rows without noise, and with a first noise from everywhere
            (`waves` plane waves); others come from points.
        interfering_gain_db, microphone_gain_db: Half-ranges of each noise's level against the others, and of
            each microphone's gain.
        self_noise_db, level_dbfs, early_s: The microphones' noise, below the speech; active level of the
            noisy reference; seconds of the room that the target keeps.
        speed, noise_speed, speed_p, eq_db, noise_eq_db: See `degrade.Degrade`.
    """

    def __init__(
        self,
        rooms: str | Rooms,
        sample_rate: int | None = None,
        segment: int | None = None,
        reference: int = 0,
        snr_db: tuple[float, float] = (-5.0, 15.0),
        clean: float = 0.05,
        diffuse: float = 0.4,
        waves: int = 24,
        interfering_gain_db: float = 5.0,
        microphone_gain_db: float = 1.0,
        self_noise_db: tuple[float, float] = (30.0, 60.0),
        level_dbfs: tuple[float, float] = (-35.0, -15.0),
        early_s: float = 0.05,
        speed: tuple[float, float] = (0.9, 1.12),
        noise_speed: tuple[float, float] = (0.7, 1.4),
        speed_p: float = 0.6,
        eq_db: float = 3.0,
        noise_eq_db: float = 6.0,
    ):
        super().__init__(sample_rate, segment)
        self.source, self.reference = rooms, reference
        self.snr_db, self.clean, self.diffuse, self.waves = snr_db, clean, diffuse, waves
        self.interfering_gain_db, self.microphone_gain_db = interfering_gain_db, microphone_gain_db
        self.self_noise_db, self.level_dbfs, self.early_s = self_noise_db, level_dbfs, early_s
        self.speed, self.noise_speed, self.speed_p = speed, noise_speed, speed_p
        self.eq_db, self.noise_eq_db = eq_db, noise_eq_db
        self._rooms: Rooms | None = None

    @property
    def crop(self) -> int:
        return math.ceil(self.segment * max(self.speed[1], self.noise_speed[1])) + degrade.GRAIN

    @property
    def rooms(self) -> Rooms:
        if self._rooms is None:
            rooms = self.source if isinstance(self.source, Rooms) else Rooms.load(self.source)
            if rooms.sample_rate != self.sample_rate:
                raise AudioError(
                    f"{self.source}: rooms at {rooms.sample_rate} Hz, the scenes are at {self.sample_rate}"
                )
            if not 0 <= self.reference < len(rooms.microphones):
                raise AudioError(
                    f"reference {self.reference}: the rooms have {len(rooms.microphones)} microphones, from 0"
                )
            self._rooms = rooms
        return self._rooms

    def forward(self, speech: Tensor, noise: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return noisy `[B, M, segment]` and clean `[B, segment]` of rows of `crop` or more.

        All draws follow from the first seed and the size of the batch: unlike with `degrade.Degrade`, two
        processes do not draw the scenes of one process with twice the batch.
        """
        b, k, _ = noise.shape
        _ = self.rooms  # raises first where the bank does not fit
        degrade.check_speeds(self, speech.shape[1])
        g = torch.Generator(speech.device).manual_seed(int(seeds[0]) % 2**63)

        def factors(range_: tuple[float, float], count: int) -> Tensor:
            drawn = torch.rand(2, count, generator=g, device=speech.device)
            return torch.where(drawn[0] < self.speed_p, range_[0] + (range_[1] - range_[0]) * drawn[1], 1.0)

        speech = degrade.varispeed(speech, factors(self.speed, b), self.segment)
        noise = degrade.varispeed(noise.flatten(0, 1), factors(self.noise_speed, b * k), self.segment)
        return self.render(speech, noise.unflatten(0, (b, k)), g)[:2]

    def render(self, speech: Tensor, noise: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return noisy `[B, M, T]`, clean `[B, T]` and the talkers' delays `[B, M]` (see `Rooms`)."""
        rooms, device, (b, k, n), sr = self.rooms, speech.device, noise.shape, self.sample_rate
        if rooms.responses.device != device:
            moved = (x.to(device) for x in (rooms.microphones, rooms.responses, rooms.delays))
            rooms = self._rooms = Rooms(rooms.sample_rate, *moved)
        k = min(k, rooms.responses.shape[1] - 1)
        n_fft = n + rooms.responses.shape[3]

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(*shape, generator=g, device=device)

        def gain(half_db: float, *shape: int) -> Tensor:
            return 10 ** (uniform(-half_db, half_db, *shape) / 20)

        def play(spectrum: Tensor) -> Tensor:
            return torch.fft.irfft(spectrum, n_fft)[..., :n]

        pick = torch.randint(len(rooms.responses), (b,), generator=g, device=device)
        h = rooms.responses[pick]  # [B, S, M, L]
        voice = degrade.equaliser(uniform(-self.eq_db, self.eq_db, b, 6), n_fft, sr)
        spectrum = torch.fft.rfft(speech, n_fft) * voice
        wet = play(spectrum[:, None] * torch.fft.rfft(h[:, 0], n_fft))
        early = degrade.early_part(h[:, 0, self.reference], sr, self.early_s)
        clean = play(spectrum * torch.fft.rfft(early, n_fft))

        share = torch.tensor([0.5, 0.3, 0.2, *[0.1] * max(0, k - 3)][:k], device=device)
        used = torch.arange(k, device=device) <= torch.multinomial(share, b, True, generator=g)[:, None]
        colour = degrade.equaliser(uniform(-self.noise_eq_db, self.noise_eq_db, b * k, 6), n_fft, sr)
        colour = colour.unflatten(0, (b, k)) * (gain(self.interfering_gain_db, b, k) * used)[..., None]
        parts = torch.fft.rfft(unit(noise[:, :k]), n_fft) * colour  # [B, K, F]
        paths = torch.fft.rfft(h[:, 1 : 1 + k], n_fft)  # [B, K, M, F]
        everywhere = torch.rand(b, generator=g, device=device) < self.diffuse
        rows = int(everywhere.sum())
        if rows:
            paths[everywhere, 0] = diffuse_field(rooms.microphones, rows, n_fft, sr, self.waves, g)
        around = play((parts[:, :, None] * paths).sum(1))  # [B, M, T]

        snr = uniform(*self.snr_db, b)
        snr = torch.where(torch.rand(b, generator=g, device=device) < self.clean, math.inf, snr)
        own = torch.randn(wet.shape, generator=g, device=device)
        below = 10 ** (-uniform(*self.self_noise_db, b) / 20)
        own *= (degrade.active_level(wet[:, self.reference], sr) * below)[:, None, None]
        scale = degrade.noise_gain(wet[:, self.reference], around[:, self.reference], snr, sr)
        microphone = gain(self.microphone_gain_db, b, wet.shape[1], 1)
        microphone = microphone / microphone[:, self.reference, None]  # the target is at its level
        noisy = (wet + around * scale[:, None, None] + own) * microphone
        scale = degrade.level_gain(noisy[:, self.reference], noisy, uniform(*self.level_dbfs, b), sr)
        return noisy * scale[:, None, None], clean * scale[:, None], rooms.delays[pick]


def write_scenes(
    scenes: ArrayScenes, speech: DataDir, noise: DataDir, out: str | Path, count: int, seed: int = 0
) -> DataDir:
    """Write `count` fixed scenes and the data directory `out`, which is returned.

    Files are out/noisy/*.wav (a channel per microphone) and out/clean/*.wav, tables those of
    `mixtures.write_mixtures`, which draws the mixtures; utt2delay has the delays of `Rooms`.
    """

    def render(i: int, mixture: Mixture) -> tuple[Mixture, np.ndarray, np.ndarray, dict[str, str]]:
        g = torch.Generator().manual_seed(seed * count + i)
        said, around = (torch.from_numpy(x)[None] for x in (mixture.clean, mixture.noisy - mixture.clean))
        noisy, clean, delays = scenes.render(said, around[:, None], g)
        written = " ".join(f"{d:.3f}" for d in delays[0].tolist())
        return mixture, noisy[0].numpy(), clean[0].numpy(), {"utt2delay": written}

    drawn = mixtures(speech, noise, count, seed, MixSettings(sample_rate=scenes.sample_rate))
    return write_pairs(out, scenes.sample_rate, (render(i, m) for i, m in enumerate(drawn)))
