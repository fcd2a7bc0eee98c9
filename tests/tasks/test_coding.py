"""Training a codec: what is drawn for it, what its terms are, and a run of `audiomask train`."""

import pytest
import torch
from codec_pair import TINY
from small_trainings import ROOT, checkpoint, killed_equals_whole, train

from audiomask import weights
from audiomask.audio import AudioError
from audiomask.data.simulate.coding import Coding
from audiomask.data.simulate.degrade import Degrade
from audiomask.losses import L1Loss, Objective
from audiomask.masks.packets import Uniform
from audiomask.models.gist import Gist, GistDecoder, GistEncoder
from audiomask.tasks.signals import Signals


def coding(**changes) -> Coding:
    return Coding(Degrade(16000, 16000), **{"books": [3, 6], "losses": [Uniform(0.3)]} | changes)


def raw(rows: int, length: int = 24000) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    speech = 0.1 * torch.randn(rows, length, generator=g)
    noise = 0.1 * torch.randn(rows, 3, length, generator=g)
    return {"speech": speech, "noise": noise, "seed": torch.arange(rows) + 5}


def small() -> Gist:
    torch.manual_seed(0)
    return Gist(**TINY)


def test_rows_draw_codebooks_and_losses_of_their_own():
    example = coding().example(raw(40))
    assert torch.equal(example.given["audio"], example.wanted["decoded"])
    books, lost = example.given["books"], example.given["lost"]
    assert set(books.tolist()) == {3, 6}
    assert lost.shape == (40, 1, 50)
    assert set(lost.unique().tolist()) == {0.0, 1.0}
    assert 0.2 < lost.mean() < 0.4
    row = {name: value[7:8] for name, value in raw(40).items()}
    alone = coding().example(row)
    for name in ("audio", "books", "lost"):
        torch.testing.assert_close(alone.given[name], example.given[name][7:8])


def test_a_batch_may_draw_its_codebooks_together():
    books = [
        coding(per_batch=True).example(raw(4) | {"seed": torch.arange(4) + i}).given["books"]
        for i in range(20)
    ]
    assert all(len(of.unique()) == 1 for of in books)
    assert {int(of[0]) for of in books} == {3, 6}


def test_recordings_are_judged_whole_at_one_rate():
    example = coding(judged=6).example({"audio": torch.randn(1, 12345)})
    assert example.given["books"].tolist() == [6]
    assert not example.given["lost"].any()
    assert example.given["lost"].shape == (1, 1, 39)


def test_no_codebook_is_refused():
    with pytest.raises(AudioError, match=r"books is \[0, 3\]"):
        coding(books=[0, 3])


def test_the_network_in_training_is_its_two_parts_in_turn():
    """Sound through codes, also where some frames and some codebooks are lost; the end is silence."""
    whole = small().eval()
    encoder, decoder = (cls(**TINY).eval() for cls in (GistEncoder, GistDecoder))
    for part in (encoder, decoder):
        part.load_state_dict(whole.state_dict())
    x = torch.randn(2, 1, 16000)
    x[:, :, 14000:] = 0
    lost = (torch.rand(2, 1, 50) < 0.3).float()
    lost[:, :, -1] = 0
    books = torch.tensor([2, 5])
    with torch.no_grad():
        y, terms = whole.learn(x, lost, books)
        codes = encoder(x, books=books)
        assert torch.equal(codes >= 0, (torch.arange(6) < books[:, None])[..., None].expand_as(codes))
        torch.testing.assert_close(y[:, :, :-640], decoder(codes, lost=lost)[:, :, :-640], rtol=0, atol=1e-6)
        torch.testing.assert_close(y, whole(x, lost=lost, books=books), rtol=0, atol=1e-6)
    assert set(terms) == {"commitment"}


def test_a_signal_of_any_length_keeps_it():
    model = small().eval()
    for length in (1, 319, 320, 321, 1000):
        assert model.learn(torch.randn(1, 1, length))[0].shape == (1, 1, length)


def test_the_commitment_is_part_of_the_loss():
    task = Signals(
        small(), Objective({"l1": L1Loss()}, {"commitment": 0.5}, outside=["commitment"]), coding()
    )
    task.log_dict = lambda *args, **kwargs: None
    total, parts, _ = task.compare(coding().example(raw(2)))
    torch.testing.assert_close(total.detach(), parts["l1"] + 0.5 * parts["commitment"])
    total.backward()
    assert task.model.encoder.out.weight.grad.any()
    assert task.model.decoder.synthesis.weight.grad.any()


def tiny() -> dict:
    return {f"model__model__{key}": value for key, value in TINY.items()} | {
        "recipe": ROOT / "recipes/codec/gist.yaml",
        "model__simulation__books": "[3,6]",
        "model__simulation__judged": 6,
    }


def test_training_runs_validates_and_keeps_both_parts(data, tmp_path):
    train(data, tmp_path / "run", 6, **tiny())
    state = checkpoint(tmp_path / "run")
    assert state["global_step"] == 6
    assert state["state_dict"]["model.quantizer.inited"].all()
    parts = weights.load_parts(tmp_path / "run/model")
    assert {name: type(model) for name, (model, _) in parts.items()} == {
        "enc": GistEncoder,
        "dec": GistDecoder,
    }


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(data, tmp_path):
    killed_equals_whole(data, tmp_path, **tiny())
