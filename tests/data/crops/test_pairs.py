"""Training on given pairs: what is handed over is what the files hold, and noises are dealt out, not lost."""

import corpus_trees
import numpy as np
import pytest
import soundfile as sf
import torch
from torch.utils.data import default_collate

from audiomask.audio import AudioError
from audiomask.data.corpora.voicebank import read as from_voicebank
from audiomask.data.crops.packed import PackedAudio
from audiomask.data.crops.pairs import PairCrops
from audiomask.data.kaldi.directory import DataDir
from audiomask.data.modules import PairedSpeech
from audiomask.data.simulate.augment import Augment


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """VoiceBank's pairs as data directories."""
    folder = tmp_path_factory.mktemp("voicebank")
    for name, data in from_voicebank(corpus_trees.voicebank(folder / "corpus")).items():
        data.write(folder / name)
    return folder


def crops(corpus, length, rate=48000, seed=0):
    module = PairedSpeech(
        str(corpus / "trainset_28spk"), str(corpus / "testset"), cache=str(corpus / "cache"), sample_rate=rate
    )
    return PairCrops(PackedAudio(module._pack(module.train_dir)), length, seed)


def batch_of(rows, first):
    return default_collate([rows[first + i] for i in range(4)])


def test_a_crop_is_the_same_moment_of_both_recordings(corpus):
    batch = batch_of(crops(corpus, 9600), 3)
    assert batch["speech"].shape == (4, 9600)
    assert batch["noise"].shape == (4, 1, 9600)
    files = DataDir.read(corpus / "trainset_28spk").tables
    pairs = [[sf.read(files[t][k])[0] for t in ("clean.scp", "wav.scp")] for k in files["wav.scp"]]
    for clean, noise in zip(batch["speech"].numpy(), batch["noise"][:, 0].numpy(), strict=True):
        places = []
        for wanted_clean, wanted_noisy in pairs:
            windows = np.lib.stride_tricks.sliding_window_view(wanted_clean, 9600)
            for at in np.flatnonzero(np.abs(windows[:, :3] - clean[:3]).max(1) < 1e-4):
                if np.abs(windows[at] - clean).max() < 1e-4:
                    places.append(np.abs(wanted_noisy[at : at + 9600] - clean - noise).max())
        assert places
        assert min(places) < 1e-4


def test_rows_replay_and_differ(corpus):
    a, b, c = crops(corpus, 4000)[5], crops(corpus, 4000)[5], crops(corpus, 4000)[6]
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["speech"], c["speech"])
    assert not torch.equal(crops(corpus, 4000, seed=1)[5]["speech"], a["speech"])


def test_a_short_pair_stands_among_zeros(corpus):
    batch = batch_of(crops(corpus, 80000), 0)
    for clean, noise in zip(batch["speech"], batch["noise"][:, 0], strict=True):
        inside = torch.nonzero(noise).flatten()
        assert 50000 < inside[-1] - inside[0] + 1 <= 57600
        assert not clean[: inside[0]].any()
        assert not clean[inside[-1] + 1 + 57600 :].any()


def test_the_pairs_of_a_batch_are_augmented(corpus):
    batch = batch_of(crops(corpus, 9600), 1)
    noisy, clean = Augment(48000, 8000)(batch["speech"], batch["noise"], batch["seed"])
    assert torch.equal(clean, batch["speech"][:, :8000])
    rest = (noisy - clean).double().square().sum(-1).sort().values  # every noise is used once
    assert torch.allclose(
        rest, batch["noise"][:, 0, :8000].double().square().sum(-1).sort().values, rtol=1e-3
    )


def test_a_pair_of_two_lengths_is_refused(corpus, tmp_path):
    data = DataDir.read(corpus / "testset")
    short = corpus_trees.put(tmp_path / "short.wav", corpus_trees.excerpt("speech", 0, 0.5), 48000)
    data.tables["clean.scp"]["p232_001"] = str(short)
    data.write(tmp_path / "bad")
    with pytest.raises(AudioError, match="p232_001: noisy has 57600 samples and clean 24000"):
        PairedSpeech(str(tmp_path / "bad"), "", cache=str(tmp_path / "cache"), sample_rate=48000)._pack(
            str(tmp_path / "bad")
        )
    del data.tables["clean.scp"]
    (tmp_path / "bad/clean.scp").unlink()
    with pytest.raises(AudioError, match=r"no clean\.scp"):
        PairedSpeech("", "", cache=str(tmp_path / "cache"), sample_rate=16000)._pack(str(tmp_path / "bad"))
