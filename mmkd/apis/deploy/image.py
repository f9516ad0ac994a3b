"""The image that a deployed file is checked on: a given one, one of the test set, or noise."""

from pathlib import Path

import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmkd.registry import DATASETS
from mmkd.tasks.base import task_of
from mmkd.utils.checks import nearest_file, printable
from mmkd.utils.explain import explain


def find_image(cfg: Config, model: nn.Module, path: str | None = None) -> tuple[dict, str]:
    """Return one image as a data set gives it, and where it comes from, in words.

    Args:
        cfg: The student's plain config.
        model: The student.
        path: An image file; None takes the first one of the test set, and where there is none or
            its data are not here, a generated one.

    Raises:
        FileNotFoundError: There is no such file.
    """
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmseg')):
        if path is not None:
            return _read(cfg, path), printable(path)
        if cfg.get('test_dataloader') is None:
            return _generated(model), 'a generated image (the config has no test set)'
        try:
            data = DATASETS.build(cfg.test_dataloader.dataset)[0]
        except Exception as error:  # of any data set: the file is checked even so
            why = printable(explain(error).partition('. Mend')[0], 160)
            return _generated(model), f'a generated image (no test set: {why})'
    name = data['data_samples'].metainfo.get('img_path')
    return data, f'the first image of the test set{f", {printable(name)}" if name else ""}'


def _read(cfg: Config, path: str) -> dict:
    """Return an image file as the test pipeline makes it, without annotations."""
    import cv2

    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f'--image {path} is no file{nearest_file(file)}')
    steps = [
        step
        for step in cfg.get('test_pipeline') or []
        if 'Load' not in str(step.get('type'))  # images and annotations
    ]
    pixels = cv2.imread(str(file))
    if pixels is None:
        raise ValueError(f'--image {path} cannot be read as an image. Mend: a PNG or JPEG file')
    shape = pixels.shape[:2]
    known = dict(img=pixels, img_path=str(file), img_shape=shape, ori_shape=shape, seg_fields=[])
    packed = Compose(steps)(known) if steps else None
    if packed is None:
        raise ValueError(
            '--image goes through the test_pipeline, which this config does not have. Mend: a run '
            'with a test set, or no --image'
        )
    return packed


def _generated(model: nn.Module) -> dict:
    """Return noise of a size that the model takes."""
    task = task_of(model)
    size = task.size_for(getattr(model, 'data_preprocessor', None))
    generator = torch.Generator().manual_seed(0)
    image = next(iter(task.inputs(1, size, generator)))
    return dict(inputs=image, data_samples=task.sample(size, generator))
