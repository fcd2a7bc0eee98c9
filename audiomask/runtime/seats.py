"""Seat the channels of a recording in pairs, for models of stereo sound.

    seats = Seats(6, mask_of("FL FR FC LFE BL BR"), 2)      # of 5.1
    y = seats.gathered(model(seats.seated(x)))              # x [6, T]; the model plays [2 * 3, T]

Left and right, sides and backs are pairs. The centre is by itself, once for each channel of the model, so
that what is said there meets nothing else; what becomes of it is the mean of the model's channels. The low
frequency effects are `low`: no model hears them. Channels whose speakers nobody names are pairs as they come.
"""

from __future__ import annotations

import numpy as np

from audiomask.audio.layout import names_of

LEFT_RIGHT = ("FL FR", "FLC FRC", "SL SR", "BL BR", "TFL TFR", "TBL TBR")


class Seats:
    """A plan of which channel sits where, in rows of `width` channels (1 or 2) of a model.

    Attributes: `rows`, channels that the model plays in all, and `order`, which they are; `low`, the channels
    that it does not; `plain`, whether everything stays where it is.
    """

    def __init__(self, channels: int, mask: int, width: int):
        names = names_of(mask) if mask and channels > 1 else []
        names = names if len(names) == channels else []
        self.channels = channels
        self.low = [n for n, name in enumerate(names) if name == "LFE"]
        groups: list[tuple[int, ...]]
        if width == 1:
            groups = [(n,) for n in range(channels) if n not in self.low]
        elif names:
            found = [
                tuple(map(names.index, pair.split())) for pair in LEFT_RIGHT if {*pair.split()} <= {*names}
            ]
            paired = {n for pair in found for n in pair}
            groups = found + [(n, n) for n in range(channels) if n not in (*paired, *self.low)]
        else:
            groups = [(n, min(n + 1, channels - 1)) for n in range(0, channels, 2)]
        self.order = [n for group in groups for n in group]
        self.rows = len(self.order)
        self._heard = sorted({*self.order})
        places = [[row for row, n in enumerate(self.order) if n == heard] for heard in self._heard]
        self._places = np.array([(rows[0], rows[-1]) for rows in places]).T
        self.plain = self.order == list(range(channels))

    def seated(self, x: np.ndarray) -> np.ndarray:
        """Return what the model hears, `[rows, T]`, of `x [channels, T]`."""
        return x[self.order]

    def gathered(self, y: np.ndarray) -> np.ndarray:
        """Return `[channels, T]` of what the model makes, `[rows, T]`; `low` is silent."""
        first, second = self._places
        z = np.zeros((self.channels, y.shape[1]), y.dtype)
        z[self._heard] = np.float32(0.5) * (y[first] + y[second])
        return z
