"""AFD on handwritten digits without any config: sized to run quickly, not to follow the paper.

Two small networks see few labelled digits and have no teacher. They are trained alone; by mutual
learning, each from the other's logits; with their last feature maps aligned directly as well; and
by AFD, where each has a critic that tells its maps from its peer's. One forward of each network
serves three optimizers: SGD steps on the logit loss, Adam on the map loss of the same weights, Adam
on the critics. All gradients are taken before any step: what a step changes in place, a later
backward could not go through. Runs on a CPU in seconds: python examples/afd.py
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mmkd.losses import AdversarialLoss, FeatureL1Loss, PixelWiseKLLoss

Data = tuple[Tensor, Tensor]
METHODS = ('alone', 'mutual learning', '+ L1 of maps', 'AFD')
SIZE = 40  # labelled images


def digits() -> Data:
    """Return 1,797 images (N, 1, 8, 8) of digits, shuffled, and their labels."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    return images[order], torch.from_numpy(data.target)[order]


class Classifier(nn.Module):
    """Two convolutions and a linear layer; gives logits and the last feature map."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.classify = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, 10) and the map (N, 2·width, 4, 4)."""
        maps = self.features(x)
        return self.classify(maps.mean((2, 3))), maps


def add_gradients(loss: Tensor, optimizer: torch.optim.Optimizer) -> list[Tensor | None]:
    """Return a loss's gradient for an optimizer's parameters; the graph is kept for the others."""
    own = [p for group in optimizer.param_groups for p in group['params']]
    return list(torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True))


def step(optimizer: torch.optim.Optimizer, gradients: list[Tensor | None]) -> None:
    """Step with gradients that were taken before."""
    own = [p for group in optimizer.param_groups for p in group['params']]
    for parameter, gradient in zip(own, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def train(method: str, data: Data, seed: int, steps: int) -> list[Classifier]:
    """Train two peers."""
    torch.manual_seed(seed)
    images, labels = data
    peers = [Classifier().train() for _ in range(2)]
    logit, align = PixelWiseKLLoss(tau=3.0), FeatureL1Loss()
    judges = nn.ModuleList(
        AdversarialLoss(
            mode='lsgan',
            sigmoid=True,
            critic=dict(type='FeatureMapCritic', in_channels=32, size=(4, 4)),
        )
        for _ in peers
    )
    weights = [p for peer in peers for p in peer.parameters()]
    optimizers = dict(
        logit=torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    )
    if method == 'AFD':
        optimizers |= dict(
            feature=torch.optim.Adam(weights, lr=1e-4),
            critic=torch.optim.Adam([p for j in judges for p in j.critic.parameters()], lr=1e-4),
        )
    decay = [torch.optim.lr_scheduler.CosineAnnealingLR(o, steps) for o in optimizers.values()]
    for _ in range(steps):
        pick = torch.randint(len(images), (32,))
        logits, maps = zip(*(peer(images[pick]) for peer in peers), strict=True)
        losses = dict(logit=sum(F.cross_entropy(z, labels[pick]) for z in logits))
        if method != 'alone':
            losses['logit'] += sum(logit(logits[k], logits[1 - k].detach()) for k in range(2))
        if method == '+ L1 of maps':
            losses['logit'] += sum(align(maps[k], maps[1 - k].detach()) for k in range(2))
        if method == 'AFD':
            losses['feature'] = sum(judges[k](maps[k], maps[1 - k]) for k in range(2))
            losses['critic'] = sum(judges[k].critic_loss(maps[k], maps[1 - k]) for k in range(2))
        gradients = {name: add_gradients(loss, optimizers[name]) for name, loss in losses.items()}
        for name, optimizer in optimizers.items():
            step(optimizer, gradients[name])
        for schedule in decay:
            schedule.step()
    return [peer.eval() for peer in peers]


@torch.no_grad()
def accuracy(model: Classifier, data: Data) -> float:
    """Return the accuracy in percent."""
    images, labels = data
    return 100 * float((model(images)[0].argmax(1) == labels).float().mean())


def main(seeds: int = 5, steps: int = 200) -> dict[str, float]:
    """Return the mean accuracy of the peers, by method."""
    images, labels = digits()
    few, test = ((images[part], labels[part]) for part in (slice(0, SIZE), slice(1000, None)))
    found = {}
    for method in METHODS:
        scores = [
            accuracy(peer, test)
            for seed in range(seeds)
            for peer in train(method, few, seed, steps)
        ]
        found[method] = sum(scores) / len(scores)
        print(f'{method}: {found[method]:.1f} % of new digits, mean of two peers and {seeds} seeds')
    return found


if __name__ == '__main__':
    result = main()
    assert result['AFD'] > result['alone'], 'no gain'
