"""Seeds: every random draw is a function of the run's seed and of what it is for."""

import hashlib
import random
from collections.abc import Mapping

import numpy as np
import torch

# One stream of random numbers for each use, so that no two uses of a seed ever meet.
ORDER, SAMPLE, TRAIN_STEP, VALIDATION = range(4)

# The version of the code that draws order and augmentations: raised where the same seed gives other
# numbers, so that what was stored of a teacher is not taken for that of other images.
DRAWS = 1


def derive_seed(seed: int, *key: int) -> int:
    """Mix a seed and a key of non-negative integers into a 63-bit seed.

    Neighbouring keys give unrelated seeds.

    >>> derive_seed(0, 1, 2) == derive_seed(0, 1, 2), derive_seed(0, 1, 2) == derive_seed(0, 2, 1)
    (True, False)
    """
    return int(
        np.random.SeedSequence(entropy=seed, spawn_key=key).generate_state(1, np.uint64)[0]
        >> np.uint64(1)
    )


def seed_everything(seed: int, *key: int, devices: bool = True) -> None:
    """Seed torch, numpy and random from (seed, key); ``devices=False`` leaves GPUs alone."""
    value = derive_seed(seed, *key)
    if devices:
        torch.manual_seed(value)
    else:  # a tenth of the time: manual_seed notes a traceback for every unused kind of device
        torch.default_generator.manual_seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    random.seed(value)


def name_seed(seed: int, name: str) -> int:
    """Mix a seed and a name into a 56-bit seed.

    >>> seed = name_seed(0, 'a.png')
    >>> seed == name_seed(0, 'a.png'), seed == name_seed(1, 'a.png')
    (True, False)
    """
    return int.from_bytes(hashlib.blake2b(f'{seed}/{name}'.encode(), digest_size=7).digest(), 'big')


def image_name(info: Mapping, user: str, mend: str = '') -> str:
    """Return by which name an image is known wherever the data lie.

    That is the last three parts of its path, or its index.

    Args:
        info: What its pipeline or its data sample knows of it: ``img_path``, else ``sample_idx``.
        user: What needs the name, for the message.
        mend: A further way out, for the message.

    Raises:
        ValueError: It has no name.

    >>> image_name(dict(img_path='/data/cifar10/train/cat/0001.jpg'), 'LabelFlip')
    'train/cat/0001.jpg'
    """
    path = info.get('img_path')
    if path:
        return '/'.join(str(path).replace('\\', '/').split('/')[-3:])
    if info.get('sample_idx') is None:
        raise ValueError(
            f"{user} gives an image the same noise always, but this one has neither 'img_path' nor "
            f"'sample_idx' in its metainfo ({sorted(info)}). Mend: meta_keys=('img_path', …) where "
            f'the pipeline packs its inputs{mend}'
        )
    return str(info['sample_idx'])
