"""EnCodec's language model has the published sizes, runs frame by frame, and equals the package's."""

import numpy as np
import pytest
import torch

from audiomask import checkpoints, weights
from audiomask.models.encodec_lm import EnCodecLM, Predictions

TINY = {"books": 3, "levels": 8, "dim": 16, "heads": 2, "hidden": 12, "layers": 2, "context": 5}


@pytest.mark.parametrize(("books", "context", "size"), [(32, 262, 15_559_768), (16, 525, 8_986_584)])
def test_published_sizes(books, context, size):
    with torch.device("meta"):
        model = EnCodecLM(books, context=context)
    assert sum(p.numel() for p in model.parameters()) == size


def frames(count: int, books: int = 3, levels: int = 8) -> torch.Tensor:
    codes = torch.randint(levels, (2, books, count), generator=torch.Generator().manual_seed(0))
    codes[:, :, 0] = -1
    return codes


@torch.no_grad()
def test_frame_by_frame_is_the_whole():
    """Over more frames than the context has, though not over more than all layers see."""
    torch.manual_seed(0)
    model, codes = EnCodecLM(**TINY).eval(), frames(20)
    whole, _ = model(codes)
    assert torch.allclose(whole.sum(3), torch.ones(2, 3, 20), atol=1e-5)
    memory, parts = None, []
    for t in range(20):
        part, memory = model(codes[:, :, t : t + 1], memory, t)
        parts.append(part)
    assert all(kept.shape[1] == 5 for kept in memory)
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_fewer_codebooks():
    model = EnCodecLM(**TINY).eval()
    assert model(frames(4, 2))[0].shape == (2, 2, 4, 8)


@torch.no_grad()
def test_a_checkpoint_becomes_predictions(tmp_path):
    torch.manual_seed(0)
    model = EnCodecLM(16, 64, 16, hidden=24, layers=2, context=525).eval()
    torch.save(model.state_dict(), tmp_path / "lm.th")
    found, config, card = checkpoints.load("encodec_lm", [tmp_path / "lm.th"])
    assert "MIT" in card["licence"]
    predictions = Predictions(weights.save(tmp_path / "lm", found, config))
    assert (predictions.books, predictions.levels) == (16, 64)
    codes = frames(5, 2, 64)[:1]
    for _ in range(2):
        predictions.begin()
        memory = None
        for t in range(5):
            wanted, memory = model(codes[:, :, t : t + 1], memory, t)
            np.testing.assert_array_equal(predictions.after(codes[0, :, t].numpy()), wanted[0, :, 0].numpy())


def test_a_folder_of_another_model_makes_no_predictions(tmp_path):
    config = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1}}
    weights.save(tmp_path, torch.nn.Linear(1, 1), config)
    with pytest.raises(weights.WeightsError, match=r"holds 'torch\.nn\.Linear', not audiomask\.models\.enc"):
        Predictions(tmp_path)


@pytest.mark.peer
@torch.no_grad()
def test_equals_the_package():
    import audiomask.frontend.torchaudio_import  # noqa: F401 (the package imports torchaudio)

    package = pytest.importorskip("encodec.model")
    torch.manual_seed(0)
    peer = package.LMModel(4, 1024, num_layers=5, dim=200, past_context=20).eval()
    ours = EnCodecLM(4, context=20).eval()
    ours.load_state_dict(peer.state_dict())
    codes, states, offset, memory = frames(50, 4, 1024), None, 0, None
    for t in range(50):
        now = codes[:, :, t : t + 1]
        want, states, offset = peer(now + 1, states, offset)
        got, memory = ours(now, memory, t)
        assert torch.equal(got, want.permute(0, 2, 3, 1))  # to the last bit, or its files cannot be read
