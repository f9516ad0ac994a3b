"""Detectors of mmdet as students and teachers, through the same taps, objectives and critics."""

import math
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.images import write_boxes
from helpers.processes import shell
from helpers.runs import ROOT, need_mmdet
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor

from mmkd.apis.launch import load_config
from mmkd.apis.prepare import prepare_config
from mmkd.compat import require_library
from mmkd.losses import binary_kl, pair_wise_affinity
from mmkd.tasks import Detection, generated_batch, task_of


@pytest.fixture
def mmdet() -> None:
    need_mmdet()


def base(width: int, levels: int = 5) -> dict:
    """The shared parts of the small detectors."""
    return dict(
        data_preprocessor=dict(
            type='DetDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3, pad_size_divisor=32
        ),
        backbone=dict(
            type='ResNet', depth=18, base_channels=width, stem_channels=width, norm_eval=False
        ),
        neck=dict(
            type='FPN',
            in_channels=[width, 2 * width, 4 * width, 8 * width],
            out_channels=16,
            start_level=1,
            num_outs=levels,
            add_extra_convs='on_output',
        ),
    )


NMS = dict(nms_pre=100, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6), max_per_img=20)


def fcos(width: int = 8, classes: int = 3, levels: int = 5) -> dict:
    return dict(
        type='FCOS',
        **base(width, levels),
        test_cfg=NMS,
        bbox_head=dict(
            type='FCOSHead',
            num_classes=classes,
            in_channels=16,
            feat_channels=16,
            stacked_convs=1,
            strides=[8, 16, 32, 64, 128][:levels],
            regress_ranges=((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))[:levels],
            norm_cfg=dict(type='GN', num_groups=4),
        ),
    )


def retina(width: int = 8) -> dict:
    return dict(
        type='RetinaNet',
        **base(width),
        test_cfg=NMS,
        bbox_head=dict(
            type='RetinaHead',
            num_classes=3,
            in_channels=16,
            feat_channels=16,
            stacked_convs=1,
            anchor_generator=dict(
                type='AnchorGenerator',
                octave_base_scale=4,
                scales_per_octave=3,
                ratios=[0.5, 1.0, 2.0],
                strides=[8, 16, 32, 64, 128],
            ),
        ),
        train_cfg=dict(
            assigner=dict(
                type='MaxIoUAssigner',
                pos_iou_thr=0.5,
                neg_iou_thr=0.4,
                min_pos_iou=0,
                ignore_iof_thr=-1,
            ),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
    )


def gfl(width: int = 8) -> dict:
    return dict(
        type='GFL',
        **base(width),
        test_cfg=NMS,
        bbox_head=dict(
            type='GFLHead',
            num_classes=3,
            in_channels=16,
            feat_channels=16,
            stacked_convs=1,
            norm_cfg=dict(type='GN', num_groups=4),
            anchor_generator=dict(
                type='AnchorGenerator',
                ratios=[1.0],
                octave_base_scale=8,
                scales_per_octave=1,
                strides=[8, 16, 32, 64, 128],
            ),
            loss_cls=dict(type='QualityFocalLoss'),
            loss_dfl=dict(type='DistributionFocalLoss'),
            loss_bbox=dict(type='GIoULoss'),
        ),
        train_cfg=dict(
            assigner=dict(type='ATSSAssigner', topk=9),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
    )


def faster(width: int = 8) -> dict:
    shared = base(width)
    shared['neck'] = dict(
        type='FPN',
        in_channels=[width, 2 * width, 4 * width, 8 * width],
        out_channels=16,
        num_outs=5,
    )
    sampler = dict(
        type='RandomSampler', num=32, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=True
    )
    assigner = dict(
        type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.3, ignore_iof_thr=-1
    )
    coder = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[1.0] * 4)
    proposals = dict(
        nms_pre=100, max_per_img=50, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
    )
    return dict(
        type='FasterRCNN',
        **shared,
        rpn_head=dict(
            type='RPNHead',
            in_channels=16,
            feat_channels=16,
            bbox_coder=coder,
            anchor_generator=dict(
                type='AnchorGenerator',
                scales=[8],
                ratios=[0.5, 1.0, 2.0],
                strides=[4, 8, 16, 32, 64],
            ),
        ),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor',
                out_channels=16,
                featmap_strides=[4, 8, 16, 32],
                roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
            ),
            bbox_head=dict(
                type='Shared2FCBBoxHead',
                in_channels=16,
                fc_out_channels=16,
                roi_feat_size=7,
                num_classes=3,
                bbox_coder=coder,
            ),
        ),
        train_cfg=dict(
            rpn=dict(
                assigner=assigner, sampler=sampler, allowed_border=-1, pos_weight=-1, debug=False
            ),
            rpn_proposal=proposals,
            rcnn=dict(assigner=assigner, sampler=sampler, pos_weight=-1, debug=False),
        ),
        test_cfg=dict(
            rpn=proposals,
            rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20),
        ),
    )


