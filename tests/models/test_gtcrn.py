"""GTCRN has the published size and equals the published network. Its recipe stands for the contract."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiomask.models.gtcrn import GTCRN, erb_bands, from_authors


def test_published_size_and_clock():
    model = GTCRN()
    assert sum(p.numel() for p in model.parameters()) == 23_669
    assert (model.hop, model.latency) == (256, 512)


def test_bands_are_a_partition_and_fit_the_rate():
    bands = erb_bands(65, 64, 512, 16000)
    assert bands.shape == (64, 192)
    assert torch.allclose(bands.sum(0), torch.ones(192))
    assert (bands >= 0).all()
    assert bands.argmax(1).diff().min() >= 1


def test_bands_that_cannot_be_halved_twice_are_refused():
    with pytest.raises(ValueError, match="4 n"):
        GTCRN(low=64)


def named_as_the_authors() -> dict[str, torch.Tensor]:
    """A random state dict under the authors' keys, at the published size."""
    torch.manual_seed(1)
    state = {"erb.erb_fc.weight": torch.rand(64, 192) / 3, "erb.ierb_fc.weight": torch.rand(192, 64) / 3}

    def put(name: str, module: nn.Module) -> None:
        state.update({f"{name}.{key}": value for key, value in module.state_dict().items()})

    def norm(name: str, n: int) -> None:
        bn = nn.BatchNorm2d(n)
        nn.init.uniform_(bn.running_var, 0.5, 2)
        nn.init.normal_(bn.running_mean, 0, 0.2)
        nn.init.normal_(bn.weight, 1, 0.1)
        put(name, bn)

    for side, place, conv in (("encoder.en_convs", (0, 1), nn.Conv2d), ("decoder.de_convs", (3, 4), None)):
        conv = conv or nn.ConvTranspose2d
        for i in place:
            sizes = {0: (9, 16, 1), 1: (16, 16, 2), 3: (16, 16, 2), 4: (16, 2, 1)}[i]
            put(f"{side}.{i}.conv", conv(*sizes[:2], (1, 5), groups=sizes[2]))
            norm(f"{side}.{i}.bn", sizes[1])
            if i < 4:
                put(f"{side}.{i}.act", nn.PReLU())
        for i in (2, 3, 4) if side.startswith("enc") else (0, 1, 2):
            name = f"{side}.{i}"
            put(f"{name}.point_conv1", conv(24, 16, 1))
            put(f"{name}.depth_conv", conv(16, 16, 3, groups=16))
            put(f"{name}.point_conv2", conv(16, 8, 1))
            for part, n in (("point_bn1", 16), ("depth_bn", 16), ("point_bn2", 8)):
                norm(f"{name}.{part}", n)
            for part in ("point_act", "depth_act"):
                put(f"{name}.{part}", nn.PReLU())
            put(f"{name}.tra.att_gru", nn.GRU(8, 16))
            put(f"{name}.tra.att_fc", nn.Linear(16, 8))
    for name in ("dpgrnn1", "dpgrnn2"):
        for j in (1, 2):
            put(f"{name}.intra_rnn.rnn{j}", nn.GRU(8, 4, bidirectional=True))
            put(f"{name}.inter_rnn.rnn{j}", nn.GRU(8, 8))
        for part in ("intra", "inter"):
            put(f"{name}.{part}_fc", nn.Linear(16, 16))
            put(f"{name}.{part}_ln", nn.LayerNorm((33, 16)))
    return state


