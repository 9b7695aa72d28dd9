"""Batch normalisation fused into the preceding convolution.

In a trained network both are linear, so that one convolution replaces the two: equal features up to float32 rounding, in a
sixth to almost half less time.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

TOLERANCE = 1e-4  # relative to the largest feature; rounding contributes 3e-6


@torch.no_grad()
def fuse_batch_norm(model: nn.Module, batch: Float[Tensor, "B 3 H W"]) -> nn.Module:
    """Return a copy with each batch normalisation that follows a convolution fused into it, or the model without any.

    Which normalisation follows which convolution is observed while the batch passes through. Where a convolution's output is
    also used elsewhere, so that the fused model's output differs, the original model is returned.

    Args:
        model: in evaluation mode, float32; it is not modified.
        batch: an example of its input.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return model
    from timm.layers import BatchNormAct2d  # imported by whoever made the model

    fused = copy.deepcopy(model)
    names = {module: name for name, module in fused.named_modules()}
    for conv, norm in _pairs(fused, batch):
        if norm.running_mean is None or norm.running_var is None:
            return model  # it uses statistics of each batch
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        # timm's normalisation includes the activation.
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        fused.set_submodule(names[norm], rest)
    before, after = model(batch), fused(batch)
    return fused if (before - after).abs().max() <= TOLERANCE * before.abs().max() else model


def _pairs(model: nn.Module, batch: Float[Tensor, "B 3 H W"]) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each normalisation whose input is the output of a convolution, with that convolution."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by id; holding the tensor keeps its id from being reused
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def remember(conv: nn.Conv2d, _: tuple[Tensor], output: Tensor) -> None:
        outputs[id(output)] = conv, output

    def match(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        if id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], norm))

    hooks = [module.register_forward_hook(remember) for module in model.modules() if isinstance(module, nn.Conv2d)]
    hooks += [
        module.register_forward_pre_hook(match) for module in model.modules() if isinstance(module, nn.BatchNorm2d)
    ]
    model(batch)
    for hook in hooks:
        hook.remove()
    return pairs
