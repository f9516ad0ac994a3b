"""What the demo draws: scenes with their predictions, and curves of the trainings."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmseg.apis import init_model

from mmkd.apis.demo.story import ROWS, Rows, Story, last_checkpoint
from mmkd.registry import DATASETS

mpl.use('Agg')  # before pyplot: there may be no display
# isort: split
from matplotlib import pyplot as plt

COLOURS = ('tab:gray', 'tab:orange', 'tab:blue')
CURVES = dict(val='mIoU on the validation scenes', loss='cross-entropy on the training scenes')


def draw_scenes(story: Story, path: Path, scenes: int = 6) -> None:
    """Draw image, ground truth and the three predictions side by side for the first test scenes."""
    configs = {row: story.config(row, 0 if row == 'teacher' else story.seeds[0]) for row in ROWS}
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(configs['teacher'].test_dataloader.dataset)
        predicted = [_predict(row, cfg, dataset, scenes) for row, cfg in configs.items()]
    images, labels = zip(*(dataset.scene(i)[:2] for i in range(scenes)), strict=True)
    palette = np.array(dataset.metainfo['palette'], np.uint8)
    columns = {
        'image': [image[..., ::-1] for image in images],
        'ground truth': [palette[each] for each in labels],
    }
    for title, maps in zip(ROWS.values(), predicted, strict=True):
        columns[title] = [palette[each] for each in maps]
    figure, axes = plt.subplots(
        scenes, len(columns), figsize=(8, 1.65 * scenes), layout='constrained'
    )
    for column, (title, pictures) in zip(axes.T, columns.items(), strict=True):
        column[0].set_title(title)
        for cell, picture in zip(column, pictures, strict=True):
            cell.imshow(picture, interpolation='nearest')
            cell.set_axis_off()
    figure.savefig(path, dpi=100)
    plt.close(figure)


@torch.no_grad()
def _predict(row: str, cfg: Config, dataset: Any, scenes: int) -> list[np.ndarray]:
    """Return the label maps of a row's model for the first scenes."""
    checkpoint = last_checkpoint(cfg)
    if row == 'distill':  # a plain mmseg model with a config of its own, beside the checkpoints
        folder = checkpoint.parent / 'student'
        cfg, checkpoint = Config.fromfile(folder / 'config.py'), folder / checkpoint.name
    model = init_model(cfg, str(checkpoint), device='cpu')
    data = pseudo_collate([dataset[i] for i in range(scenes)])
    return [sample.pred_sem_seg.data[0].numpy() for sample in model.test_step(data)]


def draw_curves(rows: Rows, path: Path) -> None:
    """Draw validation mIoU and task loss over the iterations, a line for each run."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
    for axis, (key, title) in zip(axes, CURVES.items(), strict=True):
        for (row, runs), colour in zip(rows.items(), COLOURS, strict=True):
            for number, run in enumerate(runs):
                axis.plot(
                    *zip(*run[key], strict=True),
                    color=colour,
                    label=ROWS[row] if number == 0 else None,
                    linestyle='--' if row == 'teacher' else '-',
                    marker='.' if key == 'val' else None,
                )
        axis.set(title=title, xlabel='iteration')
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)
