"""mmkd doctor: its numbers, and every problem that it should find."""

import copy
import re
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import tiny
from mmengine.config import Config, DictAction
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement, InstanceData
from mmengine.visualization import Visualizer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmkd.__main__ import main
from mmkd.apis.doctor import Report, diagnose, list_taps
from mmkd.apis.doctor.data import check_folders, check_labels
from mmkd.apis.doctor.evaluation import _Reader
from mmkd.apis.doctor.measure import gradient_norm, measure_objectives, normaliser, table_cost
from mmkd.apis.doctor.run import check_disk, check_run
from mmkd.apis.doctor.wiring import Wiring
from mmkd.losses import PairWiseAffinityLoss, PixelWiseKLLoss
from mmkd.models import TextDataPreprocessor
from mmkd.tasks import Detection, Segmentation, generated_batch
from mmkd.utils.config_file import read_config

SEVEN = [f'class {i}' for i in range(7)]


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Write four images with labels 0…10 and void, 64×64."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for kind in ('img_dir', 'ann_dir'):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(4):
            image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / 'img_dir' / split / f'{i}.jpg'), image)
            labels = rng.integers(0, 11, (8, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            labels[:4] = 255
            cv2.imwrite(str(tmp_path / 'ann_dir' / split / f'{i}.png'), labels)
    return tmp_path


def config(root: Path, model: dict | None = None, **overrides: Any) -> Config:
    """Return a whole config of tiny models on the images of ``data_root``; ``overrides`` replace
    top-level keys.
    """

    def loader(split: str) -> dict:
        return dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=False),
            dataset=dict(
                type='mmkd.CamVid',
                data_root=str(root),
                data_prefix=dict(img_path=f'img_dir/{split}', seg_map_path=f'ann_dir/{split}'),
                pipeline=[
                    dict(type='LoadImageFromFile'),
                    dict(type='LoadAnnotations'),
                    dict(type='PackSegInputs'),
                ],
            ),
        )

    return Config(
        dict(
            default_scope='mmseg',
            randomness=dict(seed=0),
            model=model or tiny.distiller(),
            work_dir=str(root),
            train_dataloader=loader('train'),
            val_dataloader=loader('val'),
            val_evaluator=dict(type='IoUMetric'),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=100, val_interval=50),
            val_cfg=dict(type='ValLoop'),
            optim_wrapper=dict(
                constructor='mmkd.PhaseOptimWrapperConstructor',
                student=dict(
                    type='OptimWrapper',
                    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
                ),
                critic=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=4e-4)),
            ),
            param_scheduler=[
                dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=100, by_epoch=False)
            ],
        )
        | overrides
    )


def run_tool(cfg: Config, capsys: pytest.CaptureFixture, *flags: str) -> tuple[int, str]:
    """Run mmkd doctor on a config; return its exit status and what it printed, on one line."""
    path = Path(cfg.work_dir) / 'config.py'
    cfg.dump(str(path))
    code = main(['doctor', str(path), *flags])
    return code, ' '.join(capsys.readouterr().out.split())


def table(report: Report, title: str) -> dict[str, dict[str, Any]]:
    """Return a table as first cell -> column -> cell."""
    columns, rows = report.tables[title]
    return {row[0]: dict(zip(columns, row, strict=True)) for row in rows}


def has(texts: list[str], pattern: str) -> bool:
    """Whether one of the texts matches."""
    return any(re.search(pattern, text) for text in texts)


def ready(**overrides: Any) -> tuple[Any, dict]:
    """Return a Distiller without dropout and a preprocessed batch."""
    cfg = tiny.distiller(student=dict(model=tiny.segmentor(4, dropout=0.0)), **overrides)
    model = tiny.build(cfg)
    return model, model.data_preprocessor(tiny.batch(), True)


# ---------------------------------------------------------------- numbers


def test_gradient_norm_is_that_of_backward() -> None:
    model, data = ready()
    parameters = list(model.students.parameters())
    for key in ('pixel.loss', 'pair.loss', 'decode.loss_ce'):
        model.zero_grad()
        model(**data, mode='loss')[key].backward()
        expected = (
            torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm().item()
        )
        assert gradient_norm(model(**data, mode='loss')[key], parameters) == pytest.approx(
            expected, rel=1e-5
        )


def test_gradient_norm_through_reentrant_checkpoints() -> None:
    """with_cp=True of mmcv's backbones: they serve backward() alone, by which a run trains."""
    first, inner, outer = (torch.nn.Linear(3, n) for n in (3, 3, 1))
    x = first(torch.randn(4, 3))
    plain = outer(inner(x).relu()).sum()
    again = outer(checkpoint(lambda x: inner(x).relu(), x, use_reentrant=True)).sum()
    parameters = [p for one in (first, inner, outer) for p in one.parameters()]
    parameters[0].grad = kept = torch.ones(3, 3)
    with pytest.raises(RuntimeError, match='heckpoint'):
        torch.autograd.grad(again, parameters, retain_graph=True)
    for _ in range(2):
        assert gradient_norm(again, parameters) == pytest.approx(gradient_norm(plain, parameters))
    assert parameters[0].grad is kept
    assert parameters[1].grad is None


def test_gradient_norm_of_a_line_and_of_nothing() -> None:
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    assert (
        gradient_norm((torch.tensor([2.0, 3.0]) * a).sum() + 6 * b.sum(), [a, b]) == 7.0
    )  # sqrt(4 + 9 + 36)
    assert gradient_norm(a.sum(), [b]) == 0.0
    assert gradient_norm(torch.ones(()), [a]) == 0.0


def test_objective_table_holds_values_and_relative_gradients() -> None:
    model, data = ready()
    report = Report()
    measure_objectives(model, data, report)
    rows = table(report, 'objectives')
    losses = model(**data, mode='loss')
    task, _ = model.parse_losses(
        {k: v for k, v in losses.items() if k.startswith(('decode', 'aux'))}
    )
    norms = {}
    for key, value in dict(task=task, pixel=losses['pixel.loss'], pair=losses['pair.loss']).items():
        grads = torch.autograd.grad(
            value, list(model.students.parameters()), retain_graph=True, allow_unused=True
        )
        norms[key] = sum(g.square().sum() for g in grads if g is not None).sqrt().item()
    for key in ('pixel', 'pair'):
        assert float(rows[key]['value']) == pytest.approx(losses[f'{key}.loss'].item(), rel=1e-3)
        assert float(rows[key]['gradient / task']) == pytest.approx(
            norms[key] / norms['task'], rel=1e-2
        )
        assert rows[key]['weights'] == '10 × 1'
    assert float(rows['task']['value']) == pytest.approx(task.item(), rel=1e-3)
    assert rows['pixel']['reads'] == 'student.logits\nteacher.logits'


