"""FRN has the published size and equals the published network. Its recipes stand for the contract."""

import copy

import librosa
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiomask import checkpoints
from audiomask.checkpoints import CheckpointError
from audiomask.cli import main
from audiomask.models.frn import FRN, from_authors

SMALL = {"size": 64, "units": 8, "hidden": 12, "blocks": 2, "memory": 8, "bands": 6, "filters": 2}


def small() -> FRN:
    torch.manual_seed(0)
    return FRN(**SMALL).eval()


def test_published_size_and_clock():
    model = FRN()
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert (count["encoder"], count["predictor"], count["joiner"]) == (7_843_392, 1_247_776, 530)
    assert sum(count.values()) == sum(p.numel() for p in model.parameters()) == 9_091_698
    assert (model.sample_rate, model.hop, model.latency) == (48000, 480, 960)


def test_an_odd_number_of_filters_is_refused():
    with pytest.raises(ValueError, match="3 filters"):
        FRN(**SMALL | {"filters": 3})


# --- against the published network --------------------------------------------------------------------------


def named_as_the_authors(size=64, units=8, hidden=12, blocks=2, memory=8, bands=6, filters=2):
    """A random state dict under the authors' keys; scales large enough that each part is heard."""
    torch.manual_seed(1)
    state = {}

    def put(name: str, module: nn.Module) -> None:
        gain = 4 if name.startswith("predictor") else 1.5
        state.update({f"{name}.{key}": gain * value for key, value in module.state_dict().items()})

    put("predictor.lstm", nn.LSTM(bands, memory))
    put("predictor.expand_dim", nn.Linear(memory, bands))
    put("predictor.inv_mel", nn.Linear(bands, size // 2))
    put("joiner.0", nn.Conv2d(3, 3 * filters, (9, 1), groups=3))
    put("joiner.2", nn.Conv2d(3 * filters, 2, 1, groups=2))
    put("encoder.to_patch_embedding.1", nn.Linear(size, units))
    put("encoder.affine.1", nn.Linear(units, size))
    affines = ["encoder.affine.0"]
    for i in range(blocks):
        home = f"encoder.mlp_blocks.{i}"
        put(f"{home}.inter", nn.LSTM(units, units))
        put(f"{home}.ff.0.net.0", nn.Linear(units, hidden))
        put(f"{home}.ff.0.net.3", nn.Linear(hidden, units))
        affines += [f"{home}.pre_affine", f"{home}.post_affine"]
        for scale in ("gamma_1", "gamma_2"):
            state[f"{home}.{scale}"] = torch.rand(units)
    for name in affines:
        state[f"{name}.alpha"] = 1 + 0.3 * torch.randn(1, 1, units)
        state[f"{name}.beta"] = 0.3 * torch.randn(1, 1, units)
    return {name: value.detach() for name, value in state.items()}


class Published:
    """The published network, frame by frame, of torch's own layers, on `[B, 2, F, T]` without the lowest bin.

    `before_residual`: their exported graph's mistake.
    """

    def __init__(self, state: dict[str, torch.Tensor], rate: int, before_residual: bool = False) -> None:
        self.state, self.before_residual = state, before_residual
        self.blocks = len([key for key in state if key.endswith("gamma_1")])
        units, bands, memory = (
            len(state[name])
            for name in ("encoder.to_patch_embedding.1.bias", "predictor.expand_dim.bias", "joiner.0.bias")
        )
        memory = state["predictor.lstm.weight_hh_l0"].shape[1]
        filters = len(state["joiner.0.bias"])
        self.joiner = nn.Sequential(
            nn.Conv2d(3, filters, (9, 1), padding=(4, 0), padding_mode="reflect", groups=3),
            nn.LeakyReLU(0.2),
            nn.Conv2d(filters, 2, 1, groups=2),
        )
        self.joiner.load_state_dict(self.below("joiner"))
        self.remember = nn.LSTM(bands, memory)
        self.remember.load_state_dict(self.below("predictor.lstm"))
        self.inner = [nn.LSTM(units, units) for _ in range(self.blocks)]
        for i, lstm in enumerate(self.inner):
            lstm.load_state_dict(self.below(f"encoder.mlp_blocks.{i}.inter"))
        size = len(state["encoder.affine.1.bias"])
        self.mel = torch.from_numpy(librosa.filters.mel(sr=rate, n_fft=size, n_mels=bands))[:, 1:]

    def below(self, name):
        return {k.removeprefix(f"{name}."): v for k, v in self.state.items() if k.startswith(f"{name}.")}

    def linear(self, name, x):
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def affine(self, name, x):
        return x * self.state[f"{name}.alpha"] + self.state[f"{name}.beta"]

    def __call__(self, x):
        batch, _, bins, frames = x.shape
        inner, remembered = [None] * self.blocks, None
        magnitude, out = torch.zeros(batch, bins), []
        for t in range(frames):
            now = x[..., t]
            e = F.gelu(self.linear("encoder.to_patch_embedding.1", now.reshape(1, batch, -1)))
            for i in range(self.blocks):
                home = f"encoder.mlp_blocks.{i}"
                e = self.affine(f"{home}.pre_affine", e)
                y, inner[i] = self.inner[i](e, inner[i])
                e = self.affine(f"{home}.post_affine", e + self.state[f"{home}.gamma_1"] * y)
                y = self.linear(f"{home}.ff.0.net.3", F.gelu(self.linear(f"{home}.ff.0.net.0", e)))
                e = e + self.state[f"{home}.gamma_2"] * y
            e = self.linear("encoder.affine.1", self.affine("encoder.affine.0", e))
            e = e.reshape(batch, 2, bins) + now
            p, remembered = self.remember((magnitude @ self.mel.T + 1e-8).log()[None], remembered)
            p = self.linear("predictor.inv_mel", self.linear("predictor.expand_dim", p).exp()).abs()
            joined = self.joiner(torch.cat([e, p.reshape(batch, 1, bins)], 1)[..., None])[..., 0]
            y = joined + now
            magnitude = (joined if self.before_residual else y).abs().sum(1)
            out.append(y)
        return torch.stack(out, 3)

    def sound(self, x):
        """`[B, T]` -> the same, between their transforms."""
        size = len(self.state["encoder.affine.1.bias"])
        window = torch.hann_window(size).sqrt()
        z = torch.stft(x, size, size // 2, window=window, pad_mode="constant", return_complex=True)
        y = self(torch.stack([z.real, z.imag], 1)[:, :, 1:])
        y = torch.cat([z[:, :1], torch.complex(y[:, 0], y[:, 1])], 1)
        return torch.istft(y, size, size // 2, window=window, length=x.shape[1])


def gappy(batch: int, samples: int, rate: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x = 0.1 * torch.randn(batch, samples, generator=generator)
    for start in range(rate // 20, samples, rate // 8):
        x[:, start : start + rate // 50] = 0
    return x


def loaded(state, **more) -> FRN:
    arguments, tensors = from_authors(state)
    model = FRN(**arguments, **more).eval()
    model.load_state_dict(tensors)
    return model


@torch.no_grad()
@pytest.mark.parametrize("published_size", [False, True])
def test_equals_the_published_network(published_size):
    if published_size:
        state = named_as_the_authors(960, 384, 768, 4, 512, 64, 16)
        rate, samples = 48000, 40 * 480
    else:
        state, rate, samples = named_as_the_authors(), 16000, 4000
    x = gappy(2, samples, rate)
    want = Published(state, rate).sound(x)
    got = loaded(state, sample_rate=rate)(x[:, None])[:, 0]
    last = samples // 480 * 480 if published_size else samples // 32 * 32  # behind it torch.istft divides not
    assert (got - want)[:, :last].abs().max() < 1e-5 * want.abs().max()


@torch.no_grad()
def test_the_magnitude_is_fed_back_after_the_residual():
    """The mistake of the published graph is heard, and ours is not that graph."""
    state, x = named_as_the_authors(), gappy(1, 4000, 16000)
    right, wrong = (Published(state, 16000, early).sound(x) for early in (False, True))
    ours = loaded(state, sample_rate=16000)(x[:, None])[:, 0]
    assert (right - wrong).abs().max() > 1e-2 * right.abs().max()
    assert (ours - wrong)[:, :3968].abs().max() > 1e-2 * right.abs().max()
    assert (ours - right)[:, :3968].abs().max() < 1e-5 * right.abs().max()


@torch.no_grad()
def test_the_lowest_bin_passes_and_the_prediction_reaches_the_imaginary_part_only():
    model, other = small(), small()
    for parameter in other.predictor.parameters():
        parameter.add_(0.2)
    x = gappy(1, 2048, 16000)[:, None]
    window = torch.hann_window(64).sqrt()

    def spectra(model):
        kept = {}
        hook = model.synthesis.step

        def step(y, state):
            kept["y"] = y
            return hook(y, state)

        model.synthesis.step = step
        model(x)
        return kept["y"]

    a, b = spectra(model), spectra(other)
    assert torch.equal(a[:, 0], b[:, 0])
    assert (a[:, 1, 1:] - b[:, 1, 1:]).abs().max() > 1e-3
    z = torch.stft(x[:, 0], 64, 32, window=window, pad_mode="constant", return_complex=True)
    assert (a[:, 0, : z.shape[2], 0] - z[:, 0].real).abs().max() < 1e-6


@torch.no_grad()
def test_all_frames_at_once_predict_what_one_after_the_other_does():
    predictor = small().predictor
    magnitude = torch.rand(7, 2, 32)
    h = c = torch.zeros(2, 8)
    steps = []
    for frame in magnitude:
        y, h, c = predictor.frame(frame, h, c)
        steps.append(y)
    once, *end = predictor(magnitude, torch.zeros(2, 8), torch.zeros(2, 8))
    assert torch.allclose(once, torch.stack(steps), rtol=1e-5, atol=1e-7)
    assert torch.allclose(torch.stack(end), torch.stack([h, c]), rtol=1e-5, atol=1e-7)


def test_the_predictors_stage_trains_the_predictor_only():
    """On the sound whose magnitudes are predicted from the frames before; the weights fit the whole."""
    torch.manual_seed(0)
    model = FRN(**SMALL, stage="predictor")
    small().load_state_dict(model.state_dict())
    x = gappy(1, 1024, 16000)[:, None]
    model(x).square().sum().backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"predictor"}
    with torch.no_grad():
        kept, step = {}, model.synthesis.step
        model.synthesis.step = lambda y, state: (kept.update(y=y), step(y, state))[1]
        model(x)
        window = torch.hann_window(64).sqrt()
        z = torch.stft(x[:, 0], 64, 32, window=window, pad_mode="constant", return_complex=True)
        magnitude = (z.real.abs() + z.imag.abs())[:, 1:].permute(2, 0, 1)
        zero = torch.zeros(1, 8)
        before = torch.cat([torch.zeros(1, 1, 32), magnitude[:-1]])
        want = model.predictor(before, zero, zero)[0]
        got = kept["y"][:, :, : len(want), 1:].abs().sum(1).permute(1, 0, 2)
        heard = magnitude > 1e-3
        assert heard.float().mean() > 0.5
        assert torch.allclose(got[heard], want[heard], rtol=1e-3)
    with pytest.raises(ValueError, match="all and predictor"):
        FRN(stage="joiner")


@torch.no_grad()
def test_golden_values():
    """Weights and sound by formula, so that no generator of random numbers is part of it."""
    model = FRN(**SMALL, sample_rate=16000).eval()
    for i, parameter in enumerate(model.parameters()):
        n = torch.arange(parameter.numel(), dtype=torch.float64)
        parameter.copy_((0.4 * torch.sin(1.7 * n + i)).reshape(parameter.shape))
    n = torch.arange(320, dtype=torch.float64)
    x = torch.where((n > 128) & (n < 224), 0.0, 0.3 * torch.sin(0.21 * n)).float()
    y = model(x[None, None])[0, 0]
    assert y[[40, 100, 130, 160, 200, 230, 300]].tolist() == pytest.approx(GOLDEN, abs=1e-5)


GOLDEN = [0.246967, 0.248363, -0.044512, -0.02035, -0.007314, -0.304197, 0.039405]


# --- their checkpoint ---------------------------------------------------------------------------------------


def lightning(state) -> dict:
    """What a trainer's checkpoint holds beside the weights: moments of the optimiser, counters, settings."""
    moments = {
        i: {"step": 3, "exp_avg": torch.zeros_like(v), "exp_avg_sq": torch.zeros_like(v)}
        for i, v in enumerate(state.values())
    }
    return {
        "epoch": 65, "global_step": 30000, "pytorch-lightning_version": "1.5.9",
        "state_dict": state,
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.229)}},
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 1e-4, "params": list(moments)}]}],
        "lr_schedulers": [{"factor": 0.5, "best": torch.tensor(0.229), "mode_worse": float("inf")}],
        "hyper_parameters": {"window_size": 960, "enc_layers": 4},
    }  # fmt: skip


