"""What a tap is decides whether it is compared as class logits, not whether its numbers happen to
fit.
"""

import copy
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from helpers import tiny
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd.distiller.objectives.class_logits import (
    LabelSet,
    check_class_logits,
    check_same_labels,
    label_set,
)
from mmkd.losses import pixel_wise_kl

NINETEEN = LabelSet('segmentation', 19, 19)
TEN = LabelSet('classification', 10, 10)


@pytest.mark.parametrize(
    ('shape', 'labels', 'images'),
    [
        ((2, 19, 4, 8), NINETEEN, 2),
        ((2, 19, 4, 8), NINETEEN, None),
        ((1, 1, 4, 8), LabelSet('segmentation', 2, 1), 1),  # two classes as one sigmoid
        ((1, 2, 4, 8), LabelSet('segmentation', 2, 1), 1),
        ((1, 7, 4, 8), LabelSet('segmentation'), 1),  # a head that does not say
        ((3, 10), TEN, 3),
        ((1, 32, 4, 4), LabelSet('depth'), 1),
        ((1, 9, 4, 4), LabelSet('detection'), 1),  # bins; anchors
        ((2, 5), LabelSet(''), 2),
        ((2, 5, 3), LabelSet(''), 2),
    ],
)  # models of a user's own
def test_what_class_logits_are(
    shape: tuple[int, ...], labels: LabelSet, images: int | None
) -> None:
    check_class_logits('it', torch.zeros(shape), labels, images)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('shape', 'labels', 'images', 'message'),
    [
        (
            (1, 32, 19),
            NINETEEN,
            1,
            r'x \(1, 32, 19\) is no map \(N, C, H, W\), as class logits of a model for '
            r'segmentation '
            r"are. Mend: tap class logits \(of most segmentors 'decode_head.conv_seg'\); features "
            'are compared by PairWiseAffinityLoss or FeatureL1Loss, tokens by HiddenCosineLoss',
        ),
        ((1, 19, 19), NINETEEN, 1, r'x \(1, 19, 19\) is no map'),
        ((2, 19), NINETEEN, 2, r'x \(2, 19\) is no map'),
        ((), NINETEEN, 2, r'x \(\) is no map'),
        (
            (1, 16, 4, 8),
            NINETEEN,
            1,
            r'x \(1, 16, 4, 8\) has 16 channels, but the class logits of its model have 19',
        ),
        (
            (6, 19, 100, 20),
            NINETEEN,
            1,
            r'x \(6, 19, 100, 20\) are no class logits \(N, C, …\): axis 0 is not the batch, '
            'which holds N=1; layers, queries and proposals are no images',
        ),
        (
            (3, 10, 4, 4),
            TEN,
            3,
            r'x \(3, 10, 4, 4\) is no vector \(N, C\), as class logits of a model for classific',
        ),
        (
            (3, 64),
            TEN,
            3,
            r'x \(3, 64\) has 64 channels, but the class logits of its model have 10',
        ),
        (
            (6, 1, 100, 81),
            LabelSet('detection'),
            1,
            '.*axis 0 is not the batch, which holds N=1',
        ),  # DETR's decoder layers
        ((512, 81), LabelSet('detection'), 1, '.*axis 0 is not the batch'),  # proposals
        ((), LabelSet(''), 1, '.*axis 0 is not the batch'),
    ],
)
def test_what_they_are_not(
    shape: tuple[int, ...], labels: LabelSet, images: int, message: str
) -> None:
    with pytest.raises(ValueError, match=f'^{message}'):
        check_class_logits('x', torch.zeros(shape), labels, images)


def model(**parts: object) -> nn.Module:
    module = nn.Module()
    for name, part in parts.items():
        setattr(module, name, part)
    return module


def test_label_sets_of_models() -> None:
    assert label_set(
        MODELS.build(dict(tiny.segmentor(4, num_classes=5), _scope_='mmseg'))
    ) == LabelSet('segmentation', 5, 5)
    two = tiny.segmentor(4, num_classes=2, auxiliary=False)
    sigmoid = dict(type='CrossEntropyLoss', use_sigmoid=True)
    two['decode_head'] |= dict(out_channels=1, threshold=0.5, loss_decode=sigmoid)
    assert label_set(MODELS.build(dict(two, _scope_='mmseg'))) == LabelSet('segmentation', 2, 1)
    cascade = nn.ModuleList(
        [model(num_classes=9, out_channels=9), model(num_classes=3, out_channels=3)]
    )
    assert label_set(model(decode_head=cascade)) == LabelSet('segmentation', 3, 3)
    assert label_set(model(decode_head=model(max_depth=9.0))) == LabelSet('depth')
    assert label_set(model(bbox_head=model(num_classes=80))) == LabelSet('detection')
    assert label_set(model(num_classes=4)) == LabelSet('classification', 4, 4)
    assert label_set(model(head=model())) == LabelSet('')  # something that is called head
    assert label_set(model()) == LabelSet('')