def test_where_it_counts_is_told_and_its_mistakes_cost_their_objective(data_root: Path) -> None:
    band = dict(type='BoundaryBand', radius=1)
    sure = dict(type='TeacherConfidence')
    reads = dict(reads=dict(teacher='teacher.logits'))
    objectives = {
        'pixel': dict(loss=dict(type='PixelWiseKLLoss'), on='logits', where=[band, sure | reads]),
        'pair': dict(loss=dict(type='PairWiseAffinityLoss'), on='feat', where=band),
        'feat': dict(
            loss=dict(type='FeatureMatchingLoss'),
            on='feat',
            connectors=dict(student='auto'),
            where=sure,
        ),
    }
    report = diagnose(config(data_root, tiny.distiller(objectives=objectives)), fake_data=True)
    said = '\n'.join(report.errors)
    assert "'pair': PairWiseAffinityLoss takes no weight, so where= would change nothing" in said
    assert 'where TeacherConfidence' in said
    assert len(report.errors) == 2
    assert table(report, 'objectives')['pixel']['reads'].splitlines()[2:] == [
        'where BoundaryBand(radius=1, inside=1.0, outside=0.0)',
        "where TeacherConfidence(reads={'teacher': 'teacher.logits'}, tau=1.0)",
    ]


def test_tap_table_holds_shapes_and_calls() -> None:
    model, data = ready()
    report = Report()
    measure_objectives(model, data, report)
    columns, rows = report.tables['taps']
    assert [row[0:2] + row[3:] for row in rows] == [
        ('student', 'logits', '(2, 11, 8, 8)', 'float32', 1),
        ('student', 'feat', '(2, 8, 8, 8)', 'float32', 1),
        ('teacher', 'logits', '(2, 11, 8, 8)', 'float32', 1),
        ('teacher', 'feat', '(2, 16, 8, 8)', 'float32', 1),
    ]
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(('weight', 'said'), [(1.0, False), (1e7, True)])
def test_a_dominating_objective_is_a_warning_with_the_weight_that_balances(
    weight: float, said: bool
) -> None:
    objectives = tiny.objectives(pair=None)
    objectives['pixel']['weight'] = weight
    torch.manual_seed(3)
    model, data = ready(objectives=objectives)
    report = Report()
    measure_objectives(model, data, report)
    assert report.ok
    assert has(report.warnings, "'pixel'.*times that of the task loss") is said
    if said:
        model.objectives['pixel'].weight = float(re.search(r'weight=(\S+)', report.warnings[0])[1])
        again = Report()
        measure_objectives(model, data, again)
        assert float(table(again, 'objectives')['pixel']['gradient / task']) == pytest.approx(
            1, rel=0.06
        )


class Times(nn.Module):
    """A loss: the student's sum times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return student.sum() * self.factor


def test_zero_and_nan_objectives() -> None:
    model, data = ready()
    model.objectives['pixel'].loss, model.objectives['pair'].loss = Times(0.0), Times(float('nan'))
    report = Report()
    measure_objectives(model, data, report)
    assert has(report.warnings, "'pixel' has no gradient.*would learn nothing")
    assert has(report.errors, "'pair' is nan on the first batch")


def test_a_frozen_student_is_an_error() -> None:
    model, data = ready()
    for name, parameter in model.students.named_parameters():
        parameter.requires_grad_('decode_head.bottleneck' in name)  # taps still carry a gradient
    model.parse_losses = lambda losses: (
        losses['aux.loss_ce'],
        losses,
    )  # only the frozen head counts
    report = Report()
    measure_objectives(model, data, report)
    assert has(report.errors, 'no gradient: every parameter is frozen')


def test_normaliser_comes_from_the_documentation() -> None:
    assert normaliser(PixelWiseKLLoss()).startswith(
        'summed over classes, averaged over the valid positions'
    )
    assert normaliser(PairWiseAffinityLoss()).startswith('averaged over the edges')
    assert normaliser(Times(1.0)) == '–'


def test_checkpoint_size_is_that_of_the_file(tmp_path: Path) -> None:
    cfg = config(tmp_path, tiny.distiller(objectives=tiny.objectives(holistic=tiny.holistic())))
    model = tiny.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    model.train_step(tiny.batch(), wrapper)
    report = Report()
    found = table_cost(model, wrapper, 0, 1.0, cfg, report)
    torch.save(
        dict(state_dict=model.state_dict(), optimizer=wrapper.state_dict()), tmp_path / 'x.pth'
    )
    numbers = sum(t.nbytes for t in model.state_dict().values())
    critic = sum(p.nbytes for p in model.objectives['holistic'].loss.critic.parameters())
    student = sum(p.nbytes for p in model.students.parameters())
    steps = 4 * len(
        list(model.objectives['holistic'].loss.critic.parameters())
    )  # Adam counts for each parameter
    assert (
        found == numbers + student + 2 * critic + steps
    )  # SGD keeps one momentum, Adam two moments
    overhead = 400 * (2 * len(model.state_dict()) + 100)  # names, and alignment to 64 bytes
    assert found < (tmp_path / 'x.pth').stat().st_size < found + overhead
    averaged = table_cost(
        model, wrapper, 0, 1.0, Config(dict(custom_hooks=[dict(type='EMAHook')])), report
    )
    assert averaged == found + numbers


def test_memory_of_a_step_scales_with_the_batch(tmp_path: Path) -> None:
    """But gradients: of 2 MiB and the gradients of a step, 2 MiB are four times as many."""
    model = tiny.build(tiny.distiller())
    wrapper = tiny.sgd(model)
    gradients = sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    reports = Report(), Report()
    for report, share in zip(reports, (1.0, 4.0), strict=True):
        table_cost(model, wrapper, 2**21 + gradients, share, Config(dict()), report)
    one, four = (
        float(table(r, 'cost')['memory of a step, about']['MiB'].split()[0]) for r in reports
    )
    assert four - one == pytest.approx(6.0, abs=0.11)


def test_a_checkpoint_holds_what_optimizers_hold_though_gradients_are_added_up(
    data_root: Path,
) -> None:
    """Adam has two numbers a parameter, of which a step that only adds up has none yet."""
    found = []
    for counts in (1, 4):
        cfg = config(data_root)
        cfg.optim_wrapper.student.optimizer = dict(type='Adam', lr=1e-3)
        cfg.optim_wrapper.student.accumulative_counts = counts
        report = diagnose(cfg, fake_data=True, device='cpu')
        found.append(table(report, 'cost')['a checkpoint']['MiB'])
    assert found[0] == found[1]
    assert 'optimizer 0.0' not in found[0]


def test_generated_batch_is_what_a_loader_gives() -> None:
    batch = generated_batch(3, (20, 24), Segmentation(5))
    labels = torch.stack([s.gt_sem_seg.data for s in batch['data_samples']])
    assert labels.shape == (3, 1, 20, 24)
    assert (labels[:, :, 19] == 255).all()
    assert set(labels.unique().tolist()) <= {0, 1, 2, 3, 4, 255}
    assert (labels[..., :8, :8] == labels[..., :1, :1]).all()  # blocks
    again = generated_batch(3, (20, 24), Segmentation(5))
    assert all(torch.equal(a, b) for a, b in zip(batch['inputs'], again['inputs'], strict=True))


# ---------------------------------------------------------------- whole configs


def test_a_good_config_passes(
    data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    model = tiny.distiller(objectives=tiny.objectives(holistic=tiny.holistic()))
    code, text = run_tool(config(data_root, model), capsys)
    assert code == 0
    for part in (
        'members',
        'taps',
        'objectives',
        'phases',
        'cost',
        'data',
        '11 of 11',
        'critic of holistic',
        'untrained',
        'ready to train (errors: 0',
    ):
        assert part in text


@pytest.mark.parametrize('kind', ['SegLocalVisualizer', 'SegLocalVisualiser'])
def test_hooks_find_the_visualizer_of_the_run(
    data_root: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A Runner makes it before its hooks, and one of another test must not stand in."""
    monkeypatch.setattr(Visualizer, '_instance_dict', OrderedDict())
    cfg = config(
        data_root,
        tiny.segmentor(4),
        visualizer=dict(type=kind, name='visualizer'),
        default_hooks=dict(visualization=dict(type='SegVisualizationHook')),
    )
    report = Report()
    with DefaultScope.overwrite_default_scope('mmseg'):
        check_run(cfg, report)
    found = [text for text in report.errors if 'isuali' in text]
    assert bool(found) == (kind == 'SegLocalVisualiser'), found
    assert not found or "visualizer: mmseg has no visualizer 'SegLocalVisualiser'" in found[0]


