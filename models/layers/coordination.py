"""Gradient coordination: of two parts of a model, the one that is right less often gives way where their gradients conflict.

Zhang, Wang, Meng, Tang, Li: "Knowledge-driven Subspace Fusion and Gradient Coordination for Multi-modal Learning", MICCAI
2024 (arXiv 2406.13979), section 2.3.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def coordinated(gives_way: Float[Tensor, "K H"], other: Float[Tensor, "K H"]) -> Float[Tensor, "K H"]:
    """The first gradient without the part that opposes the second.

    Row by row: where the two are at an obtuse angle, the first loses its component along the second and is stretched to
    the length it had. A row that points straight against the other has nothing left: it becomes zero.
    """
    dot = (gives_way * other).sum(1, keepdim=True)
    before = gives_way.norm(dim=1, keepdim=True)
    left = gives_way - dot / other.square().sum(1, keepdim=True).clamp(min=torch.finfo(dot.dtype).tiny) * other
    length = left.norm(dim=1, keepdim=True)
    is_left = length > before * torch.finfo(dot.dtype).eps ** 0.5  # less is rounding
    stretched = torch.where(is_left, left * before / length.clamp(min=torch.finfo(dot.dtype).tiny), 0)
    return torch.where(dot < 0, stretched, gives_way)


def mean_over_processes(scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The mean over all training processes, which hold different cases of a step; of a single process, its scores."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return scores
    total = scores.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()
