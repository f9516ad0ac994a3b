"""KD from internal representations on handwritten digits without any config: sized to run quickly.

A vision transformer of four layers, which saw many labelled digits, teaches one of two layers,
which has few. The student begins as layers 2 and 4 of the teacher; its attention and its [CLS]
states learn from the same layers, stacked: the lower pair first, then both, then the labels, soft
and hard. It is compared with the same student, from the same weights, for as many steps, by the
labels alone, and by soft and hard labels. Runs on a CPU in seconds: python
examples/internal_representations.py
"""

import copy

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mmkd.engine.schedules import Stacked
from mmkd.losses import AttentionKLLoss, HiddenCosineLoss, PixelWiseKLLoss

Data = tuple[Tensor, Tensor]
LEVELS = Stacked(levels=[['lower'], ['upper'], ['labels']])


def digits() -> Data:
    """Return 1,797 digits as 16 patches of 2×2 pixels, (N, 16, 4), shuffled, and their labels."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(data.images).float() / 16
    patches = images.unfold(1, 2, 2).unfold(2, 2, 2).flatten(1, 2).flatten(2)
    return patches[order], torch.from_numpy(data.target)[order]


class Layer(nn.Module):
    """Attention and two linear layers; gives the attention by head as well."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return states (N, L, D) and attention (N, h, L, L)."""
        y, attention = self.attention(*[self.norm1(x)] * 3, average_attn_weights=False)
        x = x + y
        return x + self.mlp(self.norm2(x)), attention


class Transformer(nn.Module):
    """Patches and a [CLS] token through the layers, then a classifier of [CLS]."""

    def __init__(self, depth: int, width: int = 32) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(4, width), nn.Parameter(0.1 * torch.randn(17, width))
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))
        self.classify = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return logits, [CLS] after every layer, and every layer's attention."""
        x, states, attentions = F.pad(self.embed(x), (0, 0, 1, 0)) + self.places, [], []
        for layer in self.layers:
            x, attention = layer(x)
            states, attentions = [*states, x[:, 0]], [*attentions, attention]
        return self.classify(x[:, 0]), states, attentions


def train(
    model: Transformer,
    data: Data,
    steps: int,
    teacher: Transformer | None = None,
    levels: bool = False,
) -> Transformer:
    """Train by the labels; by a teacher's soft ones too; with levels by what is inside it first."""
    torch.manual_seed(0)
    images, labels = data
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    soft, rows, cosine = PixelWiseKLLoss(tau=2.0), AttentionKLLoss(), HiddenCosineLoss()
    for step in range(steps):
        pick = torch.randint(len(images), (32,))
        logits, states, attentions = model(images[pick])
        level = min(8 * step // steps, 2)  # an eighth, an eighth, the rest
        active = LEVELS.active(level) if levels else {'labels'}
        loss = F.cross_entropy(logits, labels[pick]) if 'labels' in active else logits.new_zeros(())
        if teacher is not None:
            with torch.no_grad():
                target, target_states, target_attentions = teacher(images[pick])
            if 'labels' in active:
                loss = loss + soft(logits, target)
            for m, name in enumerate(('lower', 'upper')):
                if name in active:
                    loss = loss + rows(attentions[m], target_attentions[2 * m + 1])
                    loss = loss + cosine(states[m], target_states[2 * m + 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def accuracy(model: Transformer, data: Data) -> float:
    """Return the accuracy in percent."""
    return 100 * float((model(data[0])[0].argmax(1) == data[1]).float().mean())


def main(steps: int = 400, teacher_steps: int = 600) -> dict[str, float]:
    """Return the accuracy of the teacher and of its students."""
    images, labels = digits()
    few, many, test = (
        (images[part], labels[part]) for part in (slice(0, 60), slice(0, 1000), slice(1000, None))
    )
    torch.manual_seed(0)
    teacher = train(Transformer(4), many, teacher_steps)
    student = Transformer(2)
    student.load_state_dict(teacher.state_dict(), strict=False)
    for m, layer in enumerate(student.layers):
        layer.load_state_dict(teacher.layers[2 * m + 1].state_dict())
    ways = dict(alone={}, soft=dict(teacher=teacher), stacked=dict(teacher=teacher, levels=True))
    found = dict(teacher=accuracy(teacher, test))
    for name, way in ways.items():
        found[name] = accuracy(train(copy.deepcopy(student), few, steps, **way), test)
    texts = (f'{name} {value:.1f}' for name, value in found.items())
    print('accuracy on new digits:', ', '.join(texts))
    return found


if __name__ == '__main__':
    result = main()
    assert result['stacked'] > result['alone'], 'no gain'
