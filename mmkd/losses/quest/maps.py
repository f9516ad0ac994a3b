"""Maps of QUEST: how much larger the teacher's is, pooling it, and the vectors that it holds."""

import torch.nn.functional as F
from torch import Tensor

from mmkd.losses.checks import shape_of
from mmkd.losses.functional import widen


def pooling_factor(student: Tensor, teacher: Tensor) -> int:
    """Return by which factor the teacher's map (N, C, H, W) is larger; 1 for vectors (N, C).

    >>> import torch
    >>> pooling_factor(torch.zeros(1, 8, 4, 4), torch.zeros(1, 16, 8, 8))
    2

    Raises:
        ValueError: other shapes, a factor that is no integer, or a larger student.
    """
    shapes = f'student {shape_of(student)}, teacher {shape_of(teacher)}'
    if student.dim() not in (2, 4) or teacher.dim() != student.dim():
        raise ValueError(f'assignment KL needs maps (N, C, H, W) or vectors (N, C), got {shapes}')
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(f'student and teacher hold batches of different size: {shapes}')
    if student.dim() == 2:
        return 1
    factor = max(1, teacher.shape[2] // max(1, student.shape[2]))
    if tuple(teacher.shape[2:]) != (factor * student.shape[2], factor * student.shape[3]):
        raise ValueError(
            "the teacher's map must be as large as the student's, or larger by an integer factor, "
            f"the same on both axes: {shapes}. Mend: connectors=dict(student='auto') resizes the "
            'student'
        )
    return factor


def pool_map(teacher: Tensor, factor: int) -> Tensor:
    """Return a map (N, C, H, W) average-pooled by a factor, in float32 or wider where it is not 1.

    >>> import torch
    >>> pool_map(torch.arange(4.).view(1, 1, 2, 2), 2).item()
    1.5
    """
    return F.avg_pool2d(widen(teacher)[0], factor) if factor > 1 else teacher


def positions(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the vectors (P, C) of a map (N, C, H, W) or (N, C), masked ones left out.

    >>> import torch
    >>> positions(torch.arange(4.).view(1, 2, 1, 2), torch.tensor([[[False, True]]]))
    tensor([[1., 3.]])
    """
    x = x.movedim(1, -1)
    return x.reshape(-1, x.shape[-1]) if mask is None else x[mask]