@pytest.mark.parametrize(
    ('backend', 'message'),
    [
        (dict(type='LocalVisBackend', name='files'), ''),
        (dict(type='LocalVisBackent'), "no vis_backend 'LocalVisBackent'"),
        (dict(type='LocalVisBackend', folder='x'), "unknown argument 'folder'"),
        (dict(type='WandbVisBackend'), 'wandb, which is missing. Mend: pip install wandb'),
        (dict(type='mmengine.WandbVisBackend'), 'writes by wandb, which is missing'),
    ],
)
@pytest.mark.parametrize('alone', [False, True])
def test_what_the_visualizer_writes_by_is_there(
    data_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: dict,
    message: str,
    alone: bool,
) -> None:
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    monkeypatch.setattr('mmkd.apis.doctor.run.find_spec', lambda name: None)
    cfg = config(
        data_root,
        tiny.segmentor(4),
        visualizer=dict(
            type='SegLocalVisualizer',
            name='visualizer',
            vis_backends=backend if alone else [dict(type='LocalVisBackend'), backend],
        ),
    )
    report = Report()
    with DefaultScope.overwrite_default_scope('mmseg'):
        check_run(cfg, report)
    found = [text for text in report.errors if 'visualizer' in text]
    where = f'visualizer.vis_backends[{0 if alone else 1}]'
    assert len(found) == bool(message), found
    assert not message or (message in found[0] and where in found[0]), found
    assert not list(Path().iterdir())  # nothing was written


def test_everything_wrong_is_said_at_once(
    data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    model = tiny.distiller(
        student=dict(model=tiny.segmentor(4), precision='bf16'),
        teacher=dict(
            model=tiny.segmentor(8), checkpoint=str(data_root / 'best.pth'), fuse_bnn=True
        ),
        taps=dict(logits='decode_head.conv_seg', feat='decode_head.bottlenek'),
        objectives=tiny.objectives(
            third=dict(loss=dict(type='PixelWiseKLLoss', taw=2.0), on='logits'),
            fourth=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', wieght=1.0),
        ),
        objektives=1,
    )
    cfg = config(data_root, model, randomness=dict(), optim_wraper=dict())
    code, text = run_tool(cfg, capsys, '--batches', '1')
    assert code == 1
    for part in (
        "'precision' is an option of teachers",
        "unknown key 'fuse_bnn'; did you mean 'fuse_bn'?",
        'best.pth does not exist',
        "no module 'decode_head.bottlenek'; did you mean 'decode_head.bottleneck'",
        "'taw'; did you mean 'tau'",
        "unknown key 'wieght'; did you mean 'weight'",
        "unknown key 'objektives'; did you mean 'objectives'",
        'no seed is set',
        "'optim_wraper' is none of the Runner's; did you mean 'optim_wrapper'?",
        'this would not train as meant',
    ):
        assert part in text, part
    assert 'pixel' in text.split('objectives')[1]  # what is not broken is measured all the same


def test_misspelt_tap_of_both_members_is_said_of_both(data_root: Path) -> None:
    model = tiny.distiller(taps=dict(logits='decode_head.conv_sag', feat='decode_head.bottleneck'))
    report = diagnose(config(data_root, model), fake_data=True)
    assert has(report.errors, "'logits' of student.*conv_seg")
    assert has(report.errors, "'logits' of teacher.*conv_seg")
    assert 'pair' in table(report, 'objectives')
    assert 'pixel' not in table(report, 'objectives')


def test_shapes_that_do_not_fit_spare_the_other_objectives(data_root: Path) -> None:
    model = tiny.distiller(
        teacher=dict(model=tiny.segmentor(8, num_classes=7), allow_untrained=True)
    )
    report = diagnose(config(data_root, model), fake_data=True)
    assert has(report.errors, "objective 'pixel'.*'student.logits': 11, 'teacher.logits': 7")
    assert has(report.warnings, "teacher 'teacher' has 7 classes, the student 11")
    assert 'pair' in table(report, 'objectives')


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (dict(teacher=dict(model=tiny.segmentor(8))), 'teacher has no checkpoint'),
        (dict(student=None), 'a Distiller needs student= or students='),
        (dict(students=dict(a=dict(model=tiny.segmentor(4)))), 'give student= .* not both'),
        (dict(student=dict(cfg='configs/nowhere.py')), "'configs/nowhere.py' is not there"),
        (dict(objectives={}), 'objectives is empty'),
        (dict(objectives=dict(pixel=dict(on='logits'))), "objective 'pixel' needs loss="),
        (
            dict(
                objectives=tiny.objectives(
                    pair=dict(loss=dict(type='PairWiseAffinityLoss'), on='feet')
                )
            ),
            "no tap 'feet'",
        ),
        (
            dict(
                objectives=tiny.objectives(
                    pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=0.0)
                )
            ),
            "weight of objective 'pixel' must be a finite number above 0",
        ),
        (
            dict(
                phases=[
                    dict(
                        name='student', optimizer='student', task=True, objectives=['pixel', 'pair']
                    ),
                    dict(name='more', optimizer='critic', objectives=['pixel']),
                ]
            ),
            "two phases name the objective 'pixel'",
        ),
        (
            dict(
                phases=[
                    dict(
                        name='student', optimizer='studnt', task=True, objectives=['pixel', 'pair']
                    )
                ]
            ),
            "needs the optimizer 'studnt'; did you mean 'student'",
        ),
        (dict(predict_with='other'), "predict_with='other' names no student"),
        (
            dict(student=dict(model=tiny.segmentor(4, pretrained='nowhere/weights.pth'))),
            'init_weights: .*nowhere/weights',
        ),
        (
            dict(taps=dict(logits='decode_head.conv_seg', feat='decode_head.psp_modules')),
            'is a list of 2, not a Tensor',
        ),
    ],
)
def test_each_mistake_in_a_model(data_root: Path, change: dict, expected: str) -> None:
    report = diagnose(config(data_root, tiny.distiller(**copy.deepcopy(change))), fake_data=True)
    assert has(report.errors, expected), report.errors


def test_a_truncated_teacher_is_an_error_and_the_rest_is_measured(data_root: Path) -> None:
    path = data_root / 'teacher.pth'
    path.write_bytes(b'PK\x03\x04 cut off')
    report = diagnose(
        config(
            data_root, tiny.distiller(teacher=dict(model=tiny.segmentor(8), checkpoint=str(path)))
        ),
        fake_data=True,
    )
    assert has(report.errors, 'is truncated or is no PyTorch checkpoint')
    assert {'objectives', 'phases', 'cost'} <= set(report.tables)


