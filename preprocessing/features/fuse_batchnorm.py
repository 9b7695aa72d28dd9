"""Batch normalisation folded into the convolution before it.

Of a trained network both are linear, so one convolution does the work of both: the same features to float32's last digits,
a sixth to almost half of the time saved.
"""

import copy

import torch
from jaxtyping import Float
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

TOLERANCE = 1e-4  # of the largest feature; rounding makes 3e-6


@torch.no_grad()
def fold_batch_norm(model: nn.Module, batch: Float[Tensor, "B 3 H W"]) -> nn.Module:
    """The model with every batch normalisation folded that reads a convolution's output, or the model where there is none.

    What follows what is seen while the batch goes through. Where an output turns out to be used elsewhere too, so that the
    folded model answers otherwise, the model is left as it is.

    Args:
        model: in evaluation mode, float32; it stays as it is.
        batch: an example of its input.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return model
    folded = copy.deepcopy(model)
    names = {module: name for name, module in folded.named_modules()}
    for conv, norm in _pairs(folded, batch):
        if norm.running_mean is None or norm.running_var is None:
            return model  # it takes them from each batch
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        # timm's normalisation has the activation in it.
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        folded.set_submodule(names[norm], rest)
    before, after = model(batch), folded(batch)
    return folded if (before - after).abs().max() <= TOLERANCE * before.abs().max() else model


def _pairs(model: nn.Module, batch: Float[Tensor, "B 3 H W"]) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each normalisation whose input is what a convolution gave, with that convolution."""
    given: dict[
        int, tuple[nn.Conv2d, Tensor]
    ] = {}  # by identity; holding the tensor keeps its number from being reused
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def note(conv: nn.Conv2d, _: tuple[Tensor], output: Tensor) -> None:
        given[id(output)] = conv, output

    def look(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        if id(inputs[0]) in given:
            pairs.append((given[id(inputs[0])][0], norm))

    hooks = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, nn.Conv2d)]
    hooks += [
        module.register_forward_pre_hook(look) for module in model.modules() if isinstance(module, nn.BatchNorm2d)
    ]
    model(batch)
    for hook in hooks:
        hook.remove()
    return pairs
