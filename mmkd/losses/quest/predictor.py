"""The student's side of QUEST: which word would the teacher see here?"""

import torch
from torch import Tensor, nn


def unit(x: Tensor, dim: int = 1) -> Tensor:
    """Return vectors of length 1; a zero vector stays 0, with gradient 0.

    It rounds otherwise than :func:`mmkd.losses.functional.unit_vectors` does, so that words that
    were trained stay what they are.

    >>> unit(torch.tensor([[3., 4.], [0., 0.]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    exists = norm > 0
    # The inner where keeps 1/0 out of the graph: its gradient is Inf · 0 = NaN.
    return x * (1 / norm.where(exists, norm.new_ones(()))).where(exists, norm.new_zeros(()))


class AssignmentPredictor(nn.Module):
    r"""Scores of a teacher's words by a cosine 1×1 convolution with a learned scale.

    It is dropped after training.

    Paper: Jain et al., QuEST: Quantized Embedding Space for Transferring Knowledge, ECCV 2020,
    arXiv 1912.01540, eq. 4.

    .. math:: s_k = \gamma \cos(W_k, f_S)

    A zero vector has cosine 0 with every word.

    Args:
        channels: Channels of the student's map.
        num_words: Words of the vocabulary.
        gamma: Where the learned scale begins.

    Examples:
        >>> predictor = AssignmentPredictor(2, num_words=2, gamma=3.)
        >>> _ = predictor.weight.data.copy_(torch.tensor([[1., 0.], [0., 2.]]))
        >>> predictor(torch.tensor([[3., 4.]])).tolist()
        [[1.8..., 2.4...]]
    """

    def __init__(self, channels: int, num_words: int, gamma: float = 3.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_words, channels) * (2 / channels) ** 0.5)
        self.scale = nn.Parameter(torch.tensor(float(gamma)))

    def forward(self, student: Tensor) -> Tensor:
        r"""Return the scores (N, K, \*S) of features (N, C, \*S); their softmax is p_S."""
        return self.scale * torch.einsum('nc...,kc->nk...', unit(student), unit(self.weight))