KL = dict(type='PixelWiseKLLoss')


def diagnose_model(data_root: Path, **changes: Any) -> Any:
    return diagnose(config(data_root, tiny.distiller(**changes)), fake_data=True)


@pytest.mark.parametrize(('method', 'images'), [('rkd', 3), ('sp', 2)])
def test_as_many_images_as_an_objective_needs(data_root: Path, method: str, images: int) -> None:
    """Of two images the one distance over its mean is 1, and RKD would be 0."""
    model = tiny.distiller(method=method)
    del model['taps'], model['objectives']
    cfg = config(data_root, model)
    cfg.train_dataloader.batch_size = 4
    report = diagnose(cfg, device='cpu')
    assert not report.errors
    assert table(report, 'data')['looked at']['value'] == f'4 batches of {images}'
    measured = table(report, 'objectives')
    values = [float(row['value']) for name, row in measured.items() if name != 'task']
    assert values
    assert min(values) > 1e-6
    assert not [text for text in report.warnings if 'no gradient' in text]


def test_a_tap_that_the_probe_cannot_read_costs_its_objectives_alone(data_root: Path) -> None:
    teacher = dict(
        model=tiny.segmentor(8),
        allow_untrained=True,
        taps=dict(aux='auxiliary_head.conv_seg'),
    )
    student = dict(model=tiny.segmentor(4), taps=dict(aux='auxiliary_head.conv_seg'))
    report = diagnose_model(
        data_root,
        student=student,
        teacher=teacher,
        objectives=dict(
            fine=dict(loss=KL, on='logits'),
            lost=dict(loss=KL, on='aux'),
            bad=dict(loss=KL, on='feat'),
        ),
    )
    assert has(report.errors, "tap 'aux' of teacher .* never ran")
    assert has(report.errors, "objective 'bad': student='student.feat'")
    assert len(report.errors) == 2
    assert [row[0] for row in report.tables['objectives'][1]] == ['task', 'fine']


def test_statistics_that_cannot_be_made_cost_their_objective_alone(data_root: Path) -> None:
    teachers = {
        name: dict(model=tiny.segmentor(8, num_classes=classes), allow_untrained=True)
        for name, classes in (('t', 11), ('u', 7))
    }
    pair = dict(student='student.logits', teacher='t.logits')
    report = diagnose_model(
        data_root,
        teacher=None,
        teachers=teachers,
        objectives=dict(
            fine=dict(loss=KL, reads=pair),
            lost=dict(
                loss=dict(type='EnsembleKLLoss'),
                reads=dict(student='student.logits', teachers=['t.logits', 'u.logits']),
            ),
        ),
    )
    assert has(report.errors, "objective 'lost'")
    assert [row[0] for row in report.tables['objectives'][1]] == ['task', 'fine']


def test_a_noise_that_changes_nothing_is_left_out(data_root: Path) -> None:
    noise = [dict(type='TeacherDropout')]
    report = diagnose_model(data_root, teacher=plain_teacher(), noise=noise)
    assert has(report.errors, 'TeacherDropout: teacher has')
    assert {'objectives', 'phases', 'cost'} <= set(report.tables)


def plain_teacher() -> dict:
    return dict(model=tiny.segmentor(8, dropout=0.0), allow_untrained=True)


def test_an_objective_that_is_called_like_a_member(data_root: Path) -> None:
    """What is wrong with one is no word about the other."""
    objectives = dict(teacher=dict(loss=dict(type='Nothing')), fine=dict(loss=KL, on='logits'))
    report = diagnose_model(data_root, objectives=objectives)
    assert has(report.errors, "objective 'teacher': loss: 'Nothing' is not registered")
    assert len(report.errors) == 1
    assert [row[0] for row in report.tables['objectives'][1]] == ['task', 'fine']


def test_a_broken_checkpoint_of_a_student_is_said_once(data_root: Path) -> None:
    student = dict(model=tiny.segmentor(4), checkpoint=str(data_root / 'nowhere.pth'))
    report = diagnose_model(data_root, student=student)
    assert len(report.errors) == 1
    assert has(report.errors, 'nowhere.pth')


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (dict(objectives=5), 'objectives must be a dict'),
        (dict(taps='logits'), 'taps must be a dict'),
        (dict(objectives=dict(a=3)), "objective 'a' must be a dict"),
        (
            dict(data_preprocessor='X'),
            "data_preprocessor must be a dictionary or a module, got 'X'",
        ),
    ],
)
def test_values_of_another_kind(data_root: Path, change: dict, expected: str) -> None:
    report = diagnose_model(data_root, **change)
    assert has(report.errors, expected), report.errors


def test_another_ignore_index_on_generated_data(data_root: Path) -> None:
    net = tiny.segmentor(4)
    net['decode_head']['ignore_index'] = 0
    report = diagnose_model(data_root, student=dict(model=net))
    assert report.errors == []


def test_teacher_of_another_architecture(data_root: Path) -> None:
    path = data_root / 'teacher.pth'
    torch.save(tiny.build(tiny.segmentor(4, _scope_='mmseg')).state_dict(), path)
    report = diagnose(
        config(
            data_root, tiny.distiller(teacher=dict(model=tiny.segmentor(8), checkpoint=str(path)))
        ),
        fake_data=True,
    )
    assert has(report.errors, 'of another shape')


@pytest.mark.bad_input
def test_weights_that_the_run_begins_with(data_root: Path) -> None:
    cfg = config(data_root)
    file = data_root / 'begin.pth'
    state = MODELS.build(copy.deepcopy(cfg.model)).state_dict()
    torch.save(dict(state_dict=state), file)

    def said() -> Report:
        return diagnose(config(data_root, load_from=str(file)), fake_data=True)

    assert not has(said().errors + said().warnings, 'load_from')
    name = next(name for name in state if name.startswith('students.'))
    state.pop(name)
    torch.save(dict(state_dict=state), file)
    assert has(said().warnings, rf'leaves 1 of \d+ weights .* as they were drawn: .*{name}')
    torch.save(dict(state_dict=dict(a=torch.ones(1))), file)
    assert has(said().errors, r'load_from=.* holds less than half of this model')
    file.unlink()
    assert has(said().errors, r'begin\.pth does not exist')


def test_unused_taps_are_a_warning(data_root: Path) -> None:
    model = tiny.distiller(
        student=dict(model=tiny.segmentor(4), taps=dict(extra='backbone.layer1')),
        taps=dict(
            logits='decode_head.conv_seg', feat='decode_head.bottleneck', rest='backbone.layer2'
        ),
    )
    report = diagnose(config(data_root, model), fake_data=True)
    assert report.ok
    assert has(report.warnings, "tap 'rest' is read by no objective")
    assert has(report.warnings, "tap 'extra' of student is read by no objective")


# ---------------------------------------------------------------- data


