import torch

from models.abmil import ABMIL, ABMILConfig


def test_a_bag_is_the_sum_of_its_patches_weighted_by_gated_attention(make_batch):
    torch.manual_seed(0)
    model = ABMIL(12, (), 4, ABMILConfig(hidden=16, attention=8)).double().eval()
    batch = make_batch([9, 4, 6], has_slides=[True, True, False])
    output = model(batch, explain=True)
    w = model.state_dict()
    for number in (0, 1):
        h = (batch.bags[number] @ w["bag.project.0.weight"].T + w["bag.project.0.bias"]).relu()
        v = torch.tanh(h @ w["bag.attention.V.weight"].T + w["bag.attention.V.bias"])
        u = torch.sigmoid(h @ w["bag.attention.U.weight"].T + w["bag.attention.U.bias"])
        scores = (v * u @ w["bag.attention.w.weight"].T)[:, 0].exp()
        logits = (scores / scores.sum()) @ h @ w["classify.weight"].T + w["classify.bias"]
        torch.testing.assert_close(output.logits[number], logits, rtol=0, atol=1e-12)
        attention = output.extras["patch_attention"].split([9, 4])[number]
        torch.testing.assert_close(attention, scores / scores.sum(), rtol=0, atol=1e-12)
    absent = w["bag.absent"] @ w["classify.weight"].T + w["classify.bias"]
    torch.testing.assert_close(output.logits[2], absent, rtol=0, atol=1e-12)


def test_genes_are_ignored(make_batch):
    model = ABMIL(12, (7, 3, 5), 4, ABMILConfig()).double().eval()
    batch = make_batch([5])
    assert torch.equal(model(batch).logits, model(batch.without(omics=True)).logits)
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in ABMIL(12, (), 4, ABMILConfig()).parameters()
    )