@pytest.mark.bad_input
def test_label_sets_that_differ() -> None:
    check_same_labels('it', dict(a=NINETEEN, b=LabelSet(''), c=LabelSet('detection')))
    with pytest.raises(
        ValueError,
        match=r"^it compares class logits of models that know other classes: \{'a': 19, "
        r"'b': 10\}. Class k of one is not class k of the other.*Mend: members of",
    ):
        check_same_labels('it', dict(a=NINETEEN, b=TEN))


# ---------------------------------------------------------------------- in a Distiller


def segmenter(num_classes: int = 16) -> dict:
    """Return a Segmenter of 4×4 tokens: as many as classes, so that any axis fits by luck."""
    return dict(
        type='EncoderDecoder',
        data_preprocessor=tiny.preprocessor(),
        backbone=dict(
            type='VisionTransformer',
            img_size=(64, 64),
            patch_size=16,
            embed_dims=16,
            num_layers=1,
            num_heads=2,
            out_indices=(0,),
            with_cls_token=True,
            final_norm=True,
        ),
        decode_head=dict(
            type='SegmenterMaskTransformerHead',
            in_channels=16,
            channels=16,
            num_classes=num_classes,
            num_layers=1,
            num_heads=2,
            embed_dims=16,
            dropout_ratio=0.0,
            loss_decode=dict(type='CrossEntropyLoss'),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


@pytest.mark.bad_input
@pytest.mark.parametrize('loss', ['PixelWiseKLLoss', 'LogitMSELoss', 'BinaryKLLoss'])
@pytest.mark.parametrize('connectors', [None, dict(student='auto'), dict(teacher='auto')])
def test_tokens_of_a_segmenter_are_refused_though_their_numbers_fit(
    loss: str, connectors: dict | None
) -> None:
    cfg = tiny.distiller(
        student=dict(model=segmenter()),
        teacher=dict(model=segmenter(), allow_untrained=True),
        taps=dict(logits='decode_head.mask_norm'),
        objectives=dict(pixel=dict(loss=dict(type=loss), on='logits', connectors=connectors)),
    )
    with pytest.raises(
        ValueError,
        match=r"objective 'pixel': student='student.logits' \(1, 16, 16\) is no map \(N, C, "
        r'H, W\), as class logits of a model for segmentation are. Mend: tap class',
    ):
        tiny.build(cfg)
    cfg['objectives']['pixel'] = dict(
        loss=dict(type='HiddenCosineLoss'), on='logits'
    )  # which the message names
    assert tiny.build(cfg).objectives['pixel'].label_sets['student.logits'] == LabelSet(
        'segmentation', 16, 16
    )


@pytest.mark.bad_input
def test_an_ensembles_members_are_looked_at_too() -> None:
    member = dict(model=tiny.segmentor(4), allow_untrained=True)
    cfg = tiny.distiller(
        teacher=None,
        teachers=dict(t0=member, t1=copy.deepcopy(member)),
        taps=dict(logits='decode_head.conv_seg', feat='decode_head.bottleneck'),
        objectives=dict(
            end=dict(
                loss=dict(type='EnsembleKLLoss'),
                reads=dict(student='student.logits', teachers='t*.feat'),
            )
        ),
    )
    with pytest.raises(
        ValueError,
        match=r"objective 'end': teachers='t0.feat' \(1, 8, 8, 8\) has 8 channels, but the "
        'class logits of its model have 11',
    ):
        tiny.build(cfg)
    cfg['objectives']['end']['reads']['teachers'] = 't*.logits'
    assert tiny.build(cfg)
    cfg['teachers']['t1'] = dict(model=tiny.segmentor(4, num_classes=5), allow_untrained=True)
    with pytest.raises(ValueError, match='disagree on classes: member 2 has 5'):
        tiny.build(cfg)


def other_classes(**objective: Any) -> dict:
    return tiny.distiller(
        student=dict(model=tiny.segmentor(4, num_classes=150)),
        teacher=dict(model=tiny.segmentor(4, num_classes=19), allow_untrained=True),
        objectives=dict(one=objective),
    )


@pytest.mark.bad_input
def test_an_exit_that_reads_labels_is_not_of_another_teachers_classes() -> None:
    """The label of the student's class would be that of another one of the teacher's."""
    reads = dict(student='student.feat', teacher='teacher.logits', labels='batch.labels')
    with pytest.raises(
        ValueError,
        match=r'ExitLoss compares class logits of models that know other classes: '
        r"\{'teacher.logits': 19, 'student.feat': 150\}",
    ):
        tiny.build(other_classes(loss=dict(type='ExitLoss', power=1.5), reads=reads))


@pytest.mark.bad_input
@pytest.mark.parametrize('connectors', [None, dict(student='auto'), dict(teacher='auto')])
@pytest.mark.parametrize(
    'loss', [dict(type='PixelWiseKLLoss'), tiny.holistic()['loss']], ids=['pixel', 'critic']
)
def test_members_of_other_classes_are_compared_by_their_features_alone(
    loss: dict, connectors: dict | None
) -> None:
    with pytest.raises(
        ValueError,
        match=rf"objective 'one': {loss['type']} compares class logits of models that know "
        r"other classes: \{'student.logits': 150, 'teacher.logits': 19\}. Class k .*"
        r'Mend: members of the same classes, or compare features \(PairWise',
    ):
        tiny.build(other_classes(loss=loss, on='logits', connectors=connectors))
    for other in ('FeatureL1Loss', 'AdversarialLoss'):  # of any maps, so that the tap decides
        with pytest.raises(
            ValueError,
            match=r"objective 'one': student has 150 classes, teacher 19\. Class k of one",
        ):
            tiny.build(
                other_classes(loss=dict(type=other), on='logits', connectors=dict(student='auto'))
            )
        assert tiny.build(
            other_classes(
                loss=dict(type='FeatureL1Loss'),
                reads=dict(student='student.logits', teacher='teacher.feat'),
                connectors=dict(student='auto'),
            )
        )
    model = tiny.build(other_classes(loss=dict(type='PairWiseAffinityLoss'), on='feat'))
    assert model.train_step(tiny.batch(num_classes=150), tiny.sgd(model))['one.loss'] > 0


@pytest.mark.bad_input
def test_a_connector_of_ones_own_makes_class_logits_of_features() -> None:
    """It is the user's word; the other side is looked at as ever."""
    own = dict(type='Connector', in_channels=8, out_channels=11)
    reads = dict(student='student.feat', teacher='teacher.logits')
    cfg = tiny.distiller(
        objectives=dict(
            one=dict(loss=dict(type='PixelWiseKLLoss'), reads=reads, connectors=dict(student=own))
        )
    )
    model = tiny.build(cfg)
    record, _ = model.observe(**model.data_preprocessor(tiny.batch(), True))
    connected = model.objectives['one'].connectors['student'](record['student']['feat'])
    torch.testing.assert_close(
        model.objectives['one'](record)['one.loss'],
        pixel_wise_kl(connected, record['teacher']['logits']),
    )
    reads['teacher'] = 'teacher.feat'
    with pytest.raises(
        ValueError, match=r"objective 'one': teacher='teacher.feat' \(1, 16, 8, 8\) has 16 channels"
    ):
        tiny.build(cfg)


class Toy(nn.Module):
    """A model of no known kind."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Conv2d(3, 7, 8, stride=8)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        x = self.scores(inputs)
        return dict(loss_toy=x.square().mean()) if mode == 'loss' else x


def test_models_of_no_known_kind_are_compared_as_ever() -> None:
    cfg = dict(
        type='mmkd.Distiller',
        student=dict(model=Toy()),
        teacher=dict(model=Toy()),
        taps=dict(logits='scores'),
        data_preprocessor=tiny.preprocessor(),
        objectives=dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits')),
    )
    cfg['data_preprocessor']['_scope_'] = 'mmseg'
    model = MODELS.build(cfg)
    x = torch.randn(2, 3, 64, 64)
    got = model(x, None, mode='loss')['pixel.loss']
    torch.testing.assert_close(got, pixel_wise_kl(model.student.scores(x), model.teacher.scores(x)))


def test_the_log_says_that_a_teachers_class_logits_are_resized() -> None:
    cfg = tiny.distiller(objectives=tiny.objectives(pair=None))
    cfg['teacher']['input_size'] = (96, 96)
    with mock.patch('mmkd.distiller.distiller.print_log') as log:
        model = tiny.build(cfg)
    log.assert_called_once_with(
        'mmkd: pixel: teacher (11, 12, 12) -> (11, 8, 8) by bilinear resize, since none was given',
        logger='current',
    )
    assert not [key for key in model.state_dict() if key.startswith('objectives.')]
    record, _ = model.observe(**model.data_preprocessor(tiny.batch(), True))
    teacher = F.interpolate(
        record['teacher']['logits'], size=(8, 8), mode='bilinear', align_corners=False
    )
    torch.testing.assert_close(
        model.objectives['pixel'](record)['pixel.loss'],
        10 * pixel_wise_kl(record['student']['logits'], teacher),
    )
