"""Small labelled images on disk that the tests of classification share."""

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np

CLASSES = ('red', 'green', 'blue')


def image(label: int, number: int, size: int = 16) -> np.ndarray:
    """Return a BGR image whose brightest channel says its class and whose first pixel its
    number.
    """
    pixels = (
        np.random.default_rng((label, number)).integers(0, 90, (size, size, 3)).astype(np.uint8)
    )
    pixels[..., 2 - label] += 120
    pixels[0, 0] = number
    return pixels


def write_classes(root: Path, train: int = 6, test: int = 4, zipped: bool = True) -> Path:
    """Write ``train`` and ``test`` images of each class below ``root``, as CIFAR10 expects them;
    return ``root``.
    """
    root.mkdir(parents=True, exist_ok=True)
    for part, number in (('train', train), ('test', test)):
        first = 100 * (part == 'test')
        files = {
            f'{part}/{name}/{i:04d}.png': cv2.imencode('.png', image(label, first + i))[1].tobytes()
            for label, name in enumerate(CLASSES)
            for i in range(number)
        }
        if zipped:
            with zipfile.ZipFile(root / f'{part}.zip', 'w') as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
        else:
            for name, content in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
    return root


def write_boxes(folder: Path) -> None:
    """Two images a split in the layout of BCCD, a box of each class in the first and none in the
    second.
    """
    names = ('RBC', 'WBC', 'Platelets')
    for split in ('train', 'val', 'test'):
        images = [dict(id=i, file_name=f'{split}{i}.jpg', width=256, height=192) for i in range(2)]
        for image in images:
            write(folder / 'JPEGImages' / image['file_name'], np.full((192, 256, 3), 90, np.uint8))
        boxes = [
            dict(
                id=c,
                image_id=0,
                category_id=c + 1,
                bbox=[60.0 * c + 8, 20.0, 50.0, 60.0],
                area=3000.0,
                iscrowd=0,
            )
            for c in range(3)
        ]
        path = folder / f'annotations_coco/{split}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps(
                dict(
                    images=images,
                    annotations=boxes,
                    categories=[dict(id=c + 1, name=name) for c, name in enumerate(names)],
                )
            )
        )


def write(path: Path, pixels: np.ndarray) -> None:
    """Write an image and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)