def distiller(student: dict, teacher: dict, score: str, levels: int = 5, **changes: Any) -> dict:
    """Pair-wise on every FPN level and binary KL on every level's scores, each averaged over the
    levels.
    """
    return (
        dict(
            type='mmkd.Distiller',
            student=dict(model=student, scope='mmdet'),
            teacher=dict(model=teacher, scope='mmdet', allow_untrained=True),
            taps={f'feat{k}': f'neck:output[{k}]' for k in range(levels)}
            | {f'score{k}': f'{score}#{k}' for k in range(levels)},
            objectives={
                f'pair{k}': dict(
                    loss=dict(type='PairWiseAffinityLoss'), on=f'feat{k}', weight=1 / levels
                )
                for k in range(levels)
            }
            | {
                f'pixel{k}': dict(loss=dict(type='BinaryKLLoss'), on=f'score{k}', weight=1 / levels)
                for k in range(levels)
            },
        )
        | changes
    )


def build(config: dict) -> Any:
    torch.manual_seed(0)
    return MODELS.build(config)


def data(model: Any, n: int = 2) -> dict:
    return generated_batch(n, (256, 256), task_of(model.student))


@pytest.mark.parametrize(
    ('make', 'score', 'own'),
    [
        (fcos, 'bbox_head.conv_cls', {'loss_cls', 'loss_bbox', 'loss_centerness'}),
        (retina, 'bbox_head.retina_cls', {'loss_cls', 'loss_bbox'}),
        (gfl, 'bbox_head.gfl_cls', {'loss_cls', 'loss_bbox', 'loss_dfl'}),
        (faster, 'rpn_head.rpn_cls', {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox'}),
    ],
)
def test_detectors_learn_from_every_level(
    mmdet: None, make: Any, score: str, own: set[str]
) -> None:
    model = build(distiller(make(8), make(16), score))
    assert task_of(model.student) == Detection(3)
    assert task_of(model.student).size == (256, 256)
    before = {k: v.clone() for k, v in model.teacher.state_dict().items()}
    neck = [p.clone() for p in model.student.neck.parameters()]
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    logs = model.train_step(data(model), wrapper)
    assert own < set(logs)
    terms = [
        float(value)
        for key, value in logs.items()
        if 'loss' in key and key not in ('loss', 'loss_rpn_cls')
    ]
    terms += [float(logs['loss_rpn_cls'])] if 'loss_rpn_cls' in logs else []
    assert float(logs['loss']) == pytest.approx(sum(terms), rel=1e-4)
    assert all(logs[f'{kind}{k}.loss'] > 0 for kind in ('pair', 'pixel') for k in range(5))
    assert all(torch.equal(value, before[key]) for key, value in model.teacher.state_dict().items())
    assert not any(
        torch.equal(p, old) for p, old in zip(model.student.neck.parameters(), neck, strict=True)
    )


def test_boxes_weigh_every_level_of_a_neck(mmdet: None) -> None:
    """The box in the middle is half of the image; each level has it at its stride."""
    both = dict(type='Boxes', outside=1.0)
    objectives = {
        f'{side}{k}': dict(
            loss=dict(type='FeatureMatchingLoss'),
            on=f'feat{k}',
            connectors=dict(student='auto'),
            where=where,
        )
        for k in range(5)
        for side, where in (('box', dict(type='Boxes')), ('both', both))
    }
    config = distiller(fcos(8), fcos(16), 'bbox_head.conv_cls')
    taps = {f'feat{k}': f'neck:output[{k}]' for k in range(5)}
    model = build(config | dict(taps=taps, objectives=objectives)).eval()
    ready = model.data_preprocessor(data(model), True)
    record, _ = model.observe(**ready)
    losses = model.compare(model.objectives, record)
    for k in range(5):
        teacher = record['teacher'][f'feat{k}']
        student = model.objectives[f'box{k}'].connectors['student'](record['student'][f'feat{k}'])
        each = (student - teacher).square().mean(1)
        cells = each.shape[-1]
        inside = torch.zeros_like(each, dtype=torch.bool)
        edges = slice(cells // 4, math.ceil(3 * cells / 4))  # of one cell and of two: all
        inside[:, edges, edges] = True
        assert losses[f'box{k}.loss'].item() == pytest.approx(each[inside].mean().item(), rel=1e-5)
        means = [own[one].mean() for own, one in zip(each, inside, strict=True)]
        if not inside.all():
            means += [own[~one].mean() for own, one in zip(each, inside, strict=True)]
        expected = sum(means).item() / len(means)
        assert losses[f'both{k}.loss'].item() == pytest.approx(expected, rel=1e-5)


def test_objectives_are_those_of_the_two_detectors(mmdet: None) -> None:
    """Each level's term, from the detectors' own forward."""
    model = build(distiller(fcos(8), fcos(16), 'bbox_head.conv_cls')).eval()
    ready = model.data_preprocessor(data(model), True)
    losses = model(**ready, mode='loss')

    def levels(own: Any) -> tuple[list[Tensor], list[Tensor]]:
        with torch.no_grad():
            features = own.extract_feat(ready['inputs'])
            return features, own.bbox_head(features)[0]

    student, teacher = levels(model.student), levels(model.teacher)
    for k in range(5):
        torch.testing.assert_close(
            losses[f'pair{k}.loss'], pair_wise_affinity(student[0][k], teacher[0][k]) / 5
        )
        torch.testing.assert_close(
            losses[f'pixel{k}.loss'], binary_kl(student[1][k], teacher[1][k]) / 5
        )


def test_a_student_of_its_teachers_weights_has_nothing_to_learn_from_it(mmdet: None) -> None:
    model = build(distiller(fcos(8), fcos(8), 'bbox_head.conv_cls')).eval()
    model.student.load_state_dict(model.teacher.state_dict())
    losses = model(**model.data_preprocessor(data(model), True), mode='loss')
    assert all(
        abs(float(losses[f'{kind}{k}.loss'])) < 1e-6 for kind in ('pair', 'pixel') for k in range(5)
    )


def test_images_without_boxes_still_distil(mmdet: None) -> None:
    model = build(distiller(fcos(8), fcos(16), 'bbox_head.conv_cls'))
    batch = data(model)
    for sample in batch['data_samples']:
        sample.gt_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
    logs = model.train_step(batch, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01)))
    assert logs['loss_bbox'] == 0
    assert logs['pair0.loss'] > 0
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_members_written_inline_belong_to_the_runs_scope(mmdet: None) -> None:
    config = distiller(fcos(8), fcos(16), 'bbox_head.conv_cls')
    for member in ('student', 'teacher'):
        config[member].pop('scope')
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert type(build(config).student).__name__ == 'FCOS'


@pytest.mark.slow
def test_an_exported_student_runs_without_mmkd(mmdet: None, tmp_path: Path) -> None:
    from mmkd.distiller.export import export_student

    config = Config(
        dict(default_scope='mmdet', model=distiller(fcos(8), fcos(16), 'bbox_head.conv_cls'))
    )
    model = build(config.model.to_dict())
    torch.save(
        dict(state_dict=model.state_dict(), meta=dict(cfg=config.pretty_text)), tmp_path / 'run.pth'
    )
    export_student(tmp_path / 'run.pth', tmp_path / 'plain.pth')
    (image,) = model.data_preprocessor(data(model, 1))['inputs']
    torch.save(
        dict(image=image, scores=model.student.eval()(image[None])[0]), tmp_path / 'expected.pth'
    )
    script = f"""
import sys, torch
from mmengine.config import Config
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
register_all_modules()
cfg = Config.fromfile({str(next(tmp_path.rglob('config.py')))!r})
model = MODELS.build(cfg.model).eval()
model.load_state_dict(torch.load({str(tmp_path / 'plain.pth')!r})["state_dict"])
saved = torch.load({str(tmp_path / 'expected.pth')!r})
assert all(torch.equal(a, b) for a, b in zip(model(saved["image"][None])[0], saved["scores"]))
assert not [name for name in sys.modules if name.split(".")[0] == "mmkd"]
"""
    done = subprocess.run(
        [sys.executable, '-c', script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


# ---- bad input ----


def test_levels_and_classes_that_differ(mmdet: None) -> None:
    with pytest.raises(
        IndexError,
        match=r"tap 'feat4' of teacher .*index 0 \[4\] is not in a tuple of 4 items, \[0\] "
        r'… \[3\]. Mend: an index that is there, in both members',
    ):
        build(distiller(fcos(8), fcos(16, levels=4), 'bbox_head.conv_cls'))
    with pytest.raises(
        ValueError, match=r"objective 'pixel0': .*student has 3 classes but teacher has 4"
    ):
        build(distiller(fcos(8), fcos(16, classes=4), 'bbox_head.conv_cls'))
    config = distiller(fcos(8), fcos(16), 'bbox_head.conv_cls')
    config['taps']['score0'] = 'bbox_head.conv_cls#5'
    with pytest.raises(
        RuntimeError, match=r"'score0'.*: the module ran 5 times, so #5 is not there. Mend: #0 … #4"
    ):
        build(config)
    config['taps']['score0'] = 'bbox_head.conv_cls'
    with pytest.raises(
        RuntimeError, match=r"ran 5 times in one forward. Mend: 'bbox_head.conv_cls#0' …"
    ):
        build(config)


def test_scores_that_are_a_softmax_are_no_yes_or_no(mmdet: None) -> None:
    softmax = dict(type='CrossEntropyLoss', use_sigmoid=False)
    for changed, method in product((0, 1), ('kd', 'skd-pi-pa', 'crosskd')):
        members = [retina(8), retina(8)]
        members[changed]['bbox_head'].update(loss_cls=softmax)
        config = dict(
            type='mmkd.Distiller',
            student=dict(model=members[0], scope='mmdet'),
            teacher=dict(model=members[1], scope='mmdet', allow_untrained=True),
            method=method,
        )
        who = ('student', 'teacher')[changed]
        with pytest.raises(ValueError, match=f'scores of .{who}. are a softmax .*Mend: loss_cls'):
            build(config)


def test_boxes_of_a_class_that_there_is_not(mmdet: None) -> None:
    model = build(distiller(gfl(8), gfl(16), 'bbox_head.gfl_cls'))
    batch = data(model)
    batch['data_samples'][0].gt_instances.labels[:] = 7
    with pytest.raises(
        ValueError, match=r'boxes have the labels \[7\], but the student has 3 classes'
    ):
        model.train_step(batch, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01)))


def test_what_a_second_stage_cannot_do(mmdet: None) -> None:
    config = distiller(faster(8), faster(16), 'rpn_head.rpn_cls')
    config['taps'] = dict(scores='roi_head.bbox_head.fc_cls')
    config['objectives'] = dict(kl=dict(loss=dict(type='PixelWiseKLLoss'), on='scores'))
    with pytest.raises(
        ValueError, match="objective 'kl' compares the roi_head of student and teacher"
    ):
        build(config)
    for option in (dict(precision='bf16'), dict(fuse_bn=True), dict(compile=True)):
        config = distiller(faster(8), faster(16), 'rpn_head.rpn_cls')
        config['teacher'] |= option
        with pytest.raises(
            ValueError, match='is not for a FasterRCNN, whose second stage runs on boxes in float32'
        ):
            build(config)


def test_pictures_of_detections(mmdet: None, tmp_path: Path) -> None:
    """mmkd test --show-dir, with the config's own hook and visualizer."""
    root = tmp_path / 'data'
    write_boxes(root)
    options = [
        'data_root=' + str(root),
        'train_dataloader.dataset.data_root=' + str(root),
        'test_dataloader.dataset.data_root=' + str(root),
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        f'test_evaluator.ann_file={root}/annotations_coco/test.json',
    ]
    path = ROOT / 'configs/pairs/baseline_fcos-r18-half_bccd-320x240.py'
    weights = MODELS.build(
        Config.fromfile(path).model.to_dict() | dict(_scope_='mmdet')
    ).state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'net.pth')
    folders = ('--show-dir', tmp_path / 'shown', '--work-dir', tmp_path / 'work')
    given = (path, tmp_path / 'net.pth', *folders, '--cfg-options', *options)
    shell(ROOT / 'tools/test.py', *given, cwd=tmp_path)
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 2


def test_a_library_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """With or without it here: what happens where mmcv has no compiled operations, or mmdet is
    missing.
    """
    for name in [name for name in sys.modules if name.split('.')[0] == 'mmdet']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'mmdet', None)
    message = (
        r"uses mmdet, which does not import here .*Mend: pip install 'mmkd\[det\]', and mmcv with "
        r'its '
        'compiled operations: pip install --no-build-isolation'
    )
    with pytest.raises(ImportError, match=f'student {message}'):
        build(distiller(fcos(8), fcos(16), 'bbox_head.conv_cls'))
    with pytest.raises(ImportError, match=message):
        require_library('mmdet', 'FCOS', 'the config')
    require_library('mmdet', 'mmkd.Distiller', 'the config')
    recipe = load_config(str(next((ROOT / 'configs/structured_kd_detection').glob('pi_*.py'))))
    with pytest.raises(ImportError, match=message):  # its pictures, metric and data set are mmdet's
        prepare_config(recipe)
    require_library('mmseg', 'EncoderDecoder', 'the config')
    assert (ROOT / 'docs/user_guides/detection.md').is_file()
