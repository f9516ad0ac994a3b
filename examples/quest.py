"""QUEST on handwritten digits, without any config.

The settings are chosen to run quickly, not to follow the paper.

A teacher saw many labelled digits, a student has few. It is trained twice from the same weights for
as many steps on the same images: alone, and while it also predicts, at every position of its
feature map, which words of a vocabulary the teacher's features are near to. Runs on a CPU in
seconds: python examples/quest.py
"""

import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mmkd.losses import AssignmentKLLoss


def digits() -> tuple[Tensor, Tensor]:
    """Return 1,797 images (N, 1, 8, 8) of digits, shuffled, and their labels."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    return images[order], torch.from_numpy(data.target)[order]


class Classifier(nn.Module):
    """Three convolutions and a linear layer; gives logits and the last feature map (N, C, 4, 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, stride in ((1, 1), (width, 2), (width, 1)):
            layers += [nn.Conv2d(fan_in, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()]
        self.body, self.classify = nn.Sequential(*layers), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and feature map."""
        feature = self.body(images)
        return self.classify(feature.mean((2, 3))), feature


def train(
    model: Classifier,
    data: tuple[Tensor, Tensor],
    steps: int,
    quest: AssignmentKLLoss | None = None,
    teacher: Classifier | None = None,
) -> Classifier:
    """Train with the labels, and with the words of a teacher where there is one."""
    torch.manual_seed(0)
    images, labels = data
    parameters = [*model.parameters(), *(quest.parameters() if quest else [])]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    model.train()
    for _ in range(steps):
        pick = torch.randint(len(images), (32,))
        x, y = images[pick], labels[pick]
        logits, feature = model(x)
        loss = F.cross_entropy(logits, y)
        if quest is not None and teacher is not None:
            with torch.no_grad():
                _, teacher_feature = teacher(x)
            loss = loss + quest(feature, teacher_feature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: Classifier, data: tuple[Tensor, Tensor]) -> float:
    """Return the accuracy in percent."""
    images, labels = data
    return 100 * float((model(images)[0].argmax(1) == labels).float().mean())


def main(student_steps: int = 200, teacher_steps: int = 200) -> tuple[float, float, float]:
    """Return the accuracy of the teacher, the student alone and the student with QUEST."""
    images, labels = digits()
    few, many, test = (
        (images[part], labels[part]) for part in (slice(0, 60), slice(0, 1000), slice(1000, None))
    )
    torch.manual_seed(0)
    teacher = train(Classifier(64), many, teacher_steps)
    torch.manual_seed(0)
    student = Classifier(16)

    quest = AssignmentKLLoss(
        student_channels=16, teacher_channels=64, num_words=32, tau='auto', gamma=10.0
    )
    with torch.no_grad():  # one vector a position, of the training images as they are tested
        quest.vocabulary.fit(teacher(few[0])[1].movedim(1, -1).reshape(-1, 64), seed=0)
    alone = train(copy.deepcopy(student), few, student_steps)
    taught = train(copy.deepcopy(student), few, student_steps, quest, teacher)
    result = accuracy(teacher, test), accuracy(alone, test), accuracy(taught, test)
    print(
        f'accuracy on new digits: teacher {result[0]:.1f}, student alone {result[1]:.1f}, student '
        f'with QUEST {result[2]:.1f}'
    )
    return result


if __name__ == '__main__':
    _, alone, taught = main()
    assert taught > alone, 'no gain'
