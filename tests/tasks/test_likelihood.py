"""A run of `audiomask train` with Hunch's recipe: from a codec and recordings to smaller files."""

import codec_pair
import numpy as np
import pytest
import small_trainings
import torch

from audiomask import weights
from audiomask.data.crops.packed import PackedAudio
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.modules import Codes
from audiomask.export import probabilities as exporting
from audiomask.export.packing import ExportError
from audiomask.models.hunch import Hunch
from audiomask.runtime.catalogue import codec_hash, codec_part
from audiomask.runtime.codes.files import AmkFile
from audiomask.runtime.codes.probabilities import Probabilities
from audiomask.runtime.player import Player

TINY = {"levels": 16, "books": 6, "width": 4, "hidden": 16, "inner": 8}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return codec_pair.build(tmp_path_factory.mktemp("codec"))


def test_trained_exported_and_smaller(data, tiny, tmp_path, cli):
    options = {f"model__model__{name}": value for name, value in TINY.items()}
    options |= {"data__noise": None, "model__scored": 3, "data__segment": 5, "model__decay": 1.0}
    small_trainings.train(
        data, tmp_path / "run", 60, recipe=small_trainings.ROOT / "recipes/codec/hunch.yaml", **options,
        data__codec=tiny, data__valid=data / "speech_valid", data__steps=30, data__batch_size=8,
        model__books="[3,6]", model__judged=6, model__warmup=5,
    )  # fmt: skip
    model, config = weights.load(tmp_path / "run")
    encoder = codec_part(tiny, "enc")
    assert config["init_args"]["codec"] == codec_hash(encoder).hex()
    assert config["init_args"]["name"] == encoder.name == "gist"
    wav, *_ = DataDir.read(data / "speech_valid").tables["wav.scp"].values()
    encode, plain, likely = ("encode", wav, "-m", tiny, "--kbps", 1.2), tmp_path / "p.amk", tmp_path / "l.amk"
    assert "no probabilities" in cli(*encode, "-o", plain).err
    report = cli("export", tmp_path / "run", "-o", f"{tiny}_prob.safetensors")
    assert report.code == 0, report.err
    assert "6 books of 16 codes" in report.out
    assert "no probabilities" not in cli(*encode, "-o", likely).err
    assert likely.stat().st_size < plain.stat().st_size
    before = plain.read_bytes()
    assert cli(*encode, "--plain", "-f", "-o", plain).code == 0
    assert plain.read_bytes() == before
    for path in (plain, likely):
        assert cli("decode", path, "-m", tiny, "-o", path.with_suffix(".wav")).code == 0
    assert likely.with_suffix(".wav").read_bytes() == plain.with_suffix(".wav").read_bytes()
    with AmkFile(likely) as file, AmkFile(plain) as other:
        assert (file.header.coder, len(file.header.probabilities), other.header.coder) == (1, 8, 0)
        packets = [p for p in other.packets() if p.frames == 25]
        codes = torch.from_numpy(np.stack([p.codes(other.header) for p in packets]))
        size = np.mean([len(p.payload) for p in file.packets() if p.frames == 25])
    with torch.no_grad():
        bits = model(codes).mean().item()
    assert -0.5 < size - bits * 150 / 8 < 1.5  # bytes: torch and the file agree


def test_packets_are_cut_from_what_the_codec_makes(data, tiny, tmp_path):
    module = Codes(str(data / "speech_train"), str(data / "speech_valid"), str(tiny), 7, cache=str(tmp_path))
    module.prepare_data()
    corpus = module._coded(str(data / "speech_train"))
    assert module.counts().sum() == 6 * corpus._starts[-1] + 6 * corpus._lengths[-1]
    audio = module._pack(str(data / "speech_train"))
    sound = PackedAudio(audio)
    x = sound.read(1, 0, int(sound.lengths[1]))[None]
    player = Player(codec_part(tiny, "enc"), outputs=["codes"])
    codes = np.concatenate([player.feed(x)["codes"], player.flush()["codes"]], 1)
    whole = corpus.whole()[1]
    assert whole.shape[1:] == (6, 7)
    np.testing.assert_array_equal(np.concatenate(list(whole), 1), codes[:, : 7 * len(whole)])
    rows = module.rows()
    row = rows[3]["codes"].numpy()
    assert row.shape == (6, 7)
    assert np.array_equal(row, rows[3]["codes"].numpy())
    places = np.lib.stride_tricks.sliding_window_view(np.load(next(tmp_path.glob("speech_train*.npy"))), 7, 0)
    assert (places == row).all((1, 2)).any()


def test_a_file_that_the_runtime_reads_otherwise_is_not_written(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = Hunch(**TINY, codec="00" * 8, name="tiny").eval()
    weigh = Probabilities.weigh

    def other(self, codes):
        weights, before, totals = weigh(self, codes)
        return weights, before, totals * 1.1

    monkeypatch.setattr(Probabilities, "weigh", other)
    with pytest.raises(ExportError, match="bits for a code"):
        exporting.export(model, tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
