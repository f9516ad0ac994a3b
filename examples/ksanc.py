"""KSANC on handwritten digits without any config: sized to run quickly, not to follow the paper.

A teacher saw many labelled digits, a student has few. It is trained twice from the same weights for
as many steps on the same images: alone, and by the three parts of KSANC: the teacher's logits, what
attention squeezes out of every stage, and a critic that tells the two networks' logits apart and
also names the class. The student and the critic have an optimizer each; the losses see to it that
neither moves the other. Runs on a CPU in seconds: python examples/ksanc.py
"""

import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mmkd.losses import AdversarialLoss, LogitMSELoss, SqueezedKnowledgeLoss

Data = tuple[Tensor, Tensor]


def digits() -> Data:
    """Return 1,797 images (N, 1, 8, 8) of digits, shuffled, and their labels."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    return images[order], torch.from_numpy(data.target)[order]


class Classifier(nn.Module):
    """Two stages of convolutions, a linear layer; gives logits, both maps and the pooled vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 3, stride, 1), nn.BatchNorm2d(fan_out), nn.ReLU()
            )
            for fan_in, fan_out, stride in ((1, width, 1), (width, 2 * width, 2))
        )
        self.classify = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Return logits (N, 10), maps of the stages and the descriptor (N, 2·width)."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pooled = x.mean((2, 3))
        return self.classify(pooled), maps, pooled


class KSANC(nn.Module):
    """The three parts for one pair of networks."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.logits = LogitMSELoss(loss_weight=0.1)
        maps, pooled = ([student, 2 * student], [teacher, 2 * teacher]), (2 * student, 2 * teacher)
        self.squeezed = SqueezedKnowledgeLoss(*maps, *pooled, num_classes=10, loss_weight=0.1)
        self.adversarial = AdversarialLoss(
            mode='bce',
            critic=dict(type='CategoryCritic', in_channels=10, channels=(32, 32)),
            l1=1e-5,
            l2=1e-4,
            adversarial_sample=0.1,
            loss_weight=0.1,
        )


def train(
    model: Classifier, data: Data, steps: int, teacher: Classifier | None = None
) -> Classifier:
    """Train with the labels, or by KSANC where there is a teacher."""
    torch.manual_seed(0)
    images, labels = data
    parts = KSANC(16, 64) if teacher is not None else None
    own = [*model.parameters(), *([*parts.squeezed.parameters()] if parts else [])]
    optimizers = [torch.optim.Adam(own, lr=1e-2)]
    if parts is not None:
        optimizers.append(torch.optim.Adam(parts.adversarial.critic.parameters(), lr=1e-3))
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 - step / steps) for o in optimizers
    ]
    model.train()
    for _ in range(steps):
        pick = torch.randint(len(images), (32,))
        x, y = images[pick], labels[pick]
        logits, maps, pooled = model(x)
        losses = [F.cross_entropy(logits, y)]
        if parts is not None and teacher is not None:
            with torch.no_grad():
                target, teacher_maps, teacher_pooled = teacher(x)
            student = (
                parts.logits(logits, target)
                + parts.adversarial(logits, target, labels=y)
                + parts.squeezed(maps, teacher_maps, pooled, teacher_pooled, labels=y)
            )
            losses = [losses[0] + student, parts.adversarial.critic_loss(logits, target, labels=y)]
        for optimizer, loss, schedule in zip(optimizers, losses, schedules, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: Classifier, data: Data) -> float:
    """Return the accuracy in percent."""
    images, labels = data
    return 100 * float((model(images)[0].argmax(1) == labels).float().mean())


def main(steps: int = 300, teacher_steps: int = 300) -> tuple[float, float, float]:
    """Return the accuracy of the teacher, the student alone and the student by KSANC."""
    images, labels = digits()
    few, many, test = (
        (images[part], labels[part]) for part in (slice(0, 60), slice(0, 1000), slice(1000, None))
    )
    torch.manual_seed(0)
    teacher = train(Classifier(64), many, teacher_steps)
    torch.manual_seed(0)
    student = Classifier(16)
    alone = train(copy.deepcopy(student), few, steps)
    taught = train(copy.deepcopy(student), few, steps, teacher)
    result = accuracy(teacher, test), accuracy(alone, test), accuracy(taught, test)
    print(
        f'accuracy on new digits: teacher {result[0]:.1f}, student alone {result[1]:.1f}, student '
        f'by KSANC {result[2]:.1f}'
    )
    return result


if __name__ == '__main__':
    _, alone, taught = main()
    assert taught > alone, 'no gain'
