"""A task from outside: poses, as heat maps of keypoints, are one class; mmkd knows none of them."""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmkd.apis.benchmark import Options, Pair
from mmkd.apis.doctor import Report, diagnose
from mmkd.apis.doctor.data import check_labels
from mmkd.registry import TASKS
from mmkd.structures.batch import BATCH_READS, Batch, read_batch
from mmkd.tasks import Segmentation, Task, Unknown, task_of

KEYPOINTS = 3

# ---------------------------------------------------------------------- all that is to be written


def keypoints_seen(batch: Batch) -> Tensor:
    """Return which keypoints are somewhere in the image, (N, K)."""
    return torch.stack([s.gt_heatmap.data.flatten(1).any(1) for s in batch.data_samples or []])


class Poses(Task):
    """Heat maps (K, H, W) in [0, 1], one for each keypoint."""

    kind = 'poses'
    field = 'gt_heatmap'
    holding = 'heat maps'
    size = (32, 32)
    reads = dict(keypoints_seen=keypoints_seen)

    @classmethod
    def of(cls, model: Any, source: Any = None) -> 'Poses | None':
        head = getattr(model, 'keypoint_head', None)
        return None if head is None else cls(head.out_channels)

    def valid(self, batch: Batch) -> Tensor:
        """Images without any keypoint count nowhere."""
        maps = torch.stack([sample.gt_heatmap.data for sample in batch.data_samples or []])
        return maps.any(1) | maps.flatten(1).any(1)[:, None, None]

    def check(self, batch: Batch, num_classes: int | None) -> bool:
        outside = torch.tensor([sample.gt_heatmap.data.max() > 1 for sample in batch.data_samples])
        if outside.any():
            raise ValueError(
                f'heat maps above 1{batch.files(*self.paths, chosen=outside)}. Mend: divide by 255'
            )
        return bool(batch.valid.any())

    def count(self, batch: Batch) -> Counter:
        seen = keypoints_seen(batch)
        return Counter(seen=int(seen.sum()), all=seen.numel())

    def tell(self, counts: Counter) -> tuple[list[tuple[str, str]], list[str]]:
        return [('keypoints seen', f'{counts["seen"]} of {counts["all"]}')], []

    def sample(self, size: tuple[int, int], generator: torch.Generator, masked: bool = True) -> Any:
        maps = torch.rand(self.num_classes or 1, *size, generator=generator)
        return BaseDataElement(gt_heatmap=PixelData(data=maps))


# ---------------------------------------------------------------------- a user's own model and data


class PoseNet(BaseModel):
    """Heat maps at the size of the image."""

    def __init__(self, channels: int, data_preprocessor: dict | None = None) -> None:
        super().__init__(data_preprocessor)
        self.backbone = nn.Conv2d(3, channels, 3, padding=1)
        self.keypoint_head = nn.Conv2d(channels, KEYPOINTS, 1)

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> Any:
        maps = self.keypoint_head(self.backbone(inputs).relu())
        if mode == 'tensor':
            return maps
        if mode == 'loss':
            truth = torch.stack([sample.gt_heatmap.data for sample in data_samples or []])
            return dict(loss_heatmap=(maps - truth).square().mean())
        raise NotImplementedError(mode)


class Frames(Dataset):
    """Four images; heat maps go to ``high``, from the second image on."""

    metainfo: dict = {}

    def __init__(self, high: float = 1.0, empty: bool = False) -> None:
        self.high, self.empty = high, empty

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        maps = torch.zeros(KEYPOINTS, 16, 24)
        if not self.empty:
            maps[0, 4, index] = self.high if index else 1.0
        sample = BaseDataElement(gt_heatmap=PixelData(data=maps))
        sample.set_metainfo(dict(img_path=f'frames/{index}.png', img_shape=(16, 24)))
        images = torch.full((3, 16, 24), 10 * index, dtype=torch.uint8)
        return dict(inputs=images, data_samples=sample)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    TASKS.register_module()(Poses)
    MODELS.register_module()(PoseNet)
    DATASETS.register_module()(Frames)
    yield
    for registry, name in ((TASKS, 'Poses'), (MODELS, 'PoseNet'), (DATASETS, 'Frames')):
        del registry.module_dict[name]


