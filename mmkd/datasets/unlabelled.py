"""Images without labels: of a folder, or of any data set; and how they lie beside labelled ones."""

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset, ConcatDataset

from mmkd.datasets.arguments import check_arguments
from mmkd.registry import DATASETS
from mmkd.structures.batch import LABELLED
from mmkd.utils.pipelines import find_pipeline, without_pipeline

OWN = ('data_root', 'dataset', 'suffixes')
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
# what a pipeline may start from; all else that a data set knows of a sample may be a label
IMAGE = ('img_path', 'img', 'img_shape', 'ori_shape', 'sample_idx', 'img_id', 'height', 'width')


@DATASETS.register_module()
class UnlabelledImages(BaseDataset):
    """Images without labels, of a folder or of another data set, for objectives that need none.

    They stand beside a labelled set in :class:`WithUnlabelled`, and
    :class:`~mmkd.datasets.samplers.MixedSampler` says how many of each a batch holds. Their samples
    say ``labelled=False`` in the metainfo, and hold no label whatever the pipeline.

    Args:
        data_root: Folder of the images, searched with all folders below it, links to folders
            too; in the order of their paths.
        dataset: In place of ``data_root``: the config of a data set, whose images are taken and
            whose labels are never looked at, such as
            ``dict(type='mmkd.DigitScenes', num_scenes=2000, seed=1)``.
        suffixes: Which files are images, in lower case.
        **kwargs: As in mmengine's BaseDataset: ``pipeline``, ``indices``, ``metainfo``, … Of the
            pipeline, steps that load annotations are left out, and
            ``RandomCrop(cat_max_ratio=…)``, which looks at labels, takes any crop.

    Raises:
        FileNotFoundError: No such folder, or no image in it.
        ValueError: Both or neither of ``data_root`` and ``dataset``.
        TypeError: An unknown argument, with the nearest match.

    >>> images = UnlabelledImages(
    ...     dataset=dict(type='mmkd.DigitScenes', num_scenes=2),
    ...     pipeline=[dict(type='mmseg.PackSegInputs')])
    >>> sample = images[0]['data_samples']
    >>> len(images), sample.labelled, 'gt_sem_seg' in sample
    (2, False, False)
    """

    labelled = False

    def __init__(
        self,
        data_root: str | None = None,
        dataset: dict | None = None,
        suffixes: Sequence[str] = SUFFIXES,
        pipeline: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        check_arguments(kwargs, (*OWN, 'pipeline'), 'UnlabelledImages')
        if (data_root is None) == (dataset is None):
            raise ValueError(
                'UnlabelledImages needs exactly one of data_root (a folder) and dataset (the '
                f'config of a data set), got data_root={data_root!r}, dataset={dataset!r}. Mend: '
                'one of them'
            )
        if isinstance(suffixes, str):
            raise TypeError(
                f'suffixes of UnlabelledImages must be a list, got {suffixes!r}. Mend: '
                f'[{suffixes!r}]'
            )
        self.suffixes = tuple(suffixes)
        self.source: Any = None
        if dataset is not None:
            self.source = DATASETS.build(without_pipeline(copy.deepcopy(dict(dataset))))
        steps = without_annotations(pipeline)
        super().__init__(data_root=str(data_root or ''), pipeline=steps, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return an entry an image."""
        if self.source is not None:
            return [dict(place=place) for place in range(len(self.source))]
        root = Path(self.data_root)
        if not root.is_dir():
            raise FileNotFoundError(
                f'UnlabelledImages: there is no folder {self.data_root!r} (relative paths start at '
                f'{Path.cwd()}). Mend: data_root=… of a folder of images'
            )
        found = [path for path in _files_below(root) if path.suffix.lower() in self.suffixes]
        if not found:
            raise FileNotFoundError(
                f'UnlabelledImages found no image in {self.data_root!r}, nor in folders below it '
                f'(suffixes: {", ".join(self.suffixes)}). Mend: data_root=…, or suffixes=[…]'
            )
        return [dict(img_path=str(path)) for path in found]

    def get_data_info(self, idx: int) -> dict:
        """Return what a pipeline starts from: a path, or an image where the data set keeps it."""
        info = super().get_data_info(idx)
        known = info if self.source is None else self.source.get_data_info(info['place'])
        kept = {key: known[key] for key in IMAGE if key in known}
        return dict(kept, sample_idx=info['sample_idx'], seg_fields=[])

    def prepare_data(self, idx: int) -> Any:
        """Return a sample that says that it has no labels."""
        packed = super().prepare_data(idx)
        if packed is None:
            return None
        sample = packed.get('data_samples')
        if sample is None:
            return {**packed, LABELLED: False}
        sample.set_field(False, LABELLED, field_type='metainfo')
        return packed


def _files_below(root: Path) -> list[Path]:
    """Return the files of a folder and of all below it, in the order of their paths."""
    seen = {os.path.realpath(root)}
    found = []
    for folder, folders, files in os.walk(root, followlinks=True):
        found += [Path(folder, name) for name in files]
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(folder, name))
            if real in seen:  # a link may lead back up, or to where another one led
                folders.remove(name)
            seen.add(real)
    return sorted(found)


@DATASETS.register_module()
class WithUnlabelled(ConcatDataset):
    """A labelled data set, and images without labels behind it; classes and all else are its own.

    Args:
        dataset: The labelled data set, a config or built.
        unlabelled: Images without labels, a config or built; ``dict(data_root='folder')`` is
            enough: the type is :class:`UnlabelledImages`, the pipeline that of ``dataset``.
        lazy_init: As in mmengine's ConcatDataset.

    Raises:
        ValueError: ``unlabelled`` is a data set with labels.

    >>> scenes = dict(type='mmkd.DigitScenes', num_scenes=2)
    >>> images = dict(dataset=dict(type='mmkd.DigitScenes', num_scenes=3, seed=1))
    >>> mixed = WithUnlabelled(scenes, images)
    >>> len(mixed), places_of(mixed)
    (5, ([0, 1], [2, 3, 4]))
    """

    def __init__(self, dataset: Any, unlabelled: Any, lazy_init: bool = False) -> None:
        if isinstance(unlabelled, dict):
            unlabelled = dict(unlabelled)
            unlabelled.setdefault('type', 'mmkd.UnlabelledImages')
            if isinstance(dataset, dict):
                unlabelled.setdefault('pipeline', find_pipeline(dataset) or [])
            unlabelled = DATASETS.build(unlabelled)
        built = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if places_of(unlabelled)[0]:
            raise ValueError(
                f'unlabelled of WithUnlabelled is a {type(unlabelled).__name__}, which has labels. '
                "Mend: dict(type='mmkd.UnlabelledImages', dataset=…), which leaves them out"
            )
        # not by mmengine's __init__, which compares classes, and takes no ConcatDataset as a part
        self.datasets = [built, unlabelled]
        self.ignore_keys: list[str] = []
        self._metainfo, self._fully_initialized = built.metainfo, False
        if not lazy_init:
            self.full_init()


def without_annotations(pipeline: Sequence[Any]) -> list[Any]:
    """Return a pipeline for images without labels.

    Steps that load, filter or make annotations are left out; a crop looks at no label.

    >>> crop = dict(type='RandomCrop', crop_size=(8, 8), cat_max_ratio=0.75)
    >>> without_annotations([dict(type='LoadAnnotations'), dict(type='PackSegInputs'), crop])[1]
    {'type': 'RandomCrop', 'crop_size': (8, 8), 'cat_max_ratio': 1.0}
    """
    return [_blind(step) for step in pipeline if not _of_annotations(step)]


def _of_annotations(step: Any) -> bool:
    kind = step.get('type') if isinstance(step, dict) else type(step)
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return 'Annotation' in name or name.endswith('GenerateEdge')


def _blind(step: Any) -> Any:
    """Return a step that looks at no label, and so of the steps inside it."""
    if not isinstance(step, dict):
        return step
    step = dict(step)
    if 'cat_max_ratio' in step:
        step['cat_max_ratio'] = 1.0
    inner = step.get('transforms')
    if isinstance(inner, list | tuple):  # steps, or a choice between lists of them
        lists = [isinstance(one, list | tuple) for one in inner]
        step['transforms'] = (
            [without_annotations(one) for one in inner]
            if inner and all(lists)
            else without_annotations(inner)
        )
    return step


def places_of(dataset: Any) -> tuple[list[int], list[int]]:
    """Return the places of images with labels in a data set, and of those without.

    It looks into mmengine's ConcatDataset and RepeatDataset, and what behaves like them.

    Args:
        dataset: Any data set.
    """
    own: list[int] = []
    others: list[int] = []
    start = 0
    for length, labelled in _runs(dataset):
        (own if labelled else others).extend(range(start, start + length))
        start += length
    return own, others


def _runs(dataset: Any) -> Iterator[tuple[int, bool]]:
    """Yield how many images follow each other that are alike in this."""
    parts = getattr(dataset, 'datasets', None)
    inner = getattr(dataset, 'dataset', None)
    times = getattr(dataset, '__dict__', {}).get(
        'times', 1
    )  # its own: some data sets let the inner one show through
    if isinstance(parts, list | tuple):
        for part in parts:
            yield from _runs(part)
    elif inner is not None and len(dataset) == times * len(inner):
        for _ in range(times):
            yield from _runs(inner)
    elif hasattr(dataset, '__len__'):  # a stream has no places
        yield len(dataset), bool(getattr(dataset, LABELLED, True))
