import pytest
import torch

from models.ensemble import Ensemble
from models.umeml import UMEML, UMEMLConfig


@pytest.fixture
def members():
    torch.manual_seed(0)
    config = UMEMLConfig(hidden=8, heads=2, blocks=1, prototypes=2, registers=1)
    return [UMEML(3, [2], 4, config).double().eval() for _ in range(3)]


def test_an_ensemble_says_the_mean_of_what_its_members_say(members, make_batch):
    batch = make_batch([5, 2], patch_dim=3, group_dims=[2])
    apart = torch.stack([member(batch).logits for member in members])
    output = Ensemble(members)(batch)
    assert (apart[0] - apart[1]).abs().min() > 1e-6
    torch.testing.assert_close(output.logits, apart.mean(0))
    torch.testing.assert_close(output.extras["logits"], apart)
    assert output.extras["prototypes"].shape == (3, 2, 2, 8)
    assert output.losses == {}


def test_one_member_is_itself(members, make_batch):
    batch = make_batch([4], patch_dim=3, group_dims=[2])
    assert torch.equal(Ensemble(members[:1])(batch).logits, members[0](batch).logits)