def test_a_checkpoint_of_a_trainer_is_taken_over(tmp_path, capsys):
    state = named_as_the_authors(blocks=1)
    torch.save(lightning(state), tmp_path / "frn.ckpt")
    model, config, card = checkpoints.load("frn", [tmp_path / "frn.ckpt"], sample_rate=16000)
    assert config["init_args"] == {**SMALL, "blocks": 1, "sample_rate": 16000}
    assert "CC-BY-NC" in card["licence"]
    x = gappy(1, 960, 16000)[:, None]
    with torch.no_grad():
        assert torch.equal(model(x), loaded(state, sample_rate=16000)(x))
    out = tmp_path / "frn.onnx"
    assert main(["import", "frn", str(tmp_path / "frn.ckpt"), "-o", str(out)]) == 0
    assert "not for commercial use" in capsys.readouterr().out
    assert out.exists()


def test_the_published_shapes_give_the_published_arguments():
    state = named_as_the_authors(960, 384, 768, 4, 512, 64, 16)
    arguments, tensors = from_authors(state)
    assert sum(v.numel() for v in state.values()) == sum(v.numel() for v in tensors.values()) == 9_091_698
    assert FRN(**arguments).state_dict().keys() == tensors.keys() == FRN().state_dict().keys()


def test_keys_of_another_network_and_missing_ones_are_named(tmp_path):
    state = named_as_the_authors()
    with pytest.raises(KeyError, match="cnn"):
        from_authors(state | {"encoder.cnn.weight": torch.zeros(1)})
    short = copy.copy(state)
    del short["predictor.lstm.bias_hh_l0"]
    torch.save(short, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"a\.ckpt: does not fit .*bias_hh_l0"):
        checkpoints.load("frn", [tmp_path / "a.ckpt"])
