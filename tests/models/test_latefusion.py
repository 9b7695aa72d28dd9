import torch

from models.abmil import ABMIL, ABMILConfig
from models.latefusion import LateFusion, LateFusionConfig
from models.snn import SNN, SNNConfig


def test_logits_are_the_sum_of_what_either_side_says(make_batch):
    """With the weights of a late fusion shared out to attention MIL and to a self-normalising network."""
    torch.manual_seed(0)
    config = LateFusionConfig(slides=ABMILConfig(hidden=8, attention=4), genes=SNNConfig(hidden=6, layers=2))
    model = LateFusion(12, (7, 3), 4, config).double().eval()
    slides, genes = ABMIL(12, (), 4, config.slides).double().eval(), SNN(12, (7, 3), 4, config.genes).double().eval()
    slides.bag.load_state_dict(model.slides.state_dict())
    genes.genes.load_state_dict(model.genes.state_dict())
    weight, bias = model.classify.weight.split([8, 6], 1), model.classify.bias
    slides.classify.load_state_dict({"weight": weight[0], "bias": bias})
    genes.classify.load_state_dict({"weight": weight[1], "bias": 0 * bias})
    batch = make_batch([9, 4, 3], group_dims=(7, 3), has_slides=[True, False, True], has_omics=[True, True, False])
    expected = slides(batch).logits + genes(batch).logits
    torch.testing.assert_close(model(batch).logits, expected, rtol=0, atol=1e-12)
