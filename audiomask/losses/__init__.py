"""Training losses, which a YAML names as `audiomask.losses.<Class>`."""

from audiomask.losses.adversary import Adversary as Adversary
from audiomask.losses.balancer import Balancer as Balancer
from audiomask.losses.discriminators import Discriminator as Discriminator
from audiomask.losses.discriminators import SpectrumDiscriminator as SpectrumDiscriminator
from audiomask.losses.objective import Objective as Objective
from audiomask.losses.objective import WeightedSum as WeightedSum
from audiomask.losses.perceptual import PESQLoss as PESQLoss
from audiomask.losses.perceptual import pesq_disturbance as pesq_disturbance
from audiomask.losses.spectral import CompressedSpectralLoss as CompressedSpectralLoss
from audiomask.losses.spectral import MultiResolutionSTFTLoss as MultiResolutionSTFTLoss
from audiomask.losses.waveform import L1Loss as L1Loss
from audiomask.losses.waveform import SignalLoss as SignalLoss
from audiomask.losses.waveform import SISDRLoss as SISDRLoss
from audiomask.losses.waveform import SNRLoss as SNRLoss
