"""CIFAR-10 in ImageFolder layout, zipped or unpacked, kept in memory."""

import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dataset import BaseDataset

from mmkd.datasets.arguments import check_arguments
from mmkd.registry import DATASETS
from mmkd.utils.checks import check_choice, check_count

SPLITS = ('train', 'val', 'trainval', 'test')
OWN = ('data_root', 'split', 'images_per_class', 'val_per_class')


@DATASETS.register_module()
class CIFAR10(BaseDataset):
    """CIFAR-10 as image files: ``<part>/<class>/<name>.jpg`` for the parts ``train`` and ``test``.

    Each part is ``<data_root>/<part>.zip`` or the folder ``<data_root>/<part>``. It is decoded once
    a process, to uint8 BGR in memory (3 kB an image). The first images of a class (by name) are its
    training images, the last ``val_per_class`` are held out for validation. With
    ``metainfo=dict(classes=…)`` it reads any small data set of this layout whose images have one
    size.

    Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009.

    Args:
        data_root: Folder of the parts.
        split: 'train', 'val' (both of the part ``train``), 'trainval' (the whole of it) or 'test'.
        images_per_class: Take the first so many of each class of the split; None takes all.
        val_per_class: How many of each class are held out for validation.
        **kwargs: As in mmengine's BaseDataset: ``pipeline``, ``metainfo``, ``indices``,
            ``test_mode``, ``lazy_init``, ``serialize_data``, ``max_refetch``.

    Raises:
        FileNotFoundError: A part or a class is missing; says what to put where.
        ValueError: An unknown split; more images asked for than there are; images of several sizes
            or that do not decode.
        TypeError: An unknown argument, with the nearest match.

    >>> CIFAR10.METAINFO['classes'][3]
    'cat'
    """

    METAINFO = dict(
        classes=(
            'airplane',
            'automobile',
            'bird',
            'cat',
            'deer',
            'dog',
            'frog',
            'horse',
            'ship',
            'truck',
        )
    )

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        images_per_class: int | None = None,
        val_per_class: int = 250,
        **kwargs: Any,
    ) -> None:
        check_arguments(kwargs, OWN, 'CIFAR10')
        check_choice('split', split, SPLITS)
        check_count('images_per_class', 1 if images_per_class is None else images_per_class, 1)
        check_count('val_per_class', val_per_class, 1)
        self.split = split
        self.images_per_class, self.val_per_class = images_per_class, val_per_class
        super().__init__(data_root=str(data_root), **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return an entry an image, class by class."""
        part = 'test' if self.split == 'test' else 'train'
        paths, self.images = load_part(str(self.data_root), part, tuple(self.metainfo['classes']))
        entries, start = [], 0
        for label, (name, own) in enumerate(paths):
            first, last = 0, len(own)
            if self.split in ('train', 'val'):
                if last <= self.val_per_class:
                    raise ValueError(
                        f'val_per_class={self.val_per_class} leaves no training image of class '
                        f'{name!r}, which has {last}. Mend: a smaller val_per_class'
                    )
                border = last - self.val_per_class
                first, last = (0, border) if self.split == 'train' else (border, last)
            wanted = self.images_per_class or last - first
            if wanted > last - first:
                raise ValueError(
                    f'images_per_class={wanted}, but class {name!r} has {last - first} images in '
                    f'split {self.split!r}. Mend: images_per_class={last - first} at most'
                )
            entries += [
                dict(img_path=own[i], gt_label=label, image=start + i, ood=False)
                for i in range(first, first + wanted)
            ]
            start += len(own)
        return entries

    def get_data_info(self, idx: int) -> dict:
        """Return the entry with a copy of its image: transforms may write into it."""
        info = super().get_data_info(idx)
        image = self.images[info['image']].copy()
        return dict(info, img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])


@lru_cache(maxsize=4)  # the loaders of one run share the decoded images
def load_part(
    data_root: str, part: str, classes: tuple[str, ...]
) -> tuple[list[tuple[str, list[str]]], np.ndarray]:
    """Decode one part.

    Returns:
        (class, paths of its images by name) in the order of ``classes``, and all images (n, H, W,
        3) in that order.
    """
    found: dict[str, list[tuple[str, np.ndarray]]] = {name: [] for name in classes}
    for path, content in _files(Path(data_root), part, classes):
        values = np.frombuffer(content, np.uint8)
        image = cv2.imdecode(values, cv2.IMREAD_COLOR) if content else None  # of no bytes it raises
        if image is None:
            raise ValueError(f'{path} is no image that OpenCV decodes. Mend: copy {part} again')
        found[Path(path).parent.name].append((path, image))
    for name, images in found.items():
        if not images:
            raise FileNotFoundError(
                f'no image of class {name!r} in {Path(data_root) / part} (zip or folder): expected '
                f'{part}/{name}/NAME.jpg (classes: {", ".join(classes)})'
            )
    shapes = {image.shape for images in found.values() for _, image in images}
    if len(shapes) > 1:
        raise ValueError(
            f'the images of {Path(data_root) / part} must have one size, got {sorted(shapes)[:3]}'
        )
    paths: list[tuple[str, list[str]]] = []
    stacked: list[np.ndarray] = []
    for name, images in found.items():
        paths.append((name, [path for path, _ in images]))
        stacked += [image for _, image in images]
    return paths, np.stack(stacked)


def _archived(path: Path, part: str, classes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the files of an archive whose folder is a class, by path.

    An archive of the whole set holds other parts as well, which are left out.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                above = Path(name).parts[-3:-2]  # of a class at the top there is nothing
                if above in ((), (part,)) and _is_image(Path(name), classes):
                    yield f'{path}/{name}', archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f'{path} is broken or no zip file ({error}). Mend: copy it again'
        ) from error


def _is_image(path: Path, classes: tuple[str, ...]) -> bool:
    """Return whether a file is of a class; a system's own, such as ``._0.jpg``, is not."""
    return bool(path.suffix) and path.parent.name in classes and not path.name.startswith('.')


def _files(root: Path, part: str, classes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the files of one part whose folder is a class, by path."""
    if (root / f'{part}.zip').is_file():
        yield from _archived(root / f'{part}.zip', part, classes)
    elif (root / part).is_dir():
        for path in sorted((root / part).glob('*/*.*')):
            if _is_image(path, classes):
                yield str(path), path.read_bytes()
    else:
        raise FileNotFoundError(
            f'there is neither {root / part}.zip nor a folder {root / part}. Mend: put {part}.zip '
            f'there (inside: {part}/<class>/NAME.jpg for the classes {", ".join(classes)}), or '
            'unpack it, or set data_root'
        )
