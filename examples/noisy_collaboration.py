"""Noisy Collaboration on handwritten digits, without any config.

It is sized to run quickly, not to follow the paper.

One student, trained five times from the same weights on the same few images: alone, alone on noisy
images, by a teacher, by the same teacher while the student's images are noisy (Soft Randomization),
and while the teacher's dropout stays on (Fickle Teacher). Each is then tested on clean images and
on images that PGD moved against it. Runs on a CPU in seconds: python
examples/noisy_collaboration.py
"""

import copy
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mmkd.evaluation.functional.pgd import pgd
from mmkd.losses import PixelWiseKLLoss
from mmkd.noise import GaussianInput, TeacherDropout

ALPHA, TAU, SIGMA = 0.9, 4.0, 0.2
Data = tuple[Tensor, Tensor]


def digits() -> Data:
    """Return 1,797 images (N, 1, 8, 8) of digits in [0, 1], shuffled, and their labels."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    return images[order], torch.from_numpy(data.target)[order]


def classifier(width: int, dropout: float = 0.0) -> nn.Sequential:
    """Return three convolutions and a linear layer."""
    layers: list[nn.Module] = []
    for fan_in, stride in ((1, 1), (width, 2), (width, 1)):
        layers += [nn.Conv2d(fan_in, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(width, 10)
    )


def train(
    model: nn.Module,
    data: Data,
    steps: int,
    teacher: nn.Module | None = None,
    sigma: float = 0.0,
    fickle: bool = False,
) -> nn.Module:
    """Train on x + delta by (1 − alpha)·CE + alpha·tau²·KL, or by the labels alone."""
    torch.manual_seed(0)
    images, labels = data
    noise, distil = GaussianInput(sigma), PixelWiseKLLoss(tau=TAU)  # the loss holds the factor tau²
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    model.train()
    for _ in range(steps):
        pick = torch.randint(len(images), (32,))
        x, y = images[pick], labels[pick]
        logits = model(noise(x) if sigma else x)
        loss = F.cross_entropy(logits, y)
        if teacher is not None:
            with torch.no_grad(), TeacherDropout()(teacher) if fickle else nullcontext():
                target = teacher(x)  # a teacher sees clean images
            loss = (1 - ALPHA) * loss + ALPHA * distil(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def accuracy(model: nn.Module, data: Data) -> float:
    """Return the accuracy in percent."""
    images, labels = data
    with torch.no_grad():
        return 100 * float((model(images).argmax(1) == labels).float().mean())


def robust_accuracy(model: nn.Module, data: Data) -> float:
    """Return the accuracy in percent on images that PGD moved by up to 0.1."""
    images, labels = data

    def own(x: Tensor) -> Tensor:
        return F.cross_entropy(model(x), labels)

    g = torch.Generator().manual_seed(0)
    moved = pgd(own, images, epsilon=0.1, step=0.01, steps=20, generator=g)
    return accuracy(model, (moved, labels))


def main(steps: int = 300, teacher_steps: int = 300) -> dict[str, tuple[float, float]]:
    """Return the accuracy on clean and on attacked images by row."""
    images, labels = digits()
    few, many, test = (
        (images[part], labels[part]) for part in (slice(0, 200), slice(0, 1000), slice(1000, None))
    )
    torch.manual_seed(0)
    teacher = train(classifier(64, dropout=0.3), many, teacher_steps)
    torch.manual_seed(0)
    student = classifier(16)
    rows = dict(
        alone=dict(),
        noise_alone=dict(sigma=SIGMA),
        kd=dict(teacher=teacher),
        soft=dict(teacher=teacher, sigma=SIGMA),
        fickle=dict(teacher=teacher, fickle=True),
    )
    found = {'teacher': (accuracy(teacher, test), robust_accuracy(teacher, test))}
    for name, options in rows.items():
        model = train(copy.deepcopy(student), few, steps, **options)  # type: ignore[arg-type]
        found[name] = accuracy(model, test), robust_accuracy(model, test)
    for name, (clean, attacked) in found.items():
        print(f'{name:12} clean {clean:5.1f}   attacked {attacked:5.1f}')
    return found


if __name__ == '__main__':
    results = main()
    assert results['soft'][1] > results['kd'][1], 'noise made nothing more robust'
