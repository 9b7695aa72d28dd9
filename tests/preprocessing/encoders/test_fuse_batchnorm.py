import pytest
import timm
import torch
from torch import nn

from preprocessing.encoders.fuse_batchnorm import fuse_batch_norm


def trained(model):
    """As after training: statistics and weights that differ from the start's 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.weight.data, module.bias.data):
                values.add_(0.3 * torch.randn(values.shape, generator=generator))
            module.running_var.mul_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return model.eval().requires_grad_(False)


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_nothing_changes_but_the_norms_are_gone(name):
    model, batch = trained(timm.create_model(name, num_classes=0)), torch.randn(2, 3, 64, 64)
    before, n_norms = model(batch), len(norms(model))
    fused = fuse_batch_norm(model, batch)
    assert n_norms > 5
    assert not norms(fused)
    other = torch.randn(3, 3, 96, 96)
    torch.testing.assert_close(fused(other), model(other), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(batch), before, rtol=0, atol=0)  # the model itself is as it was
    assert len(norms(model)) == n_norms


def test_of_one_convolution_is_as_computed_by_hand():
    conv, norm = nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0.0)
    norm.running_mean[:], norm.running_var[:] = torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.25])
    norm.weight.data[:], norm.bias.data[:] = torch.tensor([3.0, 1.0]), torch.tensor([0.5, 0.0])
    model = nn.Sequential(conv, norm).eval().requires_grad_(False)
    fused = fuse_batch_norm(model, torch.randn(1, 3, 4, 4))
    torch.testing.assert_close(fused[0].weight, conv.weight * torch.tensor([1.5, 2.0]).view(2, 1, 1, 1))
    torch.testing.assert_close(fused[0].bias, torch.tensor([0.5 - 1.5, 4.0]))


def test_a_model_without_norms_is_left_as_it_is():
    model = timm.create_model("test_vit", num_classes=0).eval().requires_grad_(False)
    batch = torch.randn(1, 3, 160, 160)
    torch.testing.assert_close(fuse_batch_norm(model, batch)(batch), model(batch), rtol=0, atol=0)


def test_a_convolution_whose_output_is_used_twice_is_left_as_it_is():
    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, batch):
            found = self.conv(batch)
            return (self.norm(found) + found).mean((2, 3))

    model = trained(Forked())
    assert fuse_batch_norm(model, torch.randn(2, 3, 16, 16)) is model
