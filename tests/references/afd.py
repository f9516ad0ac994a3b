"""One step of AFD as the paper prints it: every loss by a forward of its own, divergences image by
image.
"""

import copy
from typing import Any

import torch
from torch import Tensor


def logit_loss(own: Tensor, peer: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Return the mean over images of −ln σ(own)_y + τ² KL(σ(peer/τ) ‖ σ(own/τ))."""
    total = own.new_zeros(())
    for z, target, y in zip(own, peer.detach(), labels, strict=True):
        p, q = (target / tau).softmax(0), (z / tau).softmax(0)
        total = (
            total
            - z.softmax(0)[y].log()
            + tau**2 * sum(a * (a / b).log() for a, b in zip(p, q, strict=True))
        )
    return total / len(labels)


def step(
    nets: list[Any],
    critics: list[Any],
    images: Tensor,
    labels: Tensor,
    optimizers: dict[str, list[Any]],
    tau: float,
) -> None:
    """Step every network and critic once; all gradients are those at the parameters before the
    step.

    Args:
        nets: Networks that return (logits, map).
        critics: Called on two maps in one batch, they return the probability of 'real' of each.
        images: One batch.
        labels: Its classes.
        optimizers: 'logit', 'feature' (of each network) and 'critic', a list each.
        tau: T.
    """
    old = copy.deepcopy((nets, critics))
    found = []
    for k, (net, critic) in enumerate(zip(nets, critics, strict=True)):
        j = (k - 1) % len(nets)

        def gradients(kind: str, module: Any, k: int = k, j: int = j) -> list[Tensor | None]:
            before, judges = copy.deepcopy(old)
            (z, f), (z_peer, f_peer) = before[k](images), before[j](images)
            if kind == 'logit':
                loss = logit_loss(z, z_peer, labels, tau)
            elif kind == 'feature':
                d, _ = judges[k](torch.cat([f, f_peer.detach()])).chunk(2)
                loss = (1 - d).square().mean()
            else:
                d, d_peer = judges[k](torch.cat([f, f_peer]).detach()).chunk(2)
                loss = (1 - d_peer).square().mean() + d.square().mean()
            loss.backward()
            return [p.grad for p in (judges if kind == 'critic' else before)[k].parameters()]

        for kind, module in (('logit', net), ('feature', net), ('critic', critic)):
            found.append((optimizers[kind][k], module, gradients(kind, module)))
    for optimizer, module, grads in found:
        for parameter, gradient in zip(module.parameters(), grads, strict=True):
            parameter.grad = gradient
        optimizer.step()
        for parameter in module.parameters():
            parameter.grad = None
