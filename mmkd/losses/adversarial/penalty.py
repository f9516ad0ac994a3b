"""The gradient penalty of WGAN-GP: the critic's slope between the teacher's map and the other."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmkd.losses.functional import masked_mean


def gradient_penalty(
    scores_of: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    fake: Tensor,
    real: Tensor,
    critic: str = 'the critic',
    proved_on: Sequence[Tensor] = (),
) -> Tensor:
    r"""Mean over the images of (‖∇d(x̂)‖ − 1)², x̂ = εT + (1−ε)S with ε ~ U(0, 1) for each image.

    Paper: Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017, arXiv 1704.00028,
    eq. 3.

    Normaliser: the images of which any score counts. The gradient is that of the sum of an image's
    scores that count; its norm is sqrt(Σg² + 1e-12), whose derivative is finite at 0.

    Args:
        scores_of: Map -> its scores and which of them count (None: all).
        fake: The student's maps (N, …).
        real: The teacher's, of the same shape.
        critic: How errors call it.
        proved_on: Parameters by which the penalty is differentiated once for nothing: otherwise the
            error would come from the training loop and name no critic.

    Returns:
        0-d tensor; under ``no_grad`` without a graph.

    Raises:
        RuntimeError: The critic cannot be differentiated twice.

    Examples:
        >>> twice = lambda x: (2 * x, None)  # its slope is 2 everywhere
        >>> gradient_penalty(twice, torch.zeros(3, 1), torch.ones(3, 1)).item()
        1.0
    """
    create_graph = torch.is_grad_enabled()
    ones = [1] * (fake.dim() - 1)
    epsilon = torch.rand(len(fake), *ones, device=fake.device, dtype=fake.dtype)
    with torch.enable_grad():  # the penalty is also a value under no_grad
        mixed = (epsilon * real + (1 - epsilon) * fake).requires_grad_()
        score, valid = scores_of(mixed)
        if valid is not None:
            score = score.where(valid, score.new_zeros(()))
        try:
            (gradient,) = torch.autograd.grad(score.sum(), mixed, create_graph=create_graph)
            norm = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
            images = None if valid is None else valid.flatten(1).any(1)
            penalty = masked_mean((norm - 1).square(), images)
            if penalty.requires_grad and proved_on:
                torch.autograd.grad(penalty, proved_on, retain_graph=True, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                f"mode='wgan-gp' differentiates the critic twice, and {critic} cannot be "
                f"({error}); mend: mode='hinge', or write its attention with matmul and softmax in "
                'place of scaled_dot_product_attention'
            ) from error
    return penalty