def test_missing_data_says_the_layout_and_the_rest_is_measured_on_generated_images(
    data_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    cfg = config(data_root)
    cfg.train_dataloader.dataset.data_root = 'data/nowhere'
    code, text = run_tool(cfg, capsys)
    assert code == 1
    assert 'train data is not there: data/nowhere/img_dir/train, data/nowhere/ann_dir/train' in text
    assert 'Expected: data/nowhere/ with img_dir/train/*.jpg ann_dir/train/*.png' in text
    assert 'generated images of (64, 64)' in text
    code, text = run_tool(cfg, capsys, '--fake-data')
    assert code == 0
    assert 'generated images of (64, 64)' in text


@pytest.mark.parametrize('divisor', [None, 32])
def test_a_size_of_the_images(
    data_root: Path, divisor: int | None, capsys: pytest.CaptureFixture
) -> None:
    """The data is read at its own size; taps and costs are those of the size that was asked for."""
    cfg = config(data_root)
    code, large = run_tool(cfg, capsys)
    if divisor:
        student = cfg.model.student.model
        student.data_preprocessor.update(size=None, size_divisor=divisor)
    assert code == 0, large
    code, small = run_tool(cfg, capsys, '--size', '16', '32')
    assert code == 0, small
    assert 'looked at 4 batches of 2' in ' '.join(small.replace('│', ' ').split())
    assert 'measured on generated images of (16, 32), not on data' in small
    sizes = [set(re.findall(r'\d+×\d+|\(\d+, \d+, \d+, \d+\)', text)) for text in (large, small)]
    assert sizes[0] != sizes[1]


def test_the_size_of_a_plain_model(data_root: Path) -> None:
    cfg = config(data_root, tiny.segmentor(4), param_scheduler=[])
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
    report = diagnose(cfg, size=(16, 32))
    assert has(report.notes, r'generated images of \(16, 32\)')
    assert report.ok, report.errors


def test_a_data_prefix_may_be_a_text(tmp_path: Path) -> None:
    """As mmpretrain's CustomDataset takes it."""
    report = Report()
    dataset = dict(type='BaseSegDataset', data_root=str(tmp_path), data_prefix='train')
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    assert check_folders(cfg, report) == {'train'}
    assert has(report.errors, f'train data is not there: {tmp_path}/train')
    (tmp_path / 'train').mkdir()
    assert check_folders(cfg, Report()) == set()


def test_missing_test_images_are_a_warning_and_a_missing_list_an_error(data_root: Path) -> None:
    cfg = config(data_root)
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    cfg.test_dataloader.dataset.data_root = 'data/nowhere'
    cfg.val_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=cfg.val_dataloader.dataset
    )
    cfg.val_dataloader.dataset.dataset.ann_file = 'split/val.txt'
    report = diagnose(cfg)
    assert has(report.warnings, 'test data is not there')
    assert has(report.errors, r'val data is not there: \S+split/val.txt')


def test_label_ids_out_of_range(data_root: Path) -> None:
    path = data_root / 'ann_dir' / 'train' / '3.png'
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    labels[20:30, 5] = 30
    cv2.imwrite(str(path), labels)
    report = diagnose(config(data_root), batches=4)  # the batches (0, 1), (2, 3) twice
    assert has(
        report.errors,
        r'labels hold the ids \[30\], but the student has 11 classes.*3\.png.*\[2 of 4 batches\]',
    )
    assert 'objectives' in report.tables  # on another batch
    assert not report.notes


def test_labels_of_nothing_but_void(data_root: Path) -> None:
    for path in (data_root / 'ann_dir' / 'train').iterdir():
        cv2.imwrite(str(path), np.full((64, 64), 255, np.uint8))
    report = diagnose(config(data_root), batches=2)
    assert has(report.errors, 'no valid position.*2 of 2 batches')
    assert table(report, 'data')['ignored labels']['value'] == '100.0 %'


def test_one_batch_of_nothing_but_void_is_no_error(data_root: Path) -> None:
    """The training goes on after it."""
    for name in ('0.png', '1.png'):
        cv2.imwrite(str(data_root / 'ann_dir' / 'train' / name), np.full((64, 64), 255, np.uint8))
    report = diagnose(config(data_root), batches=2)  # (0, 1), (2, 3)
    assert report.ok
    assert has(report.warnings, r'no valid position.*\(from .*0.png, .*1.png\).*1 of 2 batches')
    assert not report.notes  # measured on the other one


def test_classes_of_data_and_student(data_root: Path) -> None:
    model = tiny.distiller(
        student=dict(model=tiny.segmentor(4, num_classes=7)),
        teacher=dict(model=tiny.segmentor(8, num_classes=7), allow_untrained=True),
    )
    report = diagnose(config(data_root, model), batches=1)
    assert has(report.errors, "student 'student' has 7 classes, the training data 11")
    assert has(report.errors, r'labels hold the ids \[7, 8, 9, 10\], but the student has 7 classes')
    cfg = config(data_root, model)
    cfg.train_dataloader.dataset.metainfo = dict(classes=SEVEN)
    assert diagnose(cfg, fake_data=True).ok


def test_boxes_are_counted_and_their_labels_checked() -> None:
    def images(*labels: list[int]) -> dict:
        boxes = [InstanceData(labels=torch.tensor(own, dtype=torch.long)) for own in labels]
        samples = [BaseDataElement(gt_instances=own) for own in boxes]
        return dict(inputs=torch.zeros(0), data_samples=samples)

    report = Report()
    preprocessor = BaseDataPreprocessor()
    rows, good = check_labels(
        [images([0, 2, 2], []), images([1])], preprocessor, Detection(3), report
    )
    assert len(good) == 2
    assert rows == [
        ('boxes an image', '1.3'),
        ('images without boxes', '1 of 3'),
        ('classes seen', '3 of 3'),
    ]
    assert not report.errors
    check_labels([images([0, 3, 80])], preprocessor, Detection(3), report)
    assert has(
        report.errors,
        r'boxes have the labels \[3, 80\], but the student has 3 classes .*Mend: num_classes of .*'
        r'\[1 of 1 batches\]',
    )
    check_labels([images([], [])], preprocessor, Detection(3), report)
    assert len(report.errors) == 1, 'images without boxes are legal'
    assert has(
        report.warnings,
        r'none of the first 2 images has a box.*metainfo=dict\(classes=…\) of the data set',
    )
    rows, _ = check_labels([images([5])], preprocessor, Detection(), report)
    assert rows[-1] == ('classes seen', '1')
    assert len(report.errors) == 1, 'proposals have no classes'


def test_an_image_that_cannot_be_read(data_root: Path) -> None:
    for i in range(4):
        (data_root / 'img_dir' / 'train' / f'{i}.jpg').write_bytes(b'no image')
    assert has(diagnose(config(data_root)).errors, 'the training data cannot be read')


# ---------------------------------------------------------------- validation and test data


def val_of(root: Path, **changes: Any) -> Config:
    """Return a config whose validation reads in order; its images may be spoilt."""
    cfg = config(root)
    cfg.val_dataloader.update(
        dict(batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False)) | changes
    )
    return cfg


def test_every_broken_validation_file_is_an_error(data_root: Path) -> None:
    """The last image of all as well: the first validation would die there."""
    (data_root / 'ann_dir/val/3.png').write_bytes(b'no png')
    cfg = val_of(data_root)
    report = diagnose(cfg)
    assert report.errors == [
        f'the val data cannot be read: {data_root}/ann_dir/val/3.png cannot be read by '
        'LoadAnnotations: cannot identify image file. Mend: replace the file, or take it out of '
        'the data set'
    ]
    assert 'objectives' in report.tables  # training data is sound, and measured on
    assert not has(report.notes, 'generated images')
    report = diagnose(cfg, val_batches=1)
    assert report.ok
    assert has(report.notes, '2 of 4 validation images were read: the others may still be broken')
    assert diagnose(cfg, fake_data=True).ok, '--fake-data leaves all data alone'


