"""Data sets name the file that is broken or does not fit, or say that they are empty.

mmengine's own classes are mended, so that every data set does so once mmkd is imported, whoever
wrote it.
"""

import os
import re
from typing import Any

import cv2
import numpy as np
from mmengine.dataset import BaseDataset, Compose

from mmkd.utils.explain import explain, is_mistake

PATHS = ('img_path', 'img_path2', 'seg_map_path', 'seg_map_path2', 'depth_map_path')
LOOKED = [
    'data_root',
    'data_prefix',
    'ann_file',
    'img_suffix',
    'seg_map_suffix',
    'filter_cfg',
    '_indices',
]
MAPS = {'gt_seg_map': 'seg_map_path', 'gt_depth_map': 'depth_map_path'}
_PNG = b'\x89PNG\r\n\x1a\n'
_REPLACE = 'Mend: replace the file, or take it out of the data set'


class SampleError(ValueError):
    """A sample that cannot be used, with its files.

    One text makes it, so that it comes out of a worker as it is.
    """


def call_checked(compose: Compose, data: dict) -> dict | None:
    """Do what mmengine's ``Compose`` does, name files where a step fails, and look at loaded maps.

    Args:
        compose: The pipeline.
        data: What the data set knows of a sample.

    Returns:
        The transformed sample, None where a step leaves it out.

    Raises:
        SampleError: A file cannot be read, a step fails, or a map does not fit its image. What is
            no mistake but a bug of a step (an IndexError, say) keeps its kind.
    """
    files = (
        {key: str(data[key]) for key in PATHS if data.get(key)} if isinstance(data, dict) else {}
    )
    for step in compose.transforms:
        known = set(data)
        try:
            data = step(data)
            if data is None:
                return None
            for key in MAPS.keys() & set(data) - known:
                check_map(data, key, files)
        except SampleError:
            raise
        except Exception as error:
            raise _named(error, getattr(step, '__name__', type(step).__name__), files) from error
    return data


def check_map(data: dict, key: str, files: dict[str, str]) -> None:
    """Refuse a label or depth map that does not fit its image, and ids that were cut to 8 bits.

    Args:
        data: A sample whose map ``key`` was read from a file a moment ago.
        key: 'gt_seg_map' or 'gt_depth_map'.
        files: The sample's files.

    Raises:
        SampleError: Names the file.
    """
    shape, file = np.shape(data[key]), files.get(MAPS[key], key)
    wanted = tuple(data.get('ori_shape') or ())
    # Volumes have three numbers, and so may images with channels.
    wanted = wanted[:2] if len(shape) == 2 else wanted
    image = f'its image {files["img_path"]}' if 'img_path' in files else 'its image'
    if len(shape) != (len(wanted) or 2):
        raise SampleError(
            f'{file} has the shape {shape}, but a map holds one value for each '
            f'pixel{f" of {image} {wanted}" if wanted else ""}. Mend: one channel, of class ids '
            'and not of colours; or take the file out of the data set'
        )
    if wanted and shape != wanted:
        raise SampleError(
            f'{file} has the size {shape} (height, width), but {image} {wanted}. {_REPLACE}'
        )
    if key == 'gt_seg_map' and np.asarray(data[key]).dtype == np.uint8:
        strange = strange_id(file)
        if strange is not None:
            made = '' if isinstance(strange, float) else f', which would make it {strange % 256}'
            raise SampleError(
                f'{file} holds the id {strange}, but labels are read as 8 bits{made}. Mend: write '
                'ids of 0 to 255, 255 where nothing counts'
            )


