"""Weights of AudioSeal as its authors publish them; no test by itself."""

import torch


@torch.no_grad()
def lively(model: torch.nn.Module) -> torch.nn.Module:
    """The network with a mark that is heard."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.05)
    return model


def theirs(model, dialect: str) -> dict[str, torch.Tensor]:
    """The state dict of `model` under the names of audiocraft, torch's parametrization or audioseal 0.2."""
    state = {}
    plain = {"samples": "detector.0.reverse_convolution", "head": "detector.1"}
    for key, value in model.state_dict().items():
        side, place, *rest = key.split(".")
        if side == "table":
            state["msg_processor.msg_processor.weight"] = value
            continue
        if side in plain:
            state[f"{plain[side]}.{place}"] = value
            continue
        home = "detector.0" if hasattr(model, "head") else side
        name, home = rest[-1], f"{home}.model.{place}"
        if "_l" in name:
            state[f"{home}.lstm.{name}"] = value
            continue
        inner = (
            "convtr.convtr" if side == "decoder" and len(rest) == 1 and place in ("3", "6") else "conv.conv"
        )
        home = f"{home}.block.{rest[2]}.{inner}" if len(rest) > 1 else f"{home}.{inner}"
        home += ".inner_conv" if dialect == "audioseal" else ""
        if name == "weight" and dialect != "audioseal":
            kinds = ("weight_g", "weight_v")
            if dialect == "parametrized":
                kinds = ("parametrizations.weight.original0", "parametrizations.weight.original1")
            state[f"{home}.{kinds[0]}"] = value.norm(dim=(1, 2), keepdim=True)
            state[f"{home}.{kinds[1]}"] = 3 * value
        else:
            state[f"{home}.{name}"] = value
    return state