def test_many_broken_files_are_one_error(data_root: Path) -> None:
    for i in range(4):
        (data_root / f'img_dir/val/{i}.jpg').write_bytes(b'')
    report = diagnose(val_of(data_root))
    assert len(report.errors) == 1
    assert has(
        report.errors,
        r'img_dir/val/0\.jpg cannot be read .*4 times; the next: .*val/1\.jpg .*val/2\.jpg',
    )


def test_validation_images_that_do_not_stack(data_root: Path) -> None:
    cv2.imwrite(str(data_root / 'img_dir/val/1.jpg'), np.zeros((64, 96, 3), np.uint8))
    cv2.imwrite(str(data_root / 'ann_dir/val/1.png'), np.zeros((64, 96), np.uint8))
    report = diagnose(val_of(data_root))
    assert has(
        report.errors,
        r'the val data does not make a batch: The image size in a batch should be the same .shapes '
        r'.3, 64, 64., .3, 64, 96... Mend: batch_size=1, or a Resize to one size',
    )
    assert diagnose(val_of(data_root, batch_size=1)).ok


def test_label_ids_of_the_validation(data_root: Path) -> None:
    path = data_root / 'ann_dir/val/2.png'
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    labels[20:30, 5] = 30
    cv2.imwrite(str(path), labels)
    cv2.imwrite(
        str(data_root / 'ann_dir/val/0.png'), np.full((64, 64), 255, np.uint8)
    )  # nothing but void is legal
    report = diagnose(val_of(data_root))
    assert len(report.errors) == 1
    assert has(
        report.errors,
        r'the val data has wrong labels: labels hold the ids \[30\].*ann_dir/val/2\.png',
    )


def test_labels_of_validation_sentences() -> None:
    """Labels lie as those of images do; the inputs tell the task, and not the samples."""
    student = nn.Module()
    student.num_classes, student.data_preprocessor = 2, TextDataPreprocessor()
    sentence = torch.ones(3, 4, dtype=torch.long)
    labels = [BaseDataElement(gt_label=torch.tensor([i])) for i in (0, 1, 5)]
    samples = [dict(inputs=sentence, data_samples=label) for label in labels]
    loader = SimpleNamespace(dataset=samples, collate_fn=pseudo_collate)
    reader = _Reader(loader, Wiring(students=dict(student=student)))
    reader.read(range(3))
    assert reader.problems.keys() == {'has wrong labels'}
    (text,) = reader.problems['has wrong labels']
    assert text.startswith('labels hold the ids [5], but the student has 2 classes')


def test_no_validation_images(data_root: Path) -> None:
    for path in (data_root / 'img_dir/val').iterdir():
        path.unlink()
    assert has(
        diagnose(val_of(data_root)).errors,
        r'the val data cannot be read: CamVid found no \*\.jpg in ',
    )


def test_broken_test_images_are_a_warning(data_root: Path) -> None:
    """Training never opens them; labels there need not be."""
    cfg = val_of(data_root)
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    cfg.test_dataloader.dataset.pipeline.pop(1)
    cfg.test_cfg, cfg.test_evaluator = dict(), cfg.val_evaluator
    assert diagnose(cfg).ok
    (data_root / 'img_dir/test').mkdir()
    sound = (data_root / 'img_dir/val/0.jpg').read_bytes()
    for i in range(4):
        (data_root / f'img_dir/test/{i}.jpg').write_bytes(b'no image' if i else sound)
    cfg.test_dataloader.dataset.data_prefix = dict(img_path='img_dir/test')
    report = diagnose(cfg)
    assert report.ok
    assert has(report.warnings, r'the test data cannot be read: .*img_dir/test/1\.jpg.*3 times')


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('train_dataloader.batch_size', 0),
        ('val_dataloader.batch_size', '2'),
        ('train_cfg.max_iters', 0),
        ('train_cfg.val_interval', 0),
    ],
)
def test_settings_are_checked(data_root: Path, key: str, value: Any) -> None:
    cfg = val_of(data_root)
    cfg.merge_from_dict({key: value})
    assert has(
        diagnose(cfg, fake_data=True).errors,
        f'{key} must be a whole number of at least 1, got {value!r}',
    )
    assert has(diagnose(cfg).errors, f'{key} must be a whole number of at least 1, got {value!r}')


# ---------------------------------------------------------------- weights that cannot be fetched

SEGFORMER = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError('no network')

    monkeypatch.setattr('mmengine.runner.checkpoint.CheckpointLoader.load_checkpoint', refuse)


