"""Speech enhancement: (noisy, clean) pairs made on the training device, one network, losses on the waveform.

`Enhance` is the LightningModule, `NoisySpeech` the data: speech and noise from Kaldi data directories for
training, and a directory of fixed pairs (`wav.scp` noisy, `clean.scp`) for validation.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from audiomask import metrics, weights
from audiomask.audio import AudioError
from audiomask.data.kaldi import DataDir, Utterance
from audiomask.data.loading import Corpus, PackedAudio, SpeechAndNoise, pack, read_mono
from audiomask.data.shards import INDEX, ShardedAudio
from audiomask.data.simulate import Simulation
from audiomask.losses import WeightedSum
from audiomask.streaming import StreamingModel
from audiomask.tasks.muon import Muon, groups


def warmup_stable_decay(step: int, warmup: int, total: int, decay: float, floor: float = 0.01) -> float:
    """Learning-rate factor: linear warm-up, then 1, then a half cosine to `floor` over the last `decay`
    share.

    With decay = 1 it is the usual warm-up and cosine. A run whose constant part goes on can be continued
    later and decayed again, which a cosine over the whole run does not allow (Hu et al. 2024, MiniCPM).
    """
    if step < warmup:
        return (step + 1) / warmup
    start = max(warmup, total - int(decay * total))
    if step < start or total <= start:
        return 1.0
    x = min(1.0, (step - start) / (total - start))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * x))


def keep_recurrent_layers_whole() -> None:
    """Have `torch.compile` leave `torch.gru` and `torch.lstm` as they are, here and in `nn.GRU`.

    It would decompose them into their steps in time (`torch._decomp`, `one_layer_rnn`) and compile each.
    """
    for layer in (torch.gru, torch.lstm):
        torch._dynamo.disallow_in_graph(layer)


class Enhance(pl.LightningModule):
    """Trains a model that maps noisy speech to clean speech.

    Args:
        model: what is trained; `[B, 1, T]` -> `[B, 1, T]`, or `[B, M, T]` -> `[B, 1, T]` for an array.
        loss: named losses of (estimate, target) waveforms. relative: both are divided by the RMS of the noisy
            signal first, so that loud and quiet rows count alike; the published systems do not.
        degrade: makes the pairs (`simulate.Degrade`; `arrays.ArrayScenes`, with `tasks.arrays`), or augments
            those of a corpus (`augment.Augment`, with `tasks.paired`).
        optimizer: "adamw", or "muon": that for the weight matrices (see `tasks.muon`), AdamW for the rest.
        lr, betas, weight_decay: of it; biases, norms and embeddings are not decayed.
        warmup: steps; decay: share of the run in which the learning rate falls (see `warmup_stable_decay`).
        scored: validation clips that get PESQ and ESTOI beside SI-SDR (they take a second each).
        shown: validation clips that go to TensorBoard as audio and spectrograms.
        start_from: folder with weights of the same architecture to fine-tune (a run's `model/`).
        mask_input, mask_attention: masked training, for noises that the corpus lacks: shares of the
            time-frequency bins and of the attention that are hidden from the network at random while it
            trains (after Chen et al. 2023, "Masked Image Training for Generalizable Deep Image Denoising"),
            for models that have `hide`.
        compile: train through `torch.compile`; validation runs the network as it is.

    Several processes (docs/scale.md): W of them with B rows each give the parameters of one with W B rows, up
    to the rounding of float sums, where the loss is a mean over rows and nothing in the network looks across
    them. Batch norms do: in training they normalise by the rows of their own process, unless
    `--trainer.sync_batchnorm true`, which torch has for GPUs only. Of our losses, only the spectral
    convergence of the multi-resolution STFT loss is no mean over rows.
    """

    measured: tuple[str, ...] = ("pesq_wb", "estoi")  # of the first validation clips

    def __init__(
        self,
        model: StreamingModel,
        loss: WeightedSum,
        degrade: Simulation,
        relative: bool = True,
        optimizer: Literal["adamw", "muon"] = "adamw",
        lr: float = 1.5e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
        warmup: int = 500,
        decay: float = 0.25,
        scored: int = 40,
        shown: int = 3,
        start_from: str | None = None,
        mask_input: float = 0.0,
        mask_attention: float = 0.0,
        compile: bool = False,
    ):
        super().__init__()
        if degrade.sample_rate != model.sample_rate:
            raise AudioError(
                f"degrade.sample_rate is {degrade.sample_rate} Hz and the model runs at "
                f"{model.sample_rate} Hz; make them equal"
            )
        for name, part in loss.losses.items():
            if part.sample_rate not in (None, model.sample_rate):
                raise AudioError(
                    f"loss {name} is for {part.sample_rate} Hz and the model runs at {model.sample_rate} Hz; "
                    "leave it out"
                )
        self.reference = model.inputs[0].reference
        if degrade.reference != self.reference:
            raise AudioError(
                f"degrade.reference is microphone {degrade.reference} and the model's is {self.reference}; "
                "make them equal"
            )
        self.model, self.loss, self.degrade, self.relative = model, loss, degrade, relative
        self.optimizer, self.lr, self.betas, self.weight_decay = optimizer, lr, betas, weight_decay
        self.warmup, self.decay, self.scored, self.shown = warmup, decay, scored, shown
        if start_from is not None:
            model.load_state_dict(weights.load(start_from)[0].state_dict())
        if mask_input or mask_attention:
            if not 0 <= mask_input < 1 or not 0 <= mask_attention < 1:
                raise AudioError(
                    f"mask_input {mask_input}, mask_attention {mask_attention}: shares are in [0, 1)"
                )
            hide = getattr(model, "hide", None)
            if hide is None:
                raise AudioError(f"{type(model).__name__} has no masked training; set the shares to 0")
            hide(mask_input, mask_attention)
        if compile:
            keep_recurrent_layers_whole()
            model.compile()  # in place: the names of the parameters stay
        self._clips: list[dict[str, float]] = []

    def _compare(
        self, noisy: Tensor, clean: Tensor, **inputs: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """`noisy [B, T]` or `[B, M, T]`, `clean [B, T]` -> loss, its parts, estimate `[B, T]`. `inputs`: the
        model's others."""
        noisy = noisy[:, None] if noisy.ndim == 2 else noisy
        if noisy.shape[1] != self.model.inputs[0].channels:
            raise AudioError(
                f"the data have {noisy.shape[1]} channels and {self.model.name} takes "
                f"{self.model.inputs[0].channels}; make them equal"
            )
        estimate = self.model(noisy, **inputs)[:, 0]
        if not self.relative:
            return *self.loss(estimate, clean), estimate
        level = self._level(noisy[:, self.reference], clean)
        level = level.float().square().mean(-1, keepdim=True).sqrt().clamp(min=1e-4)
        return *self.loss(estimate / level, clean / level), estimate

    def _level(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """The signal `[B, T]` by whose level a row is divided."""
        return noisy

    def _pair(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """A batch as what goes in, what should come out, and the model's other inputs."""
        if "clean" in batch:
            return batch["noisy"], batch["clean"], {}
        return *self.degrade(batch["speech"], batch["noise"], batch["seed"]), {}

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        torch.manual_seed(int(batch["seed"][0]))  # of what is hidden: a resumed run goes on as it would have
        with torch.no_grad():
            noisy, clean, inputs = self._pair(batch)
        total, parts, _ = self._compare(noisy, clean, **inputs)
        self.log_dict(
            {"train/loss": total} | {f"train/{k}": v for k, v in parts.items()}, batch_size=len(noisy)
        )
        return total

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        noisy, clean, inputs = self._pair(batch)
        # As exported: in float32, and not compiled, which would be done again for every length of a clip.
        with torch.autocast(noisy.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
            total, parts, estimate = self._compare(noisy, clean, **inputs)
        self.log_dict(
            {"val/loss": total} | {f"val/{k}": v for k, v in parts.items()},
            batch_size=len(noisy),
            sync_dist=True,
        )
        names = ["si_sdr", *self.measured] if index < self.scored else ["si_sdr"]
        rate = self.model.sample_rate
        row = metrics.score(clean[0].cpu().numpy(), estimate[0].float().cpu().numpy(), rate, names)
        self._clips.append({k: v for k, v in row.items() if not math.isnan(v)})
        if index < self.shown:
            heard = noisy[0] if noisy.ndim == 2 else noisy[0, self.reference]
            self._show(
                f"{index}", {"noisy": heard, self.model.outputs[0].name: estimate[0], "clean": clean[0]}
            )

    def on_validation_epoch_end(self) -> None:
        means = {
            f"val/{k}": float(np.mean([c[k] for c in self._clips if k in c]))
            for k in sorted({k for c in self._clips for k in c})
        }
        self._clips.clear()
        if {"val/pesq_wb", "val/estoi", "val/si_sdr"} <= set(means):
            # One number to select by: each term worth about as much as the others' usual spread.
            means["val/select"] = means["val/pesq_wb"] + 4 * means["val/estoi"] + 0.1 * means["val/si_sdr"]
        self.log_dict(means, sync_dist=True)

    def _show(self, name: str, signals: dict[str, Tensor]) -> None:
        if not isinstance(self.logger, TensorBoardLogger):
            return
        writer = self.logger.experiment
        rate = self.model.sample_rate
        window = torch.hann_window(512, device=self.device)
        for kind, x in signals.items():
            if kind in ("noisy", "clean") and self.global_step > 0 and self.current_epoch > 0:
                continue  # the references do not change
            x = x.float()
            writer.add_audio(f"{name}/{kind}", x.clamp(-1, 1), self.global_step, rate)
            power = torch.stft(x, 512, 128, window=window, return_complex=True).abs().square()
            picture = ((10 * torch.log10(power + 1e-9) + 70) / 100).clamp(0, 1).flip(0)
            writer.add_image(f"{name}/{kind}_spectrogram", picture[None], self.global_step)

    def configure_optimizers(self) -> Any:
        matrices = self.optimizer == "muon"
        optimizer = Muon(groups(self.model, self.weight_decay, matrices), self.lr, self.betas)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_stable_decay(step, self.warmup, total, self.decay)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Batches(Sampler[list[int]]):
    """Row numbers of the batches of one process, from where the training stands to the end of its epoch.

    The rows of a run are counted through. Batch `i` of `world` processes is the next `world * batch_size` of
    them, and each process takes its `batch_size` in the order of `rank`: two processes with B rows each train
    on the rows of one process with 2 B.

    Batches follow `position`, the count of batches trained on, and not Lightning's count of epochs, which is
    one further in a run resumed from a checkpoint written at the end of an epoch.
    """

    def __init__(
        self, steps: int, batch_size: int, position: Callable[[], int], rank: int = 0, world: int = 1
    ):
        self.steps, self.batch_size, self.position = steps, batch_size, position
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[list[int]]:
        start = self.position()
        for batch in range(start, start + self.steps - start % self.steps):
            first = (batch * self.world + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))

    def __len__(self) -> int:
        return self.steps


class Pairs(Dataset[dict[str, Any]]):
    """Fixed pairs of a data directory: `wav.scp` noisy, `clean.scp` clean. Item: `noisy`, `clean` `[T]`,
    `key`.
    """

    def __init__(self, path: str | Path, sample_rate: int):
        self.data = DataDir.read(path)
        if "clean.scp" not in self.data.tables:
            raise AudioError(
                f"{path}: no clean.scp beside wav.scp; `audiomask data mix` makes such a directory"
            )
        self.utterances = list(self.data.utterances())
        self.sample_rate = sample_rate

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, i: int) -> dict[str, Any]:
        u = self.utterances[i]
        noisy, clean = (read_mono(self.data, u, self.sample_rate, table) for table in ("wav", "clean"))
        if len(noisy) != len(clean):
            raise AudioError(
                f"{u.key}: noisy has {len(noisy)} samples and clean {len(clean)}; pair them anew"
            )
        return {"noisy": torch.from_numpy(noisy), "clean": torch.from_numpy(clean), "key": u.key}


def packed(
    data: DataDir, cache: Path, sample_rate: int, read: Callable[[Utterance], np.ndarray], tables: str = "wav"
) -> Path:
    """The packed corpus (see `data.loading`) of what `read` gives for each utterance; made if missing.

    Its name holds a hash of what it depends on: the place of `data` and its `tables`, comma-separated stems.
    """
    names = (*(f"{stem}.scp" for stem in tables.split(",")), "segments", "utt2spk")
    digest = hashlib.sha256(
        json.dumps(
            [str(data.path.resolve()), {name: data.tables.get(name) for name in names}], sort_keys=True
        ).encode()
    ).hexdigest()
    prefix = cache / f"{data.path.resolve().name}-{sample_rate}-{digest[:12]}"
    if not prefix.with_suffix(".json").exists():
        pack(((u.key, u.speaker or u.key, partial(read, u)) for u in data.utterances()), prefix, sample_rate)
    return prefix


def batches(
    trainer: pl.Trainer | None, dataset: Dataset[dict[str, Tensor]], steps: int, batch_size: int, workers: int
) -> DataLoader:
    """Loader of `steps` batches of numbered rows an epoch, which go on from where the trainer stands."""
    assert trainer is not None, "the loader belongs to a trainer, whose step says which batch is next"
    sampler = Batches(
        steps,
        batch_size,
        lambda: trainer.global_step * trainer.accumulate_grad_batches,
        trainer.global_rank,
        trainer.world_size,
    )
    return DataLoader(dataset, batch_sampler=sampler, num_workers=workers)


class NoisySpeech(pl.LightningDataModule):
    """Speech and noise for training, fixed pairs for validation.

    Args:
        train: data directory of clean speech. noise: of noise; each recording's speaker (utt2spk) is its
            kind. music: optional. Each of them may also be a folder of shards (see `data.shards`).
        valid: data directory of fixed pairs.
        cache: folder for the packed corpora (see `data.loading`); made once, reused while the tables are
            unchanged.
        batch_size, steps: rows of a batch in each process, batches of an epoch (validation and checkpoints
            come at its end).
        segment: samples of a training pair; crop: of the raw material, see `Degrade.crop` (0: half as
            much again).
        speech_weights, noise_weights, music_share, babble, synthetic, noises, seed: see `data.loading`.
        workers: processes that cut crops; 0 does it in the training process.
    """

    def __init__(
        self,
        train: str,
        noise: str,
        valid: str,
        cache: str = "exp/cache",
        music: str | None = None,
        sample_rate: int = 16000,
        batch_size: int = 16,
        steps: int = 500,
        segment: int = 32000,
        crop: int = 0,
        speech_weights: dict[str, float] | None = None,
        noise_weights: dict[str, float] | None = None,
        music_share: float = 0.06,
        babble: float = 0.1,
        synthetic: float = 0.08,
        noises: int = 3,
        seed: int = 0,
        workers: int = 1,
    ):
        super().__init__()
        self.train_dir, self.noise_dir, self.valid_dir, self.music_dir = train, noise, valid, music
        self.cache, self.sample_rate = Path(cache), sample_rate
        self.batch_size, self.steps, self.workers = batch_size, steps, workers
        self.crop = crop or math.ceil(segment * 1.5)
        self.speech_weights, self.noise_weights = speech_weights, noise_weights
        self.options: dict[str, Any] = {
            "music_share": music_share,
            "babble": babble,
            "synthetic": synthetic,
            "noises": noises,
        }
        self.seed = seed

    def _pack(self, path: str) -> Path:
        """The packed corpus of a data directory; made if missing."""
        data = DataDir.read(path)
        return packed(data, self.cache, self.sample_rate, lambda u: read_mono(data, u, self.sample_rate))

    def prepare_data(self) -> None:
        for path in filter(None, (self.train_dir, self.noise_dir, self.music_dir)):
            if not (Path(path) / INDEX).exists():
                self._pack(path)

    def _corpus(self, path: str, weights: dict[str, float] | None = None) -> Corpus:
        """Where crops come from; AudioError for weights of groups, which one shard at a time cannot keep."""
        if not (Path(path) / INDEX).exists():
            return PackedAudio(self._pack(path), weights)
        if weights:
            raise AudioError(
                f"{path}: shards are drawn evenly, without weights; name a data directory, or drop them"
            )
        assert self.trainer is not None
        world = self.trainer.world_size
        return ShardedAudio(
            path, self.sample_rate, self.crop, self.batch_size, world, self.workers, self.seed
        )

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None, "the loader belongs to a trainer, whose step says which batch is next"
        dataset = SpeechAndNoise(
            self._corpus(self.train_dir, self.speech_weights),
            self._corpus(self.noise_dir, self.noise_weights),
            self.crop,
            music=self._corpus(self.music_dir) if self.music_dir else None,
            seed=self.seed,
            **self.options,
        )
        return batches(trainer, dataset, self.steps, self.batch_size, self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Pairs(self.valid_dir, self.sample_rate), batch_size=1)
