"""EnCodec as this suite streams it beside the package encodec, which works offline: time of one processor.

    python tools/bench/codecs.py --seconds 10 --rounds 5

Both have the same random weights, at 24 kHz and 6 kbit/s. In every round each takes its turn, and the table
has the least of its times: seconds of sound a second, and our time as a multiple of the package's, for steps
of one hop (13 ms) and of eight. Below them is Gist, the codec that ships: another codec, on as many seconds
of sound at 16 kHz and at the same 6 kbit/s, a frame (20 ms) a step, and as files are coded; `--gist` takes
other artifacts of it. `--lyra-models lyra/model_coeffs` puts Lyra v2 beside it, at 6 kbit/s too, frame by
frame under LiteRT with one thread; its times are with its quantizer. `--reflect` plays the mirrored start,
which the published weights of EnCodec were trained with.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import torch

import audiomask.frontend.torchaudio_import  # noqa: F401 (encodec imports torchaudio)
from audiomask.data.simulate.lyra import FRAME, Lyra
from audiomask.export.onnx_file import export
from audiomask.models.encodec import EnCodecDecoder, EnCodecEncoder, from_authors
from audiomask.runtime.catalogue import codec_part
from audiomask.runtime.player import BULK_HOPS, Player

HOP, BOOKS = 320, 8


def parts(folder: Path, reflect: bool) -> tuple[object, dict[str, Path]]:
    """The package's network with random weights, and our two artifacts of it."""
    from encodec import EncodecModel

    torch.manual_seed(0)
    peer = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    peer.set_target_bandwidth(6.0)
    for layer in peer.quantizer.vq.layers:
        layer._codebook.embed.normal_(0, 0.1)
    arguments, tensors = from_authors(peer.state_dict())
    arguments["reflect"] = reflect
    files = {}
    for name, cls in (("enc", EnCodecEncoder), ("dec", EnCodecDecoder)):
        files[name] = folder / f"encodec_{name}.onnx"
        if not files[name].exists():
            model = cls(**arguments).eval()
            model.load_state_dict(tensors)
            export(model, files[name], {"class_path": f"audiomask.models.encodec.{cls.__name__}"})
    return peer, files


def stream(player: Player, x: np.ndarray, frames: int) -> Callable[[], None]:
    def run() -> None:
        for at in range(0, x.shape[1], frames):
            player.feed(x[:, at : at + frames])
        player.reset()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reflect", action="store_true")
    parser.add_argument(
        "--gist", default="gist", help="STEM of other artifacts, STEM_enc.onnx and STEM_dec.onnx"
    )
    parser.add_argument("--lyra-models", type=Path, help="folder of the .tflite files of Lyra v2")
    parser.add_argument("--dir", type=Path, help="folder that keeps the artifacts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        peer, files = parts(args.dir or Path(temporary), args.reflect)
        count = 8 * round(args.seconds * 24000 / HOP / 8)
        x = 0.1 * torch.randn(1, 1, count * HOP)
        with torch.no_grad():
            codes = peer.encode(x)
        given = np.full((32, count), -1)
        given[:BOOKS] = codes[0][0][0].numpy()
        encoder, decoder = Player(files["enc"], controls={"books": BOOKS}), Player(files["dec"])
        sides: dict[str, dict[str, Callable[[], object]]] = {
            "encode": {"package": lambda: peer.encode(x)},
            "decode": {"package": lambda: peer.decode(codes)},
        }
        for hops in (1, 8):
            sides["encode"][f"ours, {hops}"] = stream(encoder, x[0].numpy(), hops * HOP)
            sides["decode"][f"ours, {hops}"] = stream(decoder, given, hops)
        gist = {part: Player(codec_part(args.gist, part)) for part in ("enc", "dec")}
        gist["enc"].set({"books": 12})
        frames = round(count * HOP / 24000 * 50)
        sound = (0.1 * np.random.default_rng(0).standard_normal((1, frames * 320))).astype(np.float32)
        sent = np.where(np.arange(18)[:, None] < 12, gist["enc"].feed(sound)["codes"], -1)
        gist["enc"].reset()
        for hops in (1, BULK_HOPS):
            sides["encode"][f"gist, {hops}"] = stream(gist["enc"], sound, hops * 320)
            sides["decode"][f"gist, {hops}"] = stream(gist["dec"], sent, hops)
        if args.lyra_models:
            lyra = Lyra(6.0, args.lyra_models)
            given_lyra = sound.reshape(-1, FRAME)
            indices = [lyra.encode(frame) for frame in given_lyra]
            sides["encode"]["lyra, 1"] = lambda: [lyra.encode(frame) for frame in given_lyra]
            sides["decode"]["lyra, 1"] = lambda: [lyra.decode(index) for index in indices]
        print("| side | who, hops a step | x real time | time / package |")
        print("|---|---|---|---|")
        for side, runs in sides.items():
            times: dict[str, list[float]] = {name: [] for name in runs}
            for turn in range(args.rounds + 1):
                for name, run in runs.items():
                    start = time.thread_time()
                    with torch.no_grad():
                        run()
                    if turn:  # the first warms up
                        times[name].append(time.thread_time() - start)
            base = min(times["package"])
            for name, taken in times.items():
                now = min(taken)
                print(f"| {side} | {name} | {count * HOP / 24000 / now:.1f} | {now / base:.2f} |")


if __name__ == "__main__":
    main()
