"""The transformer of timm, where it is installed, as the peer of ours."""

import importlib.util
import sys
import types

import pytest
import torch
from torch import nn


def shaken(module: nn.Module, seed: int = 0, by: float = 0.1) -> nn.Module:
    """Every parameter random, so that none can be forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p += by * torch.randn(p.shape, generator=generator)
    return module.eval()


def timm_transformer():
    """timm's class. It imports torchvision, of which the network needs nothing and which fails beside a torch
    of another build; an empty stand-in takes its place where it is absent."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    if importlib.util.find_spec("torchvision") is None:

        class Anything(type):
            def __getattr__(cls, name):
                if name.startswith("__"):
                    raise AttributeError(name)
                return name

        class Stand(types.ModuleType):
            __path__: list[str] = []

            def __getattr__(self, name):
                if name.startswith("__"):
                    raise AttributeError(name)
                return Anything(name, (), {})

        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "torchvision":
                    return importlib.util.spec_from_loader(name, self)
                return None

            def create_module(self, spec):
                return Stand(spec.name)

            def exec_module(self, module):
                pass

        sys.meta_path.append(Finder())
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer
