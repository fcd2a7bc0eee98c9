"""Training losses, which a YAML names as `audiomask.losses.<Class>`."""

from audiomask.losses.adversary import Adversary
from audiomask.losses.balancer import Balancer
from audiomask.losses.discriminators import (
    BandDiscriminator,
    Discriminator,
    PeriodDiscriminator,
    SpectrumDiscriminator,
    STFTDiscriminator,
)
from audiomask.losses.loudness import TFLoudnessLoss
from audiomask.losses.masking import NoiseToMaskLoss
from audiomask.losses.objective import Objective, WeightedSum
from audiomask.losses.perceptual import PESQLoss, pesq_disturbance
from audiomask.losses.spectral import (
    CompressedSpectralLoss,
    LogMelLoss,
    MelSpectrogramLoss,
    MultiResolutionSTFTLoss,
    SpectralL1SNRLoss,
)
from audiomask.losses.waveform import L1Loss, L1SNRLoss, SignalLoss, SISDRLoss, SNRLoss, SquaredLoss
