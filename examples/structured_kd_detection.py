"""Structured KD for detection on toy data without any config: every level's scores and features.

Coloured discs of two sizes under heavy noise are found by a network with two levels, each with a
sigmoid a class for 'the middle of a disc of my size is here'. A teacher saw many images, a student
has few; it is trained twice from the same weights for as many steps: alone, and with the binary
divergence of the scores and the pair-wise term of the features, averaged over the levels, on images
without boxes. Detectors of mmdet do the same through their configs, see
docs/user_guides/detection.md. Runs on a CPU in seconds: python examples/structured_kd_detection.py
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkd.losses import BinaryKLLoss, PairWiseAffinityLoss

CLASSES, SIZE, STRIDES, RADII = 3, 32, (4, 8), (3, 7)
Levels = list[Tensor]


def scenes(count: int, seed: int) -> tuple[Tensor, Levels]:
    """Draw noisy images (count, 3, SIZE, SIZE), and where discs' middles are in each level."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing='ij')
    images = torch.zeros(count, 3, SIZE, SIZE)
    middles = [torch.zeros(count, CLASSES, SIZE // stride, SIZE // stride) for stride in STRIDES]
    for level in (1, 1, 0, 0, 0):  # large discs first, which small ones may cover
        highs = CLASSES, SIZE, SIZE
        kind, cy, cx = (torch.randint(0, high, (count,), generator=g) for high in highs)
        inside = (y - cy[:, None, None]) ** 2 + (x - cx[:, None, None]) ** 2 <= RADII[level] ** 2
        colour = F.one_hot(kind, CLASSES).float()[:, :, None, None]
        images = torch.where(inside[:, None], colour, images)
        middles[level][torch.arange(count), kind, cy // STRIDES[level], cx // STRIDES[level]] = 1
    return images + 1.2 * torch.randn(images.shape, generator=g), middles


class Detector(nn.Module):
    """Two levels of features, and one head for both; gives scores and features of every level."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def block(fan_in: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(fan_in, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()
            )

        self.stem = nn.Sequential(block(3, 2), block(width, 2))
        self.fine, self.coarse = block(width, 1), block(width, 2)
        self.score = nn.Conv2d(width, CLASSES, 1)
        nn.init.constant_(self.score.bias, -3.0)  # most places hold no middle

    def forward(self, images: Tensor) -> tuple[Levels, Levels]:
        """Return scores and features."""
        fine = self.fine(self.stem(images))
        features = [fine, self.coarse(fine)]
        return [self.score(feature) for feature in features], features


def train(
    model: Detector,
    data: tuple[Tensor, Levels],
    steps: int,
    teacher: Detector | None = None,
    unlabelled: Tensor | None = None,
) -> Detector:
    """Train with the boxes, and with what a teacher says of images without."""
    torch.manual_seed(0)
    images, middles = data
    score = BinaryKLLoss(loss_weight=3.0 / len(STRIDES))
    pair = PairWiseAffinityLoss(loss_weight=1.0 / len(STRIDES))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    model.train()
    for _ in range(steps):
        pick = torch.randint(len(images), (16,))
        scores, _ = model(images[pick])
        own = [
            F.binary_cross_entropy_with_logits(level, truth[pick], reduction='sum')
            for level, truth in zip(scores, middles, strict=True)
        ]
        loss = sum(own) / 100
        if teacher is not None and unlabelled is not None:
            x = unlabelled[torch.randint(len(unlabelled), (16,))]
            (scores, features), (teacher_scores, teacher_features) = model(x), teacher(x)
            for k in range(len(STRIDES)):
                loss = loss + score(scores[k], teacher_scores[k])
                loss = loss + pair(features[k], teacher_features[k])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def average_precision(model: Detector, data: tuple[Tensor, Levels]) -> float:
    """Return the area under precision over recall of all places, classes and levels, in percent."""
    images, middles = data
    scores, truth = (
        torch.cat([x.flatten() for x in levels]) for levels in (model(images)[0], middles)
    )
    hits = truth[scores.argsort(descending=True)]
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return 100 * float((precision * hits).sum() / hits.sum())


def main(student_steps: int = 150, teacher_steps: int = 300) -> tuple[float, float, float]:
    """Return average precision of the teacher, the student alone and the distilled student."""
    few, many, test = scenes(64, seed=1), scenes(512, seed=2), scenes(256, seed=3)
    more, _ = scenes(512, seed=4)
    torch.manual_seed(0)
    teacher = train(Detector(48), many, teacher_steps)
    student = Detector(12)
    alone = train(copy.deepcopy(student), few, student_steps)
    distilled = train(copy.deepcopy(student), few, student_steps, teacher, more)
    result = (
        average_precision(teacher, test),
        average_precision(alone, test),
        average_precision(distilled, test),
    )
    print(
        f'average precision: teacher {result[0]:.1f}, student alone {result[1]:.1f}, student with '
        f'Structured KD {result[2]:.1f}'
    )
    return result


if __name__ == '__main__':
    _, alone, distilled = main()
    assert distilled > alone, 'no gain'
