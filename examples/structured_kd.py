"""Structured KD on toy data, without any config.

The settings are chosen to run quickly, not to follow the paper.

Coloured discs under heavy noise are segmented by a teacher that saw many images and by a student
that has few. It is trained twice from the same weights for as many steps on the same images: alone,
and with the losses of Structured KD. Two optimizers: one steps the student, one the critic. Runs on
a CPU in seconds: python examples/structured_kd.py
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses import AdversarialLoss, PairWiseAffinityLoss, PixelWiseKLLoss

CLASSES, SIZE = 5, 16


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw noisy images (count, 3, SIZE, SIZE) of overlapping discs, and their class maps."""
    g = torch.Generator().manual_seed(seed)
    colours = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing='ij')
    labels = torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    for _ in range(4):
        kind = torch.randint(1, CLASSES, (count, 1, 1), generator=g)
        cy, cx, radius = (
            torch.randint(low, high, (count, 1, 1), generator=g)
            for low, high in ((0, SIZE), (0, SIZE), (3, 6))
        )
        labels = torch.where((y - cy) ** 2 + (x - cx) ** 2 <= radius**2, kind, labels)
    images = colours[labels].permute(0, 3, 1, 2)
    return images + torch.randn(images.shape, generator=g), labels


class Segmentor(nn.Module):
    """Three convolutions; gives logits and the feature before them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, dilation in ((3, 1), (width, 1), (width, 2)):
            convolution = nn.Conv2d(fan_in, width, 3, 1, dilation, dilation)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        self.body, self.classify = nn.Sequential(*layers), nn.Conv2d(width, CLASSES, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and feature."""
        feature = self.body(images)
        return self.classify(feature), feature


def train(
    model: Segmentor, data: tuple[Tensor, Tensor], steps: int, teacher: Segmentor | None = None
) -> Segmentor:
    """Train with the labels, and with a teacher where there is one."""
    torch.manual_seed(0)
    images, labels = data
    pixel, pair = PixelWiseKLLoss(loss_weight=3.0), PairWiseAffinityLoss(patch=2, loss_weight=3.0)
    critic = dict(type='HolisticCritic', in_channels=CLASSES, size=(SIZE, SIZE), channels=(8, 16))
    holistic = AdversarialLoss(critic=critic, activation='softmax', loss_weight=0.03)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    critic_optimizer = torch.optim.Adam(holistic.critic.parameters(), lr=4e-4, betas=(0.9, 0.99))
    model.train()
    for _ in range(steps):
        pick = torch.randint(len(images), (8,))
        x, y = images[pick], labels[pick]
        logits, feature = model(x)
        loss = F.cross_entropy(logits, y)
        if teacher is not None:
            with torch.no_grad():
                teacher_logits, teacher_feature = teacher(x)
            loss = loss + pixel(logits, teacher_logits) + pair(feature, teacher_feature)
            loss = loss + holistic(logits, teacher_logits, image=x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if teacher is not None:
            critic_optimizer.zero_grad()
            holistic.critic_loss(logits, teacher_logits, image=x).backward()
            critic_optimizer.step()
    return model.eval()


@torch.no_grad()
def mean_iou(model: Segmentor, data: tuple[Tensor, Tensor]) -> float:
    """Return the mean intersection over union in percent."""
    images, labels = data
    guess = model(images)[0].argmax(1)
    pairs = labels.flatten() * CLASSES + guess.flatten()
    table = torch.bincount(pairs, minlength=CLASSES**2).view(CLASSES, CLASSES)
    return 100 * float((table.diag() / (table.sum(0) + table.sum(1) - table.diag())).mean())


def main(student_steps: int = 100, teacher_steps: int = 150) -> tuple[float, float, float]:
    """Return mean IoU of the teacher, the student alone and the distilled student."""
    few, many, test = scenes(8, seed=1), scenes(256, seed=2), scenes(128, seed=3)
    torch.manual_seed(0)
    teacher = train(Segmentor(32), many, teacher_steps)
    student = Segmentor(8)
    alone = train(copy.deepcopy(student), few, student_steps)
    distilled = train(copy.deepcopy(student), few, student_steps, teacher)
    result = mean_iou(teacher, test), mean_iou(alone, test), mean_iou(distilled, test)
    print(
        f'mIoU on new images: teacher {result[0]:.1f}, student alone {result[1]:.1f}, student with '
        f'Structured KD {result[2]:.1f}'
    )
    return result


if __name__ == '__main__':
    _, alone, distilled = main()
    assert distilled > alone, 'no gain'
