"""Mixes of music: the weights of WaLLoC's authors, the gains of EnCodec's."""

import pytest
import torch

from audiomask.data.simulate.coding import Coding
from audiomask.data.simulate.remix import Gains, Remix


def raw(rows: int, stems: int = 4, level: float = 0.1) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {"sources": level * torch.randn(rows, stems, 2, 900, generator=g), "seed": torch.arange(rows) + 3}


def test_four_stems_have_21_sets_of_weights():
    table = Remix.weights(4)
    assert len(table) == len({tuple(row.tolist()) for row in table}) == 21
    assert sorted(table.sum(1).tolist()) == [1.0] * 4 + [2.0] * 6 + [3.0] * 4 + [4.0] * 7
    assert (table == 1.5).sum() == 12


def test_a_remix_has_no_constant_part_and_full_scale():
    batch = raw(64)
    x = Remix(44100, 800).example(batch).given["audio"]
    assert x.shape == (64, 2, 800)
    assert torch.allclose(x.abs().amax((1, 2)), torch.ones(64))
    assert x.mean((1, 2)).abs().max() < 1e-6
    flat, sources = x.flatten(1), batch["sources"][..., :800].flatten(2)
    sources = sources - sources.mean(2, keepdim=True)
    found = torch.linalg.lstsq(sources.mT, flat[..., None]).solution[..., 0]
    shape = found / found.amax(1, keepdim=True)
    ratios = {abs(round(float(v), 3)) for v in shape.flatten()}
    assert ratios == {0.0, 1.0, 0.333}


def test_gains_are_in_their_range_and_nothing_clips():
    batch = raw(50, 2, 0.01)
    x = Gains(48000, 900).example(batch).given["audio"]
    found = torch.linalg.lstsq(batch["sources"].flatten(2).mT, x.flatten(1)[..., None]).solution[..., 0]
    db = 20 * found.log10()
    assert -10.01 < db.min() < -8
    assert 4 < db.max() < 6.01
    loud = Gains(48000, 900).example(raw(50, 2, 1.0)).given["audio"]
    assert torch.allclose(loud.abs().amax((1, 2)), torch.ones(50))


@pytest.mark.parametrize("mixing", [Gains, Remix])
def test_a_row_is_drawn_by_its_seed(mixing):
    batch = raw(8)
    together = mixing(48000, 900).example(batch).given["audio"]
    row = {name: value[5:6] for name, value in batch.items()}
    torch.testing.assert_close(mixing(48000, 900).example(row).given["audio"], together[5:6])


def test_a_codec_is_given_both_channels():
    coding = Coding(Gains(48000, 900), [2, 4], per_batch=True, judged=4)
    example = coding.example(raw(3))
    assert example.given["audio"].shape == (3, 2, 900)
    assert torch.equal(example.given["audio"], example.wanted["decoded"])
    assert example.level.shape == (3, 1, 1)
    clip = coding.example({"audio": torch.randn(1, 2, 77)})
    assert clip.given["audio"].shape == (1, 2, 77)
    assert clip.given["books"].tolist() == [4]
