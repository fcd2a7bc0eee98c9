"""Training losses, which a YAML names as `audiomask.losses.<Class>`."""

from audiomask.losses.adversary import Adversary
from audiomask.losses.balancer import Balancer
from audiomask.losses.discriminators import Discriminator, SpectrumDiscriminator
from audiomask.losses.objective import Objective, WeightedSum
from audiomask.losses.perceptual import PESQLoss, pesq_disturbance, pesq_loss, pesq_wb
from audiomask.losses.spectral import (
    CompressedSpectralLoss,
    MultiResolutionSTFTLoss,
    compressed_spectral_loss,
    multi_resolution_stft_loss,
)
from audiomask.losses.waveform import (
    L1Loss,
    SignalLoss,
    SISDRLoss,
    SNRLoss,
    l1_loss,
    si_sdr_loss,
    snr_loss,
)

__all__ = [
    "Adversary",
    "Balancer",
    "CompressedSpectralLoss",
    "Discriminator",
    "L1Loss",
    "MultiResolutionSTFTLoss",
    "Objective",
    "PESQLoss",
    "SISDRLoss",
    "SNRLoss",
    "SignalLoss",
    "SpectrumDiscriminator",
    "WeightedSum",
    "compressed_spectral_loss",
    "l1_loss",
    "multi_resolution_stft_loss",
    "pesq_disturbance",
    "pesq_loss",
    "pesq_wb",
    "si_sdr_loss",
    "snr_loss",
]