def config(**data: Any) -> Config:
    """A student and a teacher of poses, whose logits and features are compared."""
    preprocessor = dict(type='ImgDataPreprocessor', mean=[99.0] * 3, std=[50.0] * 3)
    net = dict(type='PoseNet', data_preprocessor=preprocessor)
    loader = dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='Frames', **data),
        collate_fn=dict(type='pseudo_collate'),
    )
    return Config(
        dict(
            default_scope='mmengine',
            crop_size=(16, 24),
            model=dict(
                type='mmkd.Distiller',
                student=dict(model=dict(net, channels=4)),
                teacher=dict(model=dict(net, channels=8), allow_untrained=True),
                taps=dict(maps='keypoint_head', feat='backbone'),
                objectives=dict(
                    maps=dict(
                        loss=dict(type='FeatureL1Loss'), on='maps', reads=dict(mask='batch.valid')
                    ),
                    pair=dict(loss=dict(type='PairWiseAffinityLoss'), on='feat'),
                ),
            ),
            train_dataloader=loader,
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=5),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
        )
    )


# ---------------------------------------------------------------------- and all of mmkd serves it


def test_it_is_found_by_model_and_by_samples_until_it_is_taken_back() -> None:
    net = PoseNet(2)
    assert task_of(net) == Poses(KEYPOINTS)
    sample = Frames()[1]['data_samples']
    assert Batch(torch.zeros(1, 3, 16, 24), [sample]).task == Poses()
    del TASKS.module_dict['Poses']
    assert task_of(net) == Unknown()
    assert Batch(torch.zeros(1, 3, 16, 24), [sample]).task == Unknown()
    TASKS.register_module()(Poses)


def test_it_wins_over_those_of_mmkd() -> None:
    """A model that looks like a segmentor as well is one of poses, the task registered last."""
    net = PoseNet(2)
    net.decode_head = nn.Conv2d(1, 1, 1)
    net.decode_head.num_classes = 5
    assert Segmentation.of(net) == Segmentation(5)
    assert task_of(net) == Poses(KEYPOINTS)


def test_it_has_no_classes_but_reads_of_its_own() -> None:
    batch = Batch(torch.zeros(2, 3, 16, 24), [Frames()[i]['data_samples'] for i in range(2)])
    with pytest.raises(ValueError, match='batch.labels: these samples hold heat maps, no class'):
        _ = batch.labels
    assert read_batch(batch, 'keypoints_seen', None).tolist() == [[True, False, False]] * 2
    assert 'keypoints_seen' in BATCH_READS
    assert read_batch(batch, 'valid', torch.zeros(2, 3, 8, 8)).shape == (2, 8, 8)


def test_the_probe_runs_its_loss_and_the_distiller_its_checks() -> None:
    model = MODELS.build(config().model)  # the probe has taken a generated batch
    data = [Frames()[i] for i in range(2)]
    logs = model(**model.data_preprocessor(collate(data), True), mode='loss')
    assert logs['loss_heatmap'] > 0
    assert logs['maps.loss'] > 0
    wrong = [Frames(high=9.0)[i] for i in range(3)]
    with pytest.raises(ValueError, match=r'above 1 \(from frames/1.png, frames/2.png\). Mend: div'):
        model(**model.data_preprocessor(collate(wrong), True), mode='loss')


def collate(samples: list[dict]) -> dict:
    return {key: [copy.deepcopy(sample[key]) for sample in samples] for key in samples[0]}


def test_the_doctor_on_generated_data() -> None:
    report = diagnose(config(), fake_data=True, device='cpu')
    assert report.errors == []
    rows = {row[0]: row for row in report.tables['objectives'][1]}
    assert rows.keys() == {'task', 'maps', 'pair'}
    assert any('generated images of (16, 24)' in note for note in report.notes)


def test_the_doctor_on_a_data_loader() -> None:
    report = diagnose(config(), batches=2, device='cpu')
    assert report.errors == []
    assert ('keypoints seen', '4 of 12') in report.tables['data'][1]
    report = diagnose(config(high=9.0), batches=2, device='cpu')
    assert report.errors == [
        'heat maps above 1 (from frames/1.png). Mend: divide by 255 [2 of 2 batches]'
    ]
    report = Report()
    empty = collate([Frames(empty=True)[i] for i in range(2)])
    net = MODELS.build(config().model.student.model)
    rows, good = check_labels([empty], net.data_preprocessor, Poses(KEYPOINTS), report)
    assert (rows, good) == ([('keypoints seen', '0 of 6')], [])
    assert report.errors == [
        'no valid position: nothing of this batch counts (from frames/0.png, frames/1.png). Mend: '
        'a data set with labels [1 of 1 batches]'
    ]


def test_the_benchmark() -> None:
    pair = Pair(config(), Options())
    assert pair.data['data_samples'][0].gt_heatmap.shape == (16, 24)
    cases = pair.cases()
    assert cases.keys() >= {'student', 'teacher', 'objectives', 'step', 'peer_student'}
    for case in cases.values():
        case()
