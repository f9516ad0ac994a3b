"""Class maps of heads that answer with queries: each a mask, and how probable its class is."""

from typing import Any

import torch
from torch import Tensor, nn

from mmkd.structures.trace import tensors

OF_QUERIES = ('MaskFormerHead', 'SideAdapterCLIPHead')  # and what is below them


def class_map(output: Any, where: str = 'the head') -> Tensor:
    """Return the class map (N, C, h, w) that a head's forward answers with.

    A map stays as it is; of a list of stages it is the last, of a tuple of outputs the first. Of
    queries it is assembled, see :func:`log_scores`.

    Args:
        output: What the forward returned.
        where: How the error calls it.

    Raises:
        TypeError: There is no map in it.
    """
    queries = queries_of(output)
    if queries is not None:
        return log_scores(*queries)
    maps = [made for _, made in tensors(output) if made.dim() == 4]
    if not maps:
        raise TypeError(
            f'{where} answers with a {type(output).__name__} without a map (N, C, H, W)'
        )
    return maps[-1] if isinstance(output, list) else maps[0]


def queries_of(output: Any) -> tuple[Tensor, Tensor] | None:
    """Return class scores (N, Q, C + 1) and masks (N, Q, h, w) of the last layer; None of others.

    Heads answer with both for every layer, a list or a stack of them: MaskFormer and Mask2Former
    with the classes first, SAN with the masks first.
    """
    if not isinstance(output, list | tuple) or len(output) != 2:
        return None
    if not all(isinstance(one, list | tuple | Tensor) and len(one) for one in output):
        return None
    last = [one[-1] for one in output]
    named = {one.dim(): one for one in last if isinstance(one, Tensor)}
    if set(named) != {3, 4} or named[3].shape[:2] != named[4].shape[:2]:
        return None
    return named[3], named[4]


def answers_with_queries(model: Any) -> bool:
    """Return whether a segmentor's prediction holds what its queries say in place of logits.

    mmseg's MaskFormer, Mask2Former and SAN put the sums of :func:`log_scores` without the logarithm
    into ``seg_logits``.
    """
    head = getattr(model, 'decode_head', None)
    head = head[-1] if isinstance(head, nn.ModuleList) and len(head) else head
    return any(kind.__name__ in OF_QUERIES for kind in type(head).__mro__)


def log_scores(classes: Tensor, masks: Tensor) -> Tensor:
    r"""Return the logarithm of what queries say of each pixel's class, (N, C, h, w) in float32.

    .. math:: \ln \sum_q p(c \mid q)\, \sigma(m_q)

    It is what MaskFormer (Cheng et al., NeurIPS 2021, arXiv 2107.06278, section 3.4) predicts
    from, but for the resize; which query says it does not matter. Its softmax over classes is the
    share of each class.

    Args:
        classes: Scores of each query (N, Q, C + 1); the last class is 'no object'.
        masks: Logits of each query's mask (N, Q, h, w).

    >>> even = torch.zeros(1, 1, 3), torch.zeros(1, 1, 1, 1)
    >>> log_scores(*even).exp().flatten()  # 1/3 of two classes, halved by the mask
    tensor([0.1667, 0.1667])
    """
    with torch.autocast(masks.device.type, enabled=False):
        probable = classes.float().softmax(-1)[..., :-1]
        scores = torch.einsum('nqc,nqhw->nchw', probable, masks.float().sigmoid())
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
