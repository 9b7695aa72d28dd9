import pytest
import torch

from models.ensemble import Ensemble
from models.linear import LinearOffset
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


def test_a_model_with_a_linear_offset_scores_the_sum_after_the_backward_pass(make_batch):
    model, batch = Recorder(1.0), make_batch([5, 2], group_dims=[2])
    linear = LinearOffset(model, torch.zeros(4, 2), torch.full((4,), 2.0), torch.zeros(4)).double()
    linear.after_backward(linear(batch), lambda logits: logits.sum().item())
    assert model.seen[0][1] == 8 * 3


def test_a_model_without_after_backward_is_passed_over(members, make_batch):
    linear = LinearOffset(members[0], torch.zeros(4, 2), torch.zeros(4), torch.zeros(4)).double()
    linear.after_backward(linear(make_batch([5], patch_dim=3, group_dims=[2])), lambda logits: 0.0)
