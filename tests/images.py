"""Small labelled images on disk that the tests of classification share."""
import zipfile
from pathlib import Path

import cv2
import numpy as np

CLASSES = ('red', 'green', 'blue')


def image(label: int, number: int, size: int = 16) -> np.ndarray:
    """Return a BGR image whose brightest channel says its class and whose first pixel its number."""
    pixels = np.random.default_rng((label, number)).integers(0, 90, (size, size, 3)).astype(np.uint8)
    pixels[..., 2 - label] += 120
    pixels[0, 0] = number
    return pixels


def write_classes(root: Path, train: int = 6, test: int = 4, zipped: bool = True) -> Path:
    """Write ``train`` and ``test`` images of each class below ``root``, as CIFAR10 expects them; return ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    for part, number in (('train', train), ('test', test)):
        first = 100 * (part == 'test')
        files = {f'{part}/{name}/{i:04d}.png': cv2.imencode('.png', image(label, first + i))[1].tobytes()
                 for label, name in enumerate(CLASSES) for i in range(number)}
        if zipped:
            with zipfile.ZipFile(root / f'{part}.zip', 'w') as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
        else:
            for name, content in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
    return root
