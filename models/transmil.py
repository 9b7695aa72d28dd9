"""TransMIL: the patches of a case as one sequence, read by two layers of self-attention; slides alone.

Shao, Bian, Chen, Wang, Zhang, Ji, Zhang: "TransMIL: Transformer based Correlated Multiple Instance Learning for Whole
Slide Image Classification", NeurIPS 2021 (arXiv 2106.00908). Section 3.3: `TransLayer`, `PositionEncoder` (PPEG),
squaring of the sequence, class token. Its self-attention is that of Xiong et al., "Nyströmformer", AAAI 2021 (arXiv
2102.03902), section 3.2: softmax(Q K̃ᵀ) · softmax(Q̃ K̃ᵀ)⁺ · softmax(Q̃ Kᵀ) V, where landmarks Q̃ and K̃ are means of
neighbouring tokens; its cost grows with the length of the sequence, not with its square.

Where this departs from the paper or its released code, and why:

- A sequence no longer than there are landmarks is attended to exactly: each token is then a landmark, and the formula is
  the attention itself, but for the rounding of the pseudoinverse.
- The pseudoinverse is iterated in single precision at least; landmarks are means of segments that differ by one token at
  most, where released code pads the sequence with zeros, which attend too.
- Patches come slide by slide, row by row, so that the sequence that is squared does not depend on how they were stored.
- A learned vector stands for a case without slides.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from models.configs import TransMILConfig
from models.layers.devices import on_device, without_autocast
from models.layers.projection import PatchProjection
from models.types import Batch, ModelOutput


def nystrom_attention(
    q: Float[Tensor, "h L d"], k: Float[Tensor, "h L d"], v: Float[Tensor, "h L d"], *, landmarks: int, iterations: int
) -> Float[Tensor, "h L d"]:
    """softmax(q kᵀ / √d) v, exact up to `landmarks` tokens, by way of so many landmarks beyond: O(L · landmarks).

    Args:
        q: queries of each head.
        k: keys.
        v: values.
        landmarks: how many.
        iterations: towards the pseudoinverse of the landmarks' attention.
    """
    if q.shape[1] <= landmarks:
        return _attended(q, k, v)
    q_means, k_means = segment_means(q, landmarks), segment_means(k, landmarks)
    with without_autocast(q.device):
        exact = torch.promote_types(q.dtype, torch.float32)
        among = (q_means.to(exact) @ k_means.to(exact).mT * q.shape[-1] ** -0.5).softmax(-1)
        inverse = pseudoinverse(among, iterations)
    gathered = inverse.to(v.dtype) @ _attended(q_means, k, v)  # (h, landmarks, d)
    return _attended(q, k_means, gathered)


def _attended(
    q: Float[Tensor, "h L d"], k: Float[Tensor, "h S d"], v: Float[Tensor, "h S d"]
) -> Float[Tensor, "h L d"]:
    """softmax(q kᵀ / √d) v, as a batch of one case: without that axis CUDA has no kernel for it but the slow one."""
    return scaled_dot_product_attention(q[None], k[None], v[None])[0]


def segment_means(x: Float[Tensor, "h L d"], count: int) -> Float[Tensor, "h count d"]:
    """The means of `count` runs of neighbours, whose lengths differ by one at most: the longer ones first."""
    length, longer = divmod(x.shape[1], count)
    first, rest = x.tensor_split([longer * (length + 1)], 1)
    means = [part.unflatten(1, (runs, -1)).mean(2) for part, runs in ((first, longer), (rest, count - longer)) if runs]
    return torch.cat(means, 1)


def pseudoinverse(matrix: Float[Tensor, "h m m"], iterations: int) -> Float[Tensor, "h m m"]:
    """Moore and Penrose's inverse by the iteration of the Nyströmformer, equation 11.

    It starts from the transpose, divided by the largest sum of a row and by that of a column.
    """
    largest = matrix.abs().sum(-1).amax(-1) * matrix.abs().sum(-2).amax(-1)  # (h,)
    z = matrix.mT / largest[:, None, None]
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(iterations):
        product = matrix @ z
        z = 0.25 * z @ (13 * one - product @ (15 * one - product @ (7 * one - product)))
    return z


class TransLayer(nn.Module):
    """x + attention(LayerNorm(x)), the values of neighbours being added to what is gathered."""

    def __init__(self, config: TransMILConfig) -> None:
        super().__init__()
        H, self.config = config.hidden, config
        self.norm = nn.LayerNorm(H)
        self.in_projection = nn.Linear(H, 3 * H, bias=False)
        self.neighbours = nn.Conv2d(
            config.heads, config.heads, (33, 1), padding=(16, 0), groups=config.heads, bias=False
        )
        self.out_projection = nn.Sequential(nn.Linear(H, H), nn.Dropout(config.dropout))

    def forward(self, x: Float[Tensor, "L H"]) -> Float[Tensor, "L H"]:
        """The tokens of one case, each having seen the others."""
        q, k, v = self.in_projection(self.norm(x)).unflatten(1, (3, self.config.heads, -1)).permute(1, 2, 0, 3)
        gathered = nystrom_attention(q, k, v, landmarks=self.config.landmarks, iterations=self.config.iterations)
        gathered = gathered + self.neighbours(v[None])[0]  # (heads, L, d)
        return x + self.out_projection(gathered.transpose(0, 1).flatten(1))


class PositionEncoder(nn.Module):
    """PPEG: depth-wise convolutions of three sizes over the squared sequence, added to it."""

    def __init__(self, config: TransMILConfig) -> None:
        super().__init__()
        H = config.hidden
        self.convolutions = nn.ModuleList(nn.Conv2d(H, H, side, padding=side // 2, groups=H) for side in (7, 5, 3))

    def forward(self, x: Float[Tensor, "LL H"]) -> Float[Tensor, "LL H"]:
        """The patches of one case, whose number is a square."""
        side = math.isqrt(len(x))
        square = x.T.unflatten(1, (side, side))[None]
        return x + sum(convolution(square) for convolution in self.convolutions)[0].flatten(1).T


class TransMIL(nn.Module):
    """Slides of a case to K outputs; genes are ignored.

    Args:
        patch_dim: width of a patch feature.
        group_dims: ignored.
        n_outputs: K.
        config: everything else.
    """

    def __init__(self, patch_dim: int, group_dims: Sequence[int], n_outputs: int, config: TransMILConfig) -> None:
        super().__init__()
        H = config.hidden
        self.project = PatchProjection(patch_dim, H)
        self.token = nn.Parameter(torch.randn(1, H).mul_(0.02))
        self.absent = nn.Parameter(torch.randn(H).mul_(0.02))
        self.first, self.position, self.second = TransLayer(config), PositionEncoder(config), TransLayer(config)
        self.norm = nn.LayerNorm(H)
        self.classify = nn.Linear(H, n_outputs)

    def forward(self, batch: Batch, *, explain: bool = False) -> ModelOutput:
        """Logits; cases go one by one, each as its square. There is nothing that explains them."""
        packing = batch.packing
        patches = self.project(batch.bags, packing, batch.precision)
        read = [
            self._read(x, cells) if len(cells) else self.absent
            for x, cells in zip(packing.cases(patches), batch.cells, strict=True)
        ]
        return ModelOutput(self.classify(self.norm(torch.stack(read))))

    def _read(self, patches: Float[Tensor, "n H"], cells: Int[Tensor, "n 3"]) -> Float[Tensor, " H"]:
        """The class token of a case."""
        x = patches[on_device(_by_place(cells), patches.device)]
        missing = (math.isqrt(len(x) - 1) + 1) ** 2 - len(x)
        x = torch.cat([self.token, x, x[:missing]])  # a square, and the token before it
        x = self.first(x)
        x = torch.cat([x[:1], self.position(x[1:])])
        return self.second(x)[0]


def _by_place(cells: Int[Tensor, "n 3"]) -> Int[Tensor, " n"]:
    """The order of the patches slide by slide, row by row."""
    slide, column, row = cells.long().unbind(1)
    return ((slide * (row.max() + 1) + row) * (column.max() + 1) + column).argsort(stable=True)