def test_the_key_of_weights_that_cannot_be_fetched_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A segformer keeps them in its backbone; the mend is pasted, and works."""
    offline(monkeypatch)
    size = {'model.data_preprocessor.size': (64, 64)}
    model = dict(
        type='mmkd.Distiller',
        student=dict(cfg=SEGFORMER, cfg_options=size),
        teacher=dict(model=tiny.segmentor(8, num_classes=150), allow_untrained=True),
        taps=dict(logits='decode_head.conv_seg'),
        objectives=dict(
            pixel=dict(
                loss=dict(type='PixelWiseKLLoss'), on='logits', connectors=dict(teacher='auto')
            )
        ),
    )
    cfg = Config(dict(model=model, randomness=dict(seed=0), default_scope='mmseg'))
    mend = "student=dict(…, cfg_options={'model.backbone.init_cfg': None})"
    report = diagnose(cfg, fake_data=True, device='cpu')
    (text,) = [text for text in report.errors if 'init_weights' in text]
    assert (
        text
        == f'init_weights: no network. Mend: fetch these weights, or start without them: {mend}'
    )
    cfg.model.student.cfg_options.update(eval(mend.partition('cfg_options=')[2][:-1]))
    assert not has(diagnose(cfg, fake_data=True, device='cpu').errors, 'init_weights')


@pytest.mark.parametrize(
    ('changes', 'option'),
    [
        (dict(pretrained='open-mmlab://resnet18_v1c'), 'model.pretrained=None'),
        (
            dict(
                backbone=dict(
                    tiny.segmentor(4)['backbone'],
                    init_cfg=dict(type='Pretrained', checkpoint='torchvision://x'),
                )
            ),
            'model.backbone.init_cfg=None',
        ),
    ],
)
def test_of_a_plain_model(
    data_root: Path, changes: dict, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch)
    cfg = config(data_root, tiny.segmentor(4, **changes))
    (text,) = [
        text
        for text in diagnose(cfg, fake_data=True, device='cpu').errors
        if 'init_weights' in text
    ]
    assert text.endswith(f'or start without them: --cfg-options {option}')
    key, _, value = option.partition('=')
    cfg.merge_from_dict({key: DictAction._parse_iterable(value)})
    assert diagnose(cfg, fake_data=True, device='cpu').ok


# ---------------------------------------------------------------- the run around the model


@pytest.mark.parametrize(
    ('overrides', 'level', 'expected'),
    [
        (dict(randomness=dict(seed=None)), 'warnings', 'no seed is set'),
        (
            dict(randomness=dict(), custom_hooks=[dict(type='mmkd.ExactResumeHook')]),
            'errors',
            'no seed is set.*ExactResumeHook',
        ),
        (
            dict(auto_scale_lr=dict(base_batch_size=8)),
            'warnings',
            'a batch of 8, one device sees 2. Mend: train on 4 devices',
        ),
        (
            dict(auto_scale_lr=dict(base_batch_size=3)),
            'warnings',
            'a batch of 3, one device sees 2. Mend: train with --auto-scale-lr .*x 0.666667.',
        ),
        (
            dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=80)),
            'warnings',
            '100 iterations, but training takes 80',
        ),
        (
            dict(param_scheduler=dict(studnt=[])),
            'errors',
            "optimizer 'studnt'; did you mean 'student'",
        ),
        (
            dict(optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SDG', lr=1.0))),
            'errors',
            "no optimizer 'SDG'; did you mean 'SGD'",
        ),
        (
            dict(
                optim_wrapper=dict(
                    constructor='mmkd.PhaseOptimWrapperConstructor',
                    student=dict(
                        type='OptimWrapper',
                        optimizer=dict(type='SGD', lr=1.0),
                        params=['objectives'],
                    ),
                )
            ),
            'errors',
            'names no parameter',
        ),
        (
            dict(
                optim_wrapper=dict(
                    constructor='mmkd.PhaseOptimWrapperConstructor',
                    student=dict(
                        type='OptimWrapper',
                        optimizer=dict(type='SGD', lr=1.0),
                        params=['students.student.backbone.'],
                    ),
                )
            ),
            'warnings',
            'no optimizer holds .* trainable parameters: students.student.decode_head',
        ),
        (
            dict(
                optim_wrapper=dict(
                    type='AmpOptimWrapper', loss_scale='dynamic', optimizer=dict(type='SGD', lr=1.0)
                )
            ),
            'notes',
            'AmpOptimWrapper needs a GPU',
        ),
    ],
)
def test_each_problem_around_the_model(
    data_root: Path, overrides: dict, level: str, expected: str
) -> None:
    report = diagnose(config(data_root, **overrides), fake_data=True, device='cpu')
    assert has(getattr(report, level), expected), vars(report)
    assert report.ok is (level != 'errors')


def test_a_critic_needs_an_optimizer(data_root: Path) -> None:
    model = tiny.distiller(objectives=tiny.objectives(holistic=tiny.holistic()))
    cfg = config(data_root, model)
    cfg.optim_wrapper.pop('critic')
    assert has(diagnose(cfg, fake_data=True).errors, "needs the optimizer 'critic'")


def test_no_advice_to_scale_what_mmengine_scales_wrongly(data_root: Path) -> None:
    """Gradients are added up over 4 batches of 2, which --auto-scale-lr does not count."""
    cfg = config(data_root, auto_scale_lr=dict(base_batch_size=16))
    cfg.optim_wrapper.student.accumulative_counts = 4
    expected = 'one device sees 8. Mend: train on 2 devices, or with a learning rate .now x 0.5.'
    assert has(diagnose(cfg, fake_data=True, device='cpu').warnings, expected)


def test_phase_table(data_root: Path) -> None:
    model = tiny.distiller(objectives=tiny.objectives(holistic=tiny.holistic()))
    cfg = config(data_root, model)
    cfg.optim_wrapper.student.accumulative_counts = 3
    cfg.optim_wrapper.critic.accumulative_counts = 3
    report = diagnose(cfg, fake_data=True)
    rows = table(report, 'phases')
    assert rows['student']['lr'] == '0.01'
    assert rows['student']['weight decay'] == '0.0005'
    assert rows['student']['accumulates'] == 3
    assert rows['student']['steps on'] == 'task losses, pixel, pair, holistic'
    assert rows['critic']['steps on'] == 'critic of holistic'
    number = sum(p.numel() for p in tiny.build(tiny.segmentor(4, _scope_='mmseg')).parameters())
    assert rows['student']['parameters'] == f'{number / 1e3:.1f} k'
    assert table(report, 'run')['effective batch size on one device']['value'] == 6


def test_norms_on_a_cpu_and_with_one_image(data_root: Path) -> None:
    model = tiny.distiller(student=dict(model=tiny.segmentor(4, norm='SyncBN')))
    cfg = config(data_root, model)
    cfg.train_dataloader.batch_size = 1
    report = diagnose(cfg, fake_data=True, batch_size=2, device='cpu')
    assert report.ok
    assert has(report.warnings, 'SyncBN cannot run on a CPU')
    assert has(report.warnings, 'BatchNorm with one image on a device')


def test_a_disk_too_small(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('shutil.disk_usage', lambda path: SimpleNamespace(free=10**6))
    cfg = config(
        data_root,
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=10, max_keep_ckpts=3)
        ),
    )
    assert has(
        diagnose(cfg, fake_data=True).warnings,
        r'5 checkpoints of \d MiB need 0.0 GiB, but .* has 0.0 GiB free',
    )


@pytest.mark.parametrize(
    ('hook', 'loop', 'files'),
    [
        (dict(by_epoch=False, interval=1000), dict(max_iters=40000), 42),
        (dict(by_epoch=False, interval=1000, max_keep_ckpts=5), dict(max_iters=40000), 7),
        (dict(by_epoch=False, interval=1000, max_keep_ckpts=50), dict(max_iters=40000), 42),
        (dict(by_epoch=False, interval=-1), dict(max_iters=40000), 3),
        (dict(by_epoch=False), dict(max_iters=40000), 12),  # as the validation: 4000
        (dict(interval=1), dict(by_epoch=True, max_epochs=100), 102),
    ],
)
def test_how_many_checkpoints_a_run_keeps(
    hook: dict, loop: dict, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('shutil.disk_usage', lambda path: SimpleNamespace(free=0))
    report = Report()
    hooks = dict(checkpoint=dict(type='CheckpointHook', **hook))
    loop = dict(val_interval=4000) | loop
    check_disk(Config(dict(train_cfg=loop, default_hooks=hooks)), 1, report)
    assert has(report.warnings, f'^{files} checkpoints of')


def test_an_unfinished_schedule_is_told_and_a_warm_up_is_none(data_root: Path) -> None:
    warm_up = dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=10)
    steps = dict(type='MultiStepLR', by_epoch=False, milestones=[50], end=60)
    decay = dict(type='PolyLR', by_epoch=False, end=60)
    for schedule, told in (([warm_up], False), ([warm_up, steps], False), ([warm_up, decay], True)):
        cfg = config(data_root, param_scheduler=schedule)
        cfg.train_cfg.max_iters = 100
        said = diagnose(cfg, fake_data=True, device='cpu').warnings
        assert has(said, 'scheduled for 60 iterations') is told, said


def test_pixels_said_at_the_top_of_a_config_are_the_models(data_root: Path) -> None:
    """mmengine's Runner hands them down, and so does the doctor."""
    cfg = config(data_root, tiny.segmentor(4))
    cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    report = diagnose(cfg, fake_data=True, device='cpu')
    assert report.ok, report.errors


