"""EnCodec's language model has the published sizes, runs frame by frame, and equals the package's."""

import pytest
import torch

from audiomask.models.encodec_lm import EnCodecLM

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
        torch.testing.assert_close(got, want.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-7)