class Published:
    """The published network on a spectrogram `[B, 2, T, 257]`, from torch's own functions and their keys."""

    def __init__(self, state):
        self.state = state

    def part(self, name: str, module: nn.Module) -> nn.Module:
        own = {k.removeprefix(f"{name}."): v for k, v in self.state.items() if k.startswith(f"{name}.")}
        module.load_state_dict(own)
        return module.eval()

    def block(self, name, x, dilation, up):
        def conv(part, i, o, kernel, **more):
            made = nn.ConvTranspose2d(i, o, kernel, **more) if up else nn.Conv2d(i, o, kernel, **more)
            return self.part(f"{name}.{part}", made)

        def norm(part, n):
            return self.part(f"{name}.{part}", nn.BatchNorm2d(n))

        x, rest = x.chunk(2, 1)
        b, c, t, f = x.shape
        x = F.unfold(x, (1, 3), padding=(0, 1)).reshape(b, 3 * c, t, f)
        x = self.part(f"{name}.point_act", nn.PReLU())(
            norm("point_bn1", 16)(conv("point_conv1", 24, 16, 1)(x))
        )
        x = F.pad(x, (0, 0, 2 * dilation, 0))
        padding = (2 * dilation if up else 0, 1)
        x = conv("depth_conv", 16, 16, 3, padding=padding, dilation=(dilation, 1), groups=16)(x)
        x = self.part(f"{name}.depth_act", nn.PReLU())(norm("depth_bn", 16)(x))
        x = norm("point_bn2", 8)(conv("point_conv2", 16, 8, 1)(x))
        energy = x.pow(2).mean(-1).transpose(1, 2)
        gate = self.part(f"{name}.tra.att_gru", nn.GRU(8, 16, batch_first=True))(energy)[0]
        gate = self.part(f"{name}.tra.att_fc", nn.Linear(16, 8))(gate).sigmoid().transpose(1, 2)
        return torch.stack([x * gate[..., None], rest], 2).flatten(1, 2)

    def path(self, name, x):
        b, c, t, f = x.shape
        x = x.permute(0, 2, 3, 1)
        for kind, both in (("intra", True), ("inter", False)):
            y = x if both else x.transpose(1, 2)
            y = y.flatten(0, 1)
            y = torch.cat(
                [
                    self.part(
                        f"{name}.{kind}_rnn.rnn{j + 1}",
                        nn.GRU(8, 4 if both else 8, batch_first=True, bidirectional=both),
                    )(part)[0]
                    for j, part in enumerate(y.chunk(2, 2))
                ],
                2,
            )
            y = self.part(f"{name}.{kind}_fc", nn.Linear(16, 16))(y)
            y = y.reshape(b, t, f, c) if both else y.reshape(b, f, t, c).transpose(1, 2)
            x = x + self.part(f"{name}.{kind}_ln", nn.LayerNorm((33, 16), eps=1e-8))(y)
        return x.permute(0, 3, 1, 2)

    def __call__(self, spectrum):
        x = torch.cat([(spectrum.square().sum(1, keepdim=True) + 1e-12).sqrt(), spectrum], 1)
        x = torch.cat([x[..., :65], F.linear(x[..., 65:], self.state["erb.erb_fc.weight"])], 3)
        b, _, t, f = x.shape
        x = F.unfold(x, (1, 3), padding=(0, 1)).reshape(b, 9, t, f)
        skips = []
        for i in range(5):
            name = f"encoder.en_convs.{i}"
            if i < 2:
                made = nn.Conv2d((9, 16)[i], 16, (1, 5), (1, 2), (0, 2), groups=(1, 2)[i])
                x = self.part(f"{name}.bn", nn.BatchNorm2d(16))(self.part(f"{name}.conv", made)(x))
                x = self.part(f"{name}.act", nn.PReLU())(x)
            else:
                x = self.block(name, x, (1, 2, 5)[i - 2], False)
            skips.append(x)
        x = self.path("dpgrnn2", self.path("dpgrnn1", x))
        for i in range(5):
            name, x = f"decoder.de_convs.{i}", x + skips.pop()
            if i < 3:
                x = self.block(name, x, (5, 2, 1)[i], True)
            else:
                out = (16, 2)[i - 3]
                made = nn.ConvTranspose2d(16, out, (1, 5), (1, 2), (0, 2), groups=(2, 1)[i - 3])
                x = self.part(f"{name}.bn", nn.BatchNorm2d(out))(self.part(f"{name}.conv", made)(x))
                x = self.part(f"{name}.act", nn.PReLU())(x) if i == 3 else x.tanh()
        mask = torch.cat([x[..., :65], F.linear(x[..., 65:], self.state["erb.ierb_fc.weight"])], 3)
        y = torch.view_as_complex(spectrum.permute(0, 2, 3, 1).contiguous())
        y = y * torch.view_as_complex(mask.permute(0, 2, 3, 1).contiguous())
        return torch.view_as_real(y).permute(0, 3, 1, 2)


@torch.no_grad()
def test_equals_the_published_network_from_start_to_tail():
    state = named_as_the_authors()
    assert len(state) == 271
    arguments, tensors = from_authors(state)
    model = GTCRN(**arguments).eval()
    model.load_state_dict(tensors)
    x, window = 0.1 * torch.randn(2, 5000), torch.hann_window(512).sqrt()
    spectrum = torch.stft(x, 512, 256, window=window, pad_mode="constant", return_complex=True)
    want = Published(state)(torch.view_as_real(spectrum).permute(0, 3, 2, 1).contiguous())
    want = torch.view_as_complex(want.permute(0, 3, 2, 1).contiguous())
    want = torch.istft(want, 512, 256, window=window, length=5000)
    got = model(x[:, None])[:, 0]
    last = 5000 // 256 * 256  # torch.istft leaves what lies behind its last frame undivided
    assert (got - want)[:, :last].abs().max() < 1e-5 * want.abs().max()


def test_a_key_of_another_network_is_refused():
    with pytest.raises(KeyError, match="lstm"):
        from_authors(named_as_the_authors() | {"encoder.en_convs.0.lstm.weight": torch.zeros(1)})