def test_a_rate_that_is_scaled_already_needs_no_advice(data_root: Path) -> None:
    cfg = config(data_root, auto_scale_lr=dict(base_batch_size=8, enable=True))
    assert not has(diagnose(cfg, fake_data=True, device='cpu').warnings, 'learning rate is meant')
    cfg.optim_wrapper.student.accumulative_counts = 2
    assert has(diagnose(cfg, fake_data=True).errors, '.*accumulative_counts=2: the learning rate')


@pytest.mark.bad_input
def test_nothing_to_tap_and_nothing_to_train() -> None:
    assert has(list_taps(Config(dict(a=1))).errors, "no 'model', so there is nothing to tap")
    report = diagnose(Config(dict(train_dataloader=None)), fake_data=True)
    assert has(report.errors, "the config has no 'train_dataloader'")


def test_a_plain_model(data_root: Path) -> None:
    report = diagnose(config(data_root, tiny.segmentor(4)))
    assert report.ok
    assert has(report.notes, 'nothing is distilled')
    assert {'phases', 'cost', 'data'} <= set(report.tables)
    assert not diagnose(config(data_root, tiny.segmentor(4, head='NoHead'))).ok


def test_what_every_config_needs() -> None:
    report = diagnose(Config(dict(randomness=dict(seed=0))))
    assert [re.search(r"no '(\w+)'", text)[1] for text in report.errors] == [
        'model',
        'train_dataloader',
        'optim_wrapper',
        'train_cfg',
    ]


def test_a_config_that_is_not_there(data_root: Path, capsys: pytest.CaptureFixture) -> None:
    cfg = config(data_root)
    cfg.dump(str(data_root / 'config_a.py'))
    assert main(['doctor', str(data_root / 'config_b.py')]) == 1
    assert "did you mean 'config_a.py'" in ' '.join(capsys.readouterr().out.split())


def test_the_config_is_left_as_it_is(data_root: Path) -> None:
    cfg = config(
        data_root, param_scheduler=dict(student=[dict(type='PolyLR', end=100, by_epoch=False)])
    )
    before = cfg.pretty_text
    diagnose(cfg)
    assert cfg.pretty_text == before


# ---------------------------------------------------------------- teachers


class Oracle(nn.Module):
    """A teacher that knows: it answers with the labels, or always with class 0."""

    def __init__(self, right: bool) -> None:
        super().__init__()
        self.right = right
        self.head = nn.Conv2d(3, 11, 1)

    def forward(self, inputs: Tensor, data_samples: list, mode: str) -> Any:
        if mode == 'tensor':
            return self.head(inputs)
        for sample in data_samples:
            labels = sample.gt_sem_seg.data
            answer = labels.clamp(max=10) if self.right else torch.zeros_like(labels)
            sample.pred_sem_seg = type(sample.gt_sem_seg)(data=answer)
        return data_samples


@pytest.mark.parametrize('right', [True, False])
def test_quality_of_teachers(data_root: Path, right: bool) -> None:
    from mmkd.registry import MODELS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS._module_dict, 'Oracle', Oracle)
        model = tiny.distiller(
            teacher=dict(
                model=dict(type='mmkd.Oracle', right=right),
                allow_untrained=True,
                taps=dict(logits='head'),
            ),
            objectives=tiny.objectives(
                pair=None,
                pixel=dict(
                    loss=dict(type='PixelWiseKLLoss'), on='logits', connectors=dict(student='auto')
                ),
            ),
        )
        report = diagnose(config(data_root, model), evaluate=2)
    quality = table(report, 'members')['teacher']['quality']
    assert quality.endswith('on 2 batches')
    assert ('mIoU 100,' in quality) is right
    assert has(report.errors, 'hardly better than chance') is (not right)


@pytest.mark.parametrize(
    'evaluator',
    [
        dict(type='IoUMetric'),
        [dict(type='IoUMetric')],
        dict(metrics=[dict(type='IoUMetric')]),
        dict(type='Evaluator', metrics=dict(type='IoUMetric')),
    ],
)
def test_evaluators_as_the_runner_reads_them(data_root: Path, evaluator: Any) -> None:
    cfg = config(
        data_root,
        custom_hooks=[dict(type='mmkd.TeacherCheckHook', minimum=dict(mIoU=60))],
        default_hooks=dict(checkpoint=dict(type='mmkd.SafeCheckpointHook', save_best='miou')),
        val_evaluator=evaluator,
    )
    report = diagnose(cfg, evaluate=1)
    assert has(report.errors, 'below the minimum 60')
    assert has(report.errors, "save_best='miou', which the validation does not report")
    assert cfg.val_evaluator == evaluator


def test_evaluate_needs_data(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(['doctor', 'x.py', '--evaluate', '2', '--fake-data'])
    assert stopped.value.code == 2
    assert 'needs the validation data' in capsys.readouterr().err


def test_a_schedule_without_an_end_lasts_as_long_as_the_run() -> None:
    report = Report()
    cfg = read_config('mmkd::demo/student.py')
    check_run(cfg, report)
    assert not any('is scheduled for' in warning for warning in report.warnings)
    cfg.param_scheduler[1].end = 900
    check_run(cfg, report)
    assert any('is scheduled for 900 iterations' in warning for warning in report.warnings)


def with_unlabelled(root: Path, model: dict, labelled: int = 4, unlabelled: int = 4) -> Config:
    """Return a config whose images stand once with labels and once without."""
    cfg = config(root, model)
    loader = cfg.train_dataloader
    loader.dataset = dict(
        type='mmkd.WithUnlabelled',
        dataset=loader.dataset,
        unlabelled=dict(data_root=str(root / 'img_dir' / 'train')),
    )
    loader.batch_size = 8
    loader.sampler = dict(type='mmkd.MixedSampler', labelled=labelled, unlabelled=unlabelled)
    return cfg


def test_images_without_labels_are_counted_and_measured(data_root: Path) -> None:
    report = diagnose(with_unlabelled(data_root, tiny.distiller()))
    assert not report.errors
    rows = table(report, 'data')
    assert rows['training samples']['value'] == 8
    assert rows['without labels']['value'] == '4 of 8'
    assert rows['in a batch']['value'] == '4 with labels, 4 without'
    assert rows['looked at']['value'] == '4 batches of 4'
    # half of the pixels that were looked at have no labels, and a sixteenth of the others is void
    assert rows['ignored labels']['value'] == '53.1 %'
    cfg = with_unlabelled(data_root, tiny.distiller())
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    rows = table(diagnose(cfg), 'data')
    assert rows['in a batch']['value'] == 'about 4.0 of 8'


@pytest.mark.bad_input
def test_images_without_labels_that_are_of_no_use(data_root: Path) -> None:
    model = tiny.distiller(objectives=tiny.objectives(pair=None))
    model['objectives']['pixel']['reads'] = dict(mask='batch.valid')
    report = diagnose(with_unlabelled(data_root, model))
    assert has(report.errors, '4 training images have no labels, and no objective learns from them')
    report = diagnose(with_unlabelled(data_root, tiny.distiller(), 4, 5))
    assert has(
        report.errors, r'MixedSampler\(labelled=4, unlabelled=5\) does not sum to train_data'
    )
    report = diagnose(with_unlabelled(data_root, tiny.distiller(), 1, 7))
    assert has(report.warnings, 'one of a kind beside images without labels')
