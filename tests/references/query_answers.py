"""The terms of KD-DETR on answers to the same queries, as its authors have them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def official(logits: Tensor, said: Tensor, boxes: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Return loss_kl_div (T 10), loss_bbox and loss_giou of the authors, and the weights."""
    pred, soft = (x.flatten(0, 1) for x in (logits, said))
    weight = soft.sigmoid().max(1)[0]
    kl = F.kl_div((pred / 10).log_softmax(1), (soft / 10).softmax(1), reduction='none')
    classes = (kl.mean(1) * 10 * 10 * weight).sum()
    own, other = (x.flatten(0, 1) for x in (boxes, targets))
    l1 = (own - other).abs().mean(1)
    one, two = (
        torch.cat([x[:, :2] - x[:, 2:] / 2, x[:, :2] + x[:, 2:] / 2], 1) for x in (own, other)
    )
    sides = (torch.min(one[:, 2:], two[:, 2:]) - torch.max(one[:, :2], two[:, :2])).clamp(min=0)
    shared = sides.prod(1)
    union = own[:, 2:].prod(1) + other[:, 2:].prod(1) - shared
    around = (torch.max(one[:, 2:], two[:, 2:]) - torch.min(one[:, :2], two[:, :2])).prod(1)
    giou = 1 - (shared / union - (around - union) / around)
    total = weight.sum()
    return classes, (l1 * weight).sum() / total, (giou * weight).sum() / total, weight
