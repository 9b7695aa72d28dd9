import pytest
import torch

from models.snn import SNN, SelfNormalising, SNNConfig


def test_layers_are_linear_selu_and_alpha_dropout(make_batch):
    torch.manual_seed(0)
    model = SNN(12, (7, 3, 5), 4, SNNConfig(hidden=6, layers=2)).double().eval()
    batch, w = make_batch([3, 3], has_omics=[True, False]), model.state_dict()
    x = torch.cat(batch.omics, 1)[0]
    for number in (0, 3):
        x = w[f"genes.read.{number}.weight"] @ x + w[f"genes.read.{number}.bias"]
        x = 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * (x.exp() - 1))
    for logits, vector in zip(model(batch).logits, (x, w["genes.absent"]), strict=True):
        expected = w["classify.weight"] @ vector + w["classify.bias"]
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


def test_mean_and_variance_stay_about_0_and_1_through_many_layers():
    torch.manual_seed(0)
    layers = SelfNormalising(200, hidden=256, layers=8, dropout=0.1)
    x = layers(torch.randn(2000, 200))
    assert x.mean().item() == pytest.approx(0, abs=0.1)
    assert x.std().item() == pytest.approx(1, abs=0.1)


def test_slides_are_ignored(make_batch):
    model = SNN(12, (7, 3, 5), 4, SNNConfig()).double().eval()
    batch = make_batch([5])
    assert torch.equal(model(batch).logits, model(batch.without(slides=True)).logits)
