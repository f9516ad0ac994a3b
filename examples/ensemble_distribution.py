"""Ensemble Distribution Distillation on digits, without any config.

The settings are chosen to run quickly, they are not the paper's.

Five networks learn from few labelled digits. One network of the same size then learns the
*distribution* of their predictions on unlabelled digits, a Dirichlet: it predicts nearly as well as
all five together, and its knowledge uncertainty tells digits from what is no digit. Runs on a CPU
in seconds: python examples/ensemble_distribution.py
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mmkd.evaluation import dirichlet_uncertainty, nll, ood_auroc
from mmkd.losses import ProxyDirichletLoss

MEMBERS = 5


def digits() -> tuple[Tensor, Tensor]:
    """Return 1,797 images (N, 64) of digits under noise, shuffled, and their labels."""
    data = load_digits()
    g = torch.Generator().manual_seed(0)
    order = torch.randperm(len(data.target), generator=g)
    images = torch.from_numpy(data.data).float()[order] / 16
    labels = torch.from_numpy(data.target)[order]
    return images + 0.3 * torch.randn(images.shape, generator=g), labels


def network() -> nn.Module:
    """Return a small classifier."""
    return nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )


def train(
    seed: int, size: int, loss: Callable[[nn.Module, Tensor], Tensor], steps: int = 400
) -> nn.Module:
    """Train a network: ``loss(model, pick)`` is its loss on the samples ``pick`` of ``size``."""
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, torch.randint(size, (64,))).backward()
        optimizer.step()
    return model.eval()


def accuracy(logits: Tensor, truth: Tensor) -> float:
    """Return the accuracy in percent."""
    return 100 * float((logits.argmax(1) == truth).float().mean())


def main() -> tuple[float, float, float]:
    """Return the accuracy of the ensemble, of a member on average, and of the distilled network."""
    images, labels = digits()
    few, unlabelled, test, truth = images[:150], images[:1000], images[1000:], labels[1000:]
    members = [
        train(seed, len(few), lambda model, pick: F.cross_entropy(model(few[pick]), labels[pick]))
        for seed in range(MEMBERS)
    ]
    distil = ProxyDirichletLoss()

    @torch.no_grad()
    def ensemble(x: Tensor) -> Tensor:
        """Return the logits (M, N, C) of all members."""
        return torch.stack([member(x) for member in members])

    student = train(
        MEMBERS,
        len(unlabelled),
        lambda model, pick: distil(model(unlabelled[pick]), teachers=ensemble(unlabelled[pick])),
        steps=1000,
    )

    with torch.no_grad():
        of_members, distilled = ensemble(test).log_softmax(-1), student(test)
        mean = of_members.exp().mean(0).log()
        scrambled = test[:, torch.randperm(64, generator=torch.Generator().manual_seed(0))]
        alphas = student(torch.cat([test, scrambled])).exp() + 1
    knowledge = dirichlet_uncertainty(alphas)['knowledge']
    for name, logits in dict(ensemble=mean, member=of_members[0], distilled=distilled).items():
        print(f'{name:9}: accuracy {accuracy(logits, truth):.1f}, NLL {nll(logits, truth):.3f}')
    auroc = ood_auroc(knowledge, torch.arange(len(knowledge)) >= len(test))
    print(f'scrambled digits found by knowledge uncertainty: AUROC {auroc:.2f}')
    return (
        accuracy(mean, truth),
        sum(accuracy(logits, truth) for logits in of_members) / MEMBERS,
        accuracy(distilled, truth),
    )


if __name__ == '__main__':
    _, alone, taught = main()
    assert taught > alone, 'no gain'
