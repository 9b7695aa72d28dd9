from dataclasses import replace

import pytest
import torch

from models.ensemble import Ensemble
from models.linear import LinearBlend, StackWeights
from models.types import Batch, ModelOutput
from models.umeml import UMEML, UMEMLConfig


@pytest.fixture
def members():
    torch.manual_seed(0)
    config = UMEMLConfig(hidden=8, heads=2, blocks=1, prototypes=2, registers=1)
    return [UMEML(3, [2], 4, config).double().eval() for _ in range(3)]


def test_logits_of_an_ensemble_are_the_mean_of_its_members(members, make_batch):
    batch = make_batch([5, 2], patch_dim=3, group_dims=[2])
    apart = torch.stack([member(batch).logits for member in members])
    output = Ensemble(members)(batch, explain=True)
    assert (apart[0] - apart[1]).abs().min() > 1e-6
    torch.testing.assert_close(output.logits, apart.mean(0))
    torch.testing.assert_close(output.extras["logits"], apart)
    assert output.extras["prototypes"].shape == (3, 2, 2, 8)
    assert output.losses == {}


def test_one_member_is_itself(members, make_batch):
    batch = make_batch([4], patch_dim=3, group_dims=[2])
    assert torch.equal(Ensemble(members[:1])(batch).logits, members[0](batch).logits)


class Recorder(torch.nn.Module):
    """The same logits for every case; remembers what it is given after the backward pass."""

    def __init__(self, says: float) -> None:
        super().__init__()
        self.says, self.seen = says, []

    def forward(self, batch: Batch, *, explain: bool = False) -> ModelOutput:
        return ModelOutput(torch.full((len(batch), 4), self.says), {}, {"own": torch.tensor(self.says)})

    def after_backward(self, output, score):
        self.seen.append((output, score(output.logits)))


def test_what_a_blended_model_does_after_the_backward_pass_concerns_its_own_logits(make_batch):
    model, batch = Recorder(1.0), make_batch([5, 2], group_dims=[2])
    linear = LinearBlend(model, torch.zeros(4, 2), torch.full((4,), 2.0)).double()
    linear.after_backward(linear(batch), lambda logits: logits.sum().item())
    assert model.seen[0][1] == 8 * 1


def test_a_model_without_after_backward_is_passed_over(members, make_batch):
    linear = LinearBlend(members[0], torch.zeros(4, 2), torch.zeros(4)).double()
    linear.after_backward(linear(make_batch([5], patch_dim=3, group_dims=[2])), lambda logits: 0.0)


def test_logits_are_summed_by_the_weights_of_what_a_case_has(make_batch):
    batch = make_batch([5, 0, 3], patch_dim=3, group_dims=[2])
    batch = replace(batch, has_omics=torch.tensor([True, True, False]))
    weight, bias = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]), torch.arange(4.0)
    stack = StackWeights(
        torch.tensor([[0.25, 0.75, 9.0], [0.5, 0.0, 0.1], [0.6, 0.8, 0.2]]),
        torch.tensor([[0.0] * 4, [1.0] * 4, [2.0] * 4]),
    )
    blend = LinearBlend(Recorder(8.0), weight, bias, stack, Recorder(100.0)).double().eval()
    linear = batch.omics[0].double() @ weight.T.double() + bias.double()
    logits = blend(batch).logits
    exact = {"rtol": 1e-6, "atol": 1e-6}  # weights are float32
    torch.testing.assert_close(logits[0], 0.6 * 8 + 0.8 * linear[0] + 0.2 * 100 + 2, **exact)  # slides and genes
    torch.testing.assert_close(logits[2], torch.full((4,), 0.5 * 8 + 0.1 * 100 + 1).double(), **exact)  # slides only
    torch.testing.assert_close(blend.train()(batch).logits, torch.full((3, 4), 8.0).double(), check_dtype=False)
    genes_only = blend.eval()(batch.without(slides=True)).logits[1]
    torch.testing.assert_close(genes_only, 0.25 * 8 + 0.75 * linear[1], **exact)


def test_without_weights_network_and_linear_logits_are_averaged(make_batch):
    batch = make_batch([5, 0], patch_dim=3, group_dims=[2])
    batch = replace(batch, has_omics=torch.tensor([False, True]))
    logits = LinearBlend(Recorder(8.0), torch.zeros(4, 2), torch.full((4,), 2.0)).double().eval()(batch).logits
    torch.testing.assert_close(logits, torch.tensor([[8.0] * 4, [5.0] * 4]).double())