def strange_id(file: str) -> int | float | None:
    """Return an id of a label file that 8 bits cannot hold: a large, negative or broken one.

    Remote files are not looked at.
    """
    if not os.path.isfile(file):
        return None
    with open(file, 'rb') as content:
        head = content.read(25)
    if head.startswith(_PNG) and head[24:] <= b'\x08':
        return None  # nearly all: no second look at what is decoded already
    values = cv2.imread(file, cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype == np.uint8:
        return None
    bad = values[
        (values != np.floor(values)) | ~((values >= 0) & (values <= 255))
    ]  # NaN is unequal to itself
    if bad.size == 0:
        return None
    return float(bad[0]) if not np.isfinite(bad[0]) or bad[0] % 1 else int(bad.max())


def _named(error: Exception, step: str, files: dict[str, str]) -> Exception:
    """Return an error that says which step failed on which files."""
    if step.startswith('Load') and not isinstance(error, KeyError):
        return SampleError(unreadable(', '.join(_read_by(step, files)) or 'a sample', error, step))
    where = f' (from {", ".join(files.values())})' if files else ''
    text = f'{step}: {_reason(error)}{where}'
    if is_mistake(error):
        return SampleError(text)
    try:
        return type(error)(text)
    except TypeError:  # a kind that wants more than a text
        return RuntimeError(text)


def unreadable(file: str, error: Exception, reader: str) -> str:
    """Return the sentence about a file that ``reader`` could not read.

    >>> error = OSError('cannot identify image file <_io.BytesIO object at 0x7f0a>')
    >>> unreadable('ann/3.png', error, 'LoadAnnotations')
    'ann/3.png cannot be read by LoadAnnotations: cannot identify image file. Mend: replace the
    file, or take it out...'
    """
    empty = os.path.isfile(file) and os.path.getsize(file) == 0
    return (
        f'{file} cannot be read by {reader}: '
        f'{"it is empty (0 bytes)" if empty else _reason(error)}. {_REPLACE}'
    )


def _reason(error: Exception) -> str:
    """Return an error in one line, with its kind where the text alone says too little."""
    text = re.sub(r'\s*<[^<>]+ object at 0x\w+>', '', ' '.join(explain(error).split())).rstrip('.')
    return text if is_mistake(error) else f'{type(error).__name__}: {text}'


def _read_by(step: str, files: dict[str, str]) -> list[str]:
    """Return the files that a loading step reads, as its name says."""
    images = 'Annotation' not in step
    return [path for key, path in files.items() if key.startswith('img') == images] or list(
        files.values()
    )


def refuse_empty(dataset: BaseDataset) -> None:
    """Refuse a data set without samples, of which mmengine's own errors say too little.

    Raises:
        ValueError: Says where it looked.
    """
    if not dataset.data_list:
        raise ValueError(f'the data set {type(dataset).__name__} has no samples{_looked(dataset)}')


def _looked(dataset: BaseDataset) -> str:
    """Return where a data set looks for its samples, and the mend."""
    named = ((name, getattr(dataset, name, None)) for name in LOOKED)
    said = ', '.join(f'{k.lstrip("_")}={v!r}' for k, v in named if v not in (None, '', {}))
    return (
        f' ({said}). Mend: data_root, data_prefix, suffixes and ann_file must lead to files '
        f'(relative paths start at {os.getcwd()})'
    )


def refuse_folder(dataset: BaseDataset) -> None:
    """Refuse a folder as a segmentation set's ``ann_file``, where mmseg would take all images.

    Raises:
        ValueError: Names it.
    """
    file = getattr(dataset, 'ann_file', None)
    if (
        hasattr(dataset, 'seg_map_suffix')
        and isinstance(file, str)
        and file
        and os.path.isdir(file)
    ):
        raise ValueError(
            f'ann_file={file!r} of {type(dataset).__name__} is a folder, but a list of names is '
            'read from it. Mend: a text file; leave it out to take every image of data_prefix'
        )


def _unlisted(dataset: BaseDataset, error: Exception) -> Exception:
    """Return an error of a data set that cannot list its samples, with where it looked."""
    text = (
        f'the data set {type(dataset).__name__} cannot list its samples: '
        f'{_reason(error)}{_looked(dataset)}'
    )
    return type(error)(text) if isinstance(error, OSError) else ValueError(text)


def mend_data_sets() -> None:
    """Make mmengine's pipelines and data sets name what is broken."""
    serialize, full_init = BaseDataset._serialize_data, BaseDataset.full_init

    def serialize_some(dataset: BaseDataset) -> Any:
        refuse_empty(dataset)
        return serialize(dataset)

    def init_some(dataset: BaseDataset) -> None:
        refuse_folder(dataset)
        try:
            full_init(dataset)
        except (AssertionError, UnicodeError, OSError) as error:
            if isinstance(error, OSError) and error.errno is None:
                raise  # a sentence of the data set's own
            raise _unlisted(dataset, error) from error
        if not dataset.serialize_data:  # else its list is empty because it was serialized
            refuse_empty(dataset)

    Compose.__call__ = call_checked
    BaseDataset._serialize_data = serialize_some
    BaseDataset.full_init = init_some


mend_data_sets()
