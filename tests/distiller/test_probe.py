"""The probe: students of any head, in train mode, on a stand-in; what labels it gives; what it
leaves alone.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.runs import need_mmdet
from mmengine.registry import MODELS
from mmseg.models.decode_heads import FCNHead
from torch import Tensor, nn

from mmkd.losses import functional
from mmkd.tasks import Depth, Segmentation, generated_batch
from mmkd.tasks.detection import det_sample
from mmkd.tasks.generated import edges_of


def ddrnet() -> dict:
    ohem = dict(type='OhemCrossEntropy', min_kept=100)
    return dict(
        type='EncoderDecoder',
        data_preprocessor=tiny.preprocessor(128),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
        backbone=dict(type='DDRNet', channels=4, ppm_channels=8, norm_cfg=dict(type='BN')),
        decode_head=dict(
            type='DDRHead',
            in_channels=16,
            channels=8,
            dropout_ratio=0.0,
            num_classes=11,
            norm_cfg=dict(type='BN'),
            loss_decode=[ohem, ohem],
        ),
    )


def pidnet() -> dict:
    cross, ohem = dict(type='CrossEntropyLoss'), dict(type='OhemCrossEntropy', min_kept=100)
    return dict(
        type='EncoderDecoder',
        data_preprocessor=tiny.preprocessor(128),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
        backbone=dict(
            type='PIDNet',
            channels=8,
            ppm_channels=8,
            num_stem_blocks=1,
            num_branch_blocks=1,
            norm_cfg=dict(type='BN'),
        ),
        decode_head=dict(
            type='PIDHead',
            in_channels=32,
            channels=8,
            num_classes=11,
            norm_cfg=dict(type='BN'),
            loss_decode=[cross, ohem, dict(type='BoundaryLoss'), ohem],
        ),
    )


def train(net: dict, with_edges: bool = False) -> dict[str, Tensor]:
    """Build a Distiller of one student under a small teacher and take a step."""
    model = tiny.build(
        tiny.distiller(
            student=dict(model=net),
            objectives=dict(
                pixel=dict(
                    loss=dict(type='PixelWiseKLLoss'), on='logits', connectors=dict(teacher='auto')
                )
            ),
        )
    )
    data = generated_batch(2, (128, 128), Segmentation(11))
    if not with_edges:
        for sample in data['data_samples']:
            del sample.gt_edge_map
    return model.train_step(data, tiny.sgd(model))


@pytest.mark.parametrize(('net', 'edges'), [(ddrnet, False), (pidnet, True)])
def test_heads_that_learn_from_more_than_they_predict(net: Any, edges: bool) -> None:
    """They take a tuple of maps in train mode and one map in eval mode, where mode='loss' cannot
    run at all.
    """
    logs = train(net(), edges)
    assert all(value.isfinite() for value in logs.values())
    assert logs['pixel.loss'] > 0


class Inward(FCNHead):
    """Notes the mode of its forward, keeps what it computed in a plain dict, and matches: it takes
    no NaN.
    """

    seen: list = []

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.words = nn.Parameter(torch.full((3, 3), float('nan')))  # until weights are loaded
        self.cache: dict[str, Tensor] = {}

    def forward(self, inputs: Any) -> Tensor:
        self.seen.append(self.training)
        if not self.words.isfinite().all():
            raise ValueError('matrix contains invalid numeric entries')
        self.cache['words'] = self.words * 2
        return super().forward(inputs)


@pytest.fixture
def inward() -> dict:
    """A segmentor with that head."""
    Inward.seen = []
    net = tiny.segmentor(4, head='FCNHead')
    net['decode_head']['type'] = Inward
    return net


def test_it_runs_in_train_mode_and_needs_no_weights(inward: dict) -> None:
    model = MODELS.build(
        tiny.distiller(
            student=dict(model=inward, taps=dict(feat='decode_head.convs')),
            objectives=tiny.objectives(
                pair=tiny.objectives()['pair'] | dict(connectors=dict(student='auto'))
            ),
        )
    )
    head = model.student.decode_head
    assert Inward.seen == [True]
    assert head.words.isnan().all()
    assert head.cache == {}
    assert (
        type(model.objectives['pair'].connectors['student']).__name__ == 'Connector'
    )  # what it fits stays


def test_edges_by_hand_and_beside_generated_labels() -> None:
    labels = torch.randint(0, 3, (1, 7, 9))
    by_hand = [
        [
            int(
                (y < 6 and labels[0, y, x] != labels[0, y + 1, x])
                or (x < 8 and labels[0, y, x] != labels[0, y, x + 1])
            )
            for x in range(9)
        ]
        for y in range(7)
    ]
    assert edges_of(labels).tolist() == [by_hand]
    sample = Segmentation(19).sample((24, 40), torch.Generator().manual_seed(0), masked=False)
    assert torch.equal(sample.gt_edge_map.data, edges_of(sample.gt_sem_seg.data))
    assert sample.gt_edge_map.data.unique().tolist() == [0, 1]
    rows = Segmentation(19).sample((24, 40), torch.Generator().manual_seed(0))
    assert torch.equal(rows.gt_edge_map.data, sample.gt_edge_map.data)  # void rows are no edges
    assert 'gt_edge_map' not in Depth().sample((24, 40), torch.Generator())


def test_boxes_carry_masks_for_those_that_learn_them() -> None:
    need_mmdet()
    boxes = torch.tensor([[1.0, 2.0, 4.0, 6.0], [0.0, 0.0, 8.0, 1.0]])
    labels = torch.tensor([0, 1])
    assert 'masks' not in det_sample(boxes, labels, (6, 8)).gt_instances  # some detectors fail
    masks = det_sample(boxes, labels, (6, 8), masked=True).gt_instances.masks.masks
    assert masks.shape == (2, 6, 8)
    assert masks.sum((1, 2)).tolist() == [3 * 4, 8 * 1]
    assert masks[0, 2:6, 1:4].all()


@pytest.mark.parametrize(
    'one',
    [
        dict(on='feat', loss=dict(type='BatchSimilarityLoss', kind='sp')),
        dict(on='feat', loss=dict(type='RowWiseKLLoss')),
        dict(
            on='feat',
            loss=dict(type='FeatureMatchingLoss', normalise='batch'),
            connectors=dict(student='auto'),
        ),
    ],
    ids=lambda one: one['loss']['type'],
)
def test_nothing_is_asked_of_other_ranks_before_training(
    one: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model is built on the CPU while NCCL, which knows no CPU, joins the ranks already."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError('another rank was asked')

    two = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_world_size=lambda: 2,
        get_rank=lambda: 0,
        all_reduce=refuse,
        all_gather=refuse,
        ReduceOp=SimpleNamespace(MAX=None),
    )
    monkeypatch.setattr(functional, 'dist', two)
    assert functional.several_ranks()
    model = tiny.build(tiny.distiller(objectives=dict(one=one)))
    assert len(model.objectives) == 1
    assert functional.several_ranks(), 'asked again in training'
