"""Mix stems anew, in batches on the training device, to train separators.

The rows are those of `data.modules.StemSounds`: recordings of each stem by its name. The stems that a mix was
made of are wanted of the network, and their sum is what it is given.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from audiomask.data.example import Example, Simulation, rms
from audiomask.data.simulate.degrade import (
    GRAIN,
    RowDraws,
    active_level,
    equaliser,
    level_gain,
    statistical_rooms,
    varispeed,
)

DRAWS = 26  # random numbers that a stem takes


class Stems(Simulation):
    """Makes mixes of stems that are altered and placed at random; ranges are uniform.

    Each stem of a row is what its layers add up to, then in this order played at another speed, equalised,
    set in a room, narrowed or widened, placed between the channels, compressed, and brought to its level.

    Args:
        sample_rate, segment: See `Simulation`.
        gain_db: Level of a stem against the mean of all.
        layer_db: Level of a stem's second layer against its first.
        absent: Probability that a stem is silent; one of a row never is.
        speed, speed_p: Playback speeds (the pitch follows) and their probability.
        eq_db, eq_p: Half-range of the random equalisers, and their probability.
        reverb_p, rt60_s, drr_db: Probability of a room, its reverberation time and direct-to-reverberant
            ratio.
        pan: Greatest turn between the channels, by stem, as a fraction of the way to one of them; 1 for
            stems that have none here.
        wide: Range of the factor of what differs between the channels.
        delay_s, delay_p: Longest delay of one channel, and its probability, for stems that turn by 1.
        squeeze_p: Probability of compression, by up to half in dB.
        level_dbfs: Active level of the mix.
    """

    def __init__(
        self,
        sample_rate: int | None = None,
        segment: int | None = None,
        gain_db: tuple[float, float] = (-10.0, 6.0),
        layer_db: tuple[float, float] = (-12.0, 3.0),
        absent: float = 0.1,
        speed: tuple[float, float] = (0.9, 1.1),
        speed_p: float = 0.3,
        eq_db: float = 6.0,
        eq_p: float = 0.4,
        reverb_p: float = 0.15,
        rt60_s: tuple[float, float] = (0.2, 1.0),
        drr_db: tuple[float, float] = (-3.0, 12.0),
        pan: Mapping[str, float] | None = None,
        wide: tuple[float, float] = (0.3, 1.2),
        delay_s: float = 0.012,
        delay_p: float = 0.2,
        squeeze_p: float = 0.2,
        level_dbfs: tuple[float, float] = (-38.0, -12.0),
    ):
        super().__init__(sample_rate, segment)
        self.gain_db, self.layer_db, self.absent = gain_db, layer_db, absent
        self.speed, self.speed_p, self.eq_db, self.eq_p = speed, speed_p, eq_db, eq_p
        self.reverb_p, self.rt60_s, self.drr_db = reverb_p, rt60_s, drr_db
        self.pan, self.wide, self.delay_s, self.delay_p = dict(pan or {}), wide, delay_s, delay_p
        self.squeeze_p, self.level_dbfs = squeeze_p, level_dbfs

    @property
    def crop(self) -> int:
        return int(self.segment * max(1.0, self.speed[1] if self.speed_p else 1.0)) + GRAIN

    def example(self, batch: Mapping[str, Tensor]) -> Example:
        """Return the example of rows `[B, layers, C, L]` by stem, and `seed`."""
        sources = {name: x for name, x in batch.items() if name != "seed"}
        draws = RowDraws(batch["seed"], DRAWS * len(sources) + 1, batch["seed"].device)
        stems = [self.altered(x, self.pan.get(name, 1.0), draws) for name, x in sources.items()]
        x = torch.stack(stems, 1)  # [B, S, C, T]
        gains = 10 ** (draws.uniform(*self.gain_db, len(stems)) / 20)
        drawn = draws.uniform(0, 1, len(stems))
        kept = (drawn >= self.absent) | (drawn == drawn.amax(1, keepdim=True))
        levels = active_level(x.square().mean(2).sqrt(), self.sample_rate)
        x = x * (kept * gains * (levels > 1e-6) / levels.clamp_min(1e-6))[:, :, None, None]
        mix = x.sum(1)
        heard, level = mix.square().mean(1).sqrt(), draws.uniform(*self.level_dbfs)
        scale = level_gain(heard, mix, level, self.sample_rate)
        x = x * scale[:, None, None, None]
        wanted = dict(zip(sources, x.unbind(1), strict=True))
        mix = x.sum(1)
        return Example({"audio": mix}, wanted, rms(mix.flatten(1)))

    def altered(self, layers: Tensor, pan: float, draws: RowDraws) -> Tensor:
        """Return a stem `[B, C, T]` of its layers `[B, K, C, L]`."""
        sr, length = self.sample_rate, self.segment
        gains = 10 ** (draws.uniform(*self.layer_db, layers.shape[1]) / 20)
        x = (layers * gains[:, :, None, None]).sum(1)
        channels = x.shape[1]
        speeds = torch.where(draws.chance(self.speed_p), draws.uniform(*self.speed), 1.0)
        x = varispeed(x.flatten(0, 1), speeds.repeat_interleave(channels), length)
        x = x.unflatten(0, (-1, channels))
        x = self._filtered(x, draws)
        if channels == 2:
            x = self._placed(x, pan, draws)
        # Compression: the level over 20 ms, to a power.
        amount = draws.chance(self.squeeze_p) * draws.uniform(0, 0.5)
        if (amount > 0).any():
            frame = sr // 50
            power = F.avg_pool1d(x.square().mean(1, keepdim=True), 2 * frame, frame, frame)
            level = (power / power.mean(2, keepdim=True).clamp_min(1e-12)).clamp_min(1e-4)
            gain = level ** (-amount[:, None, None] / 2)
            x = x * F.interpolate(gain, length, mode="linear", align_corners=True)
        return x

    def _filtered(self, x: Tensor, draws: RowDraws) -> Tensor:
        """Equalise some rows of `x [B, C, T]`, and set some in a room."""
        n, sr = x.shape[2], self.sample_rate
        equal, curve = draws.chance(self.eq_p), draws.uniform(-self.eq_db, self.eq_db, 8)
        room, rt60 = draws.chance(self.reverb_p), draws.uniform(*self.rt60_s)
        drr = draws.uniform(*self.drr_db)
        h = statistical_rooms(rt60, drr, sr // 2, sr, draws)  # of all rows: each draws as if alone
        some = (equal | room).nonzero()[:, 0]
        if not len(some):
            return x
        size = n + sr // 2
        h = torch.where(room[some, None], h[some], F.pad(h.new_ones(1, 1), (0, h.shape[1] - 1)))
        response = torch.fft.rfft(h, size) * equaliser(curve[some] * equal[some, None], size, sr)
        made = torch.fft.irfft(torch.fft.rfft(x[some], size) * response[:, None], size)[..., :n]
        return x.index_copy(0, some, made)

    def _placed(self, x: Tensor, pan: float, draws: RowDraws) -> Tensor:
        """Place stereo rows `x [B, 2, T]`: width, delay of one channel, exchange, turn."""
        mid, side = (x[:, :1] + x[:, 1:]) / 2, (x[:, :1] - x[:, 1:]) / 2
        side = side * draws.uniform(*self.wide)[:, None, None]
        x = torch.cat([mid + side, mid - side], 1)
        late = draws.chance(self.delay_p if pan >= 1 else 0.0) * draws.uniform(0, self.delay_s)
        at = torch.arange(x.shape[2], device=x.device) - (late * self.sample_rate).long()[:, None]
        second = torch.where(at >= 0, x[:, 1].gather(1, at.clamp_min(0)), 0.0)
        x = torch.stack([x[:, 0], second], 1)
        x = torch.where(draws.chance(0.5)[:, None, None], x.flip(1), x)
        angle = draws.uniform(-pan, pan).pow(3) * torch.pi / 4  # mostly near the middle
        turn = torch.stack([(torch.pi / 4 + angle).cos(), (torch.pi / 4 + angle).sin()], 1) * 2**0.5
        return x * turn[:, :, None]
