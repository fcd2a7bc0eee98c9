"""EnCodec's language model has the published sizes, runs frame by frame, and equals the package's."""

import os
import subprocess
import sys
from pathlib import Path

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


MEMORY = """
import io, resource, sys
from pathlib import Path
import numpy as np, torch
from audiomask import weights
from audiomask.audio import AudioError
from audiomask.models.encodec_lm import CONTEXT, EnCodecLM, Predictions
from audiomask.runtime.codes.ecdc import KINDS, EcdcFile, EcdcWriter
from codes import damaged

folder, books = Path(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
sizes = {"books": books, "context": CONTEXT[books]}
config = {"class_path": "audiomask.models.encodec_lm.EnCodecLM", "init_args": sizes}
language = Predictions(weights.save(folder / "lm", EnCodecLM(**sizes), config))
model = next(name for name, kind in KINDS.items() if kind.books == books)
file = io.BytesIO()
writer = EcdcWriter(file, model, 2, language)
if KINDS[model].segment:
    writer.open_segment(0.1)
writer.push(np.random.default_rng(0).integers(0, 1024, (2, 40)))
writer.finish(40 * 320)

def play(data):
    (folder / "a.ecdc").write_bytes(data)
    try:
        codes = EcdcFile(folder / "a.ecdc")
        codes.language = language
        return sum(block["codes"].shape[1] for block in codes.blocks(64, {"codes": 1, "scale": 1}))
    except AudioError:
        return 0

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
assert play(file.getvalue()) >= 40
before = peak()
absurd = file.getvalue().replace(b'"al":' + b" " * 16 + b"12800", b'"al": ' + b"9" * 18 + b"  ")
assert absurd != file.getvalue()
print(sum(play(bad) > 0 for bad in (absurd, *damaged(file.getvalue(), 40))), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere ru_maxrss is in bytes")
@pytest.mark.parametrize("books", [32, 16])
def test_damaged_files_take_no_more_memory(tmp_path, books):
    """With weights of the published size, in a process of its own; a file that is whole is the measure."""
    tests = Path(__file__).parents[1]
    words = [sys.executable, "-c", MEMORY, str(tmp_path), str(books)]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    played, more = map(int, done.stdout.split())
    assert played > 10
    assert more < 200


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
