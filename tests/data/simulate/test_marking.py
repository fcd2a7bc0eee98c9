"""Rows to be marked get a message and a mask, drawn as AudioSeal's authors draw them, each from its seed."""

import pytest
import torch

from audiomask.data.example import Example, Simulation
from audiomask.data.simulate.marking import Marking


class Speech(Simulation):
    """Rows of a batch as they are."""

    def example(self, batch):
        return Example({"audio": batch["speech"][:, None]}, {}, torch.ones(1))


def examples(rows: int, **options) -> dict[str, torch.Tensor]:
    seeds = torch.arange(rows) + 1000
    speech = torch.arange(rows, dtype=torch.float32)[:, None] + torch.linspace(1, 1.5, 240)
    return dict(Marking(Speech(16000, 240), 4, **options).example({"speech": speech, "seed": seeds}).given)


def test_parts_are_replaced_as_often_as_published():
    given = examples(3000)
    x, mask, fill = (given[name][:, 0] for name in ("audio", "mask", "fill"))
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    whole = mask.amin(1) == 1
    silent, same = (fill == 0).all(1), (fill == x).all(1)
    other = (fill == x.roll(1, 0)).all(1)
    for rows, share in ((silent, 0.2), (other, 0.2), (same & ~whole, 0.4), (whole, 0.2)):
        assert float(rows.float().mean()) == pytest.approx(share, abs=0.03)
    kept = mask[~whole].mean(1)
    assert float(kept.mean()) == pytest.approx(0.5, abs=0.1)
    assert 0 < float(kept.min()) < 0.5 < float(kept.max()) < 1
    edges = (mask[~whole].diff(dim=1) != 0).sum(1)
    assert int(edges.min()) >= 1
    assert 8 <= int(edges.max()) <= 10  # of five windows
    assert given["message"].shape == (3000, 4)
    assert float(given["message"].float().mean()) == pytest.approx(0.5, abs=0.03)


def test_messages_of_symbols():
    drawn = examples(1000, levels=3)["message"]
    assert drawn.dtype == torch.int64
    assert [float((drawn == s).float().mean()) for s in range(3)] == [pytest.approx(1 / 3, abs=0.03)] * 3


def test_a_row_replays_in_any_batch():
    many, few = examples(12, replace_p=0.0), examples(5, replace_p=0.0)
    for name, value in few.items():
        assert torch.equal(value, many[name][:5])


def test_recordings_are_marked_as_they_are():
    audio = torch.randn(2, 1, 777)
    given = Marking(Speech(16000, 240), 4).example({"audio": audio}).given
    assert torch.equal(given["audio"], audio)
    assert given["mask"].shape == audio.shape


@pytest.mark.parametrize(
    "wrong",
    [
        {"silence_p": 0.5, "replace_p": 0.4},
        {"remove_p": -0.1},
        {"windows": 0},
        {"covered": 1.0},
        {"levels": 1},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="want"):
        examples(1, **wrong)
