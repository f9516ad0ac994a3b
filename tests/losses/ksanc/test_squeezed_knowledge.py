"""SqueezedKnowledgeLoss by value."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from references.ksanc import cross_entropy, distance, squeeze
from torch import Tensor, nn

from mmkd.losses import SqueezedKnowledgeLoss, squeezed_knowledge
from mmkd.registry import build_part

STUDENT, TEACHER, DS, DT = [2, 3], [4, 5], 6, 7


def make(**options: Any) -> SqueezedKnowledgeLoss:
    return SqueezedKnowledgeLoss(STUDENT, TEACHER, DS, DT, **options).double()


def inputs(n: int = 3, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Stages whose sizes differ, between the networks too."""

    def stages(channels: list[int], *sizes: tuple[int, int]) -> list[Tensor]:
        return [
            torch.randn(n, c, *s, dtype=dtype).requires_grad_()
            for c, s in zip(channels, sizes, strict=True)
        ]

    return dict(
        student=stages(STUDENT, (4, 3), (2, 2)),
        teacher=stages(TEACHER, (4, 3), (3, 2)),
        student_global=torch.randn(n, DS, dtype=dtype).requires_grad_(),
        teacher_global=torch.randn(n, DT, dtype=dtype).requires_grad_(),
    )


def sides(loss: SqueezedKnowledgeLoss) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of the student's side, and of the teacher's with its classifier."""
    teacher = [
        *loss.teacher_estimators.parameters(),
        *(loss.classifier.parameters() if loss.classifier else ()),
    ]
    return list(loss.student_estimators.parameters()), teacher


def gradients(value: Tensor, parameters: list) -> list[Tensor]:
    return list(
        torch.autograd.grad(
            value, parameters, allow_unused=True, materialize_grads=True, retain_graph=True
        )
    )


def descriptors(loss: SqueezedKnowledgeLoss, x: dict[str, Any]) -> tuple[list, list]:
    """The equations, image by image; by stage, image, channel."""
    found = []
    for side, estimators in (
        ('student', loss.student_estimators),
        ('teacher', loss.teacher_estimators),
    ):
        stages = []
        for estimator, maps in zip(estimators, x[side], strict=True):
            g = x[f'{side}_global']
            layers = [
                None if m is None else (m.weight.detach(), m.bias.detach())
                for m in (estimator.descriptor, estimator.transform)
            ]
            blank = (
                torch.zeros(len(estimator.score.weight[0]), g.shape[1]),
                torch.zeros(estimator.score.in_features),
            )
            stages.append(
                [
                    squeeze(
                        maps[i].detach(),
                        g[i].detach(),
                        estimator.score.weight.detach(),
                        layers[0] or blank,
                        layers[1],
                        loss.multiply,
                        loss.pooling,
                    )
                    for i in range(len(maps))
                ]
            )
        found.append(stages)
    return found[0], found[1]


# ---- values ----


@pytest.mark.parametrize('pooling', ['sum', 'avg'])
@pytest.mark.parametrize('multiply', ['fused', 'feature'])
def test_equals_the_equations(multiply: str, pooling: str) -> None:
    loss, x = make(multiply=multiply, pooling=pooling, loss_weight=3.0), inputs()
    assert loss(**x).item() == pytest.approx(3 * distance(*descriptors(loss, x)), rel=1e-10)
    assert loss.diagnostics['squeezed'].item() == pytest.approx(
        distance(*descriptors(loss, x)), rel=1e-10
    )


def test_the_function_by_hand() -> None:
    student, teacher = (
        [torch.zeros(2, 2), torch.ones(2, 1)],
        [torch.ones(2, 2), torch.tensor([[1.0], [4.0]])],
    )
    assert squeezed_knowledge(student, teacher).item() == (2 + 2 + 0 + 9) / 2


@pytest.mark.parametrize('kind', ['image', 'pixel'])
def test_the_task_is_added_by_value(kind: str) -> None:
    loss, x = make(num_classes=3, loss_weight=0.5), inputs()
    labels = torch.tensor([2, 0, 1])
    if kind == 'pixel':
        labels = torch.full((3, 2, 2), 255)
        labels[0, 0], labels[1, 1, 1] = (
            2,
            0,
        )  # only class 2, only class 0, nothing: that image does not count
        labels[0, 1, 1] = 1
    s, t = descriptors(loss, x)
    logits = [
        loss.classifier(torch.tensor(t[0][i] + t[1][i], dtype=torch.float64)).tolist()
        for i in range(3)
    ]
    if kind == 'image':
        task = sum(cross_entropy(v, y) for v, y in zip(logits, labels.tolist(), strict=True)) / 3
    else:
        present = [[0, 1, 1], [1, 0, 0]]  # a class is a choice of (0, z): present or not
        task = (
            sum(
                cross_entropy([0.0, z], p)
                for v, q in zip(logits, present, strict=False)
                for z, p in zip(v, q, strict=True)
            )
            / 6
        )
    value = loss(**x, labels=labels)
    assert value.item() == pytest.approx(0.5 * distance(s, t) + task, rel=1e-10)
    assert loss.diagnostics['estimator_task'].item() == pytest.approx(task, rel=1e-10)
    assert not any('loss' in key for key in loss.diagnostics)  # mmengine would sum it


def test_ignored_images_are_left_out_of_the_task() -> None:
    loss, x = make(num_classes=3), inputs()
    loss(**x, labels=torch.tensor([2, -100, 1]))
    part = {k: [m[[0, 2]] for m in v] if isinstance(v, list) else v[[0, 2]] for k, v in x.items()}
    one = loss.diagnostics['estimator_task']
    loss(**part, labels=torch.tensor([2, 1]))
    torch.testing.assert_close(one, loss.diagnostics['estimator_task'])


def test_zero_with_zero_gradient_for_equal_networks() -> None:
    loss = SqueezedKnowledgeLoss(TEACHER, TEACHER, DT, DT).double()
    for s, t in zip(loss.student_estimators, loss.teacher_estimators, strict=True):
        s.load_state_dict(t.state_dict(), strict=False)
        nn.init.eye_(s.transform.weight)
        nn.init.zeros_(s.transform.bias)
    x = inputs()
    student = [m.detach().clone().requires_grad_() for m in x['teacher']]
    value = loss(student, x['teacher'], x['teacher_global'].detach(), x['teacher_global'])
    assert value.item() < 1e-28
    assert all(g.abs().max() < 1e-14 for g in gradients(value, [*student, *sides(loss)[0]]))


@pytest.mark.parametrize('pooling', ['sum', 'avg'])
def test_no_stage_vanishes_by_its_size(pooling: str) -> None:
    """Maps tiled to 4 times the sides: a sum stays as it was, an average loses 16² of its
    distance.
    """
    loss, x = make(pooling=pooling), inputs()
    tiled = x | {k: [m.repeat(1, 1, 4, 4) for m in x[k]] for k in ('student', 'teacher')}
    torch.testing.assert_close(loss(**tiled), loss(**x) / (1 if pooling == 'sum' else 16**2))


def test_order_and_copies_of_images_do_not_matter() -> None:
    loss, x = make(num_classes=3), inputs()
    labels, order = torch.tensor([2, 0, 1]), [2, 0, 1, 2, 1, 0]
    mixed = {k: [m[order] for m in v] if isinstance(v, list) else v[order] for k, v in x.items()}
    torch.testing.assert_close(loss(**mixed, labels=labels[order]), loss(**x, labels=labels))


def test_a_global_map_is_averaged() -> None:
    loss, x = make(), inputs()
    wide = x | {
        k: torch.randn(3, d, 2, 5, dtype=torch.float64)
        for k, d in (('student_global', DS), ('teacher_global', DT))
    }
    means = wide | {k: wide[k].mean((2, 3)) for k in ('student_global', 'teacher_global')}
    torch.testing.assert_close(loss(**wide), loss(**means))


@pytest.mark.parametrize('multiply', ['fused', 'feature'])
def test_gradcheck(multiply: str) -> None:
    loss, x = make(num_classes=3, multiply=multiply), inputs(2)
    rest, labels = {k: x[k] for k in ('teacher', 'teacher_global')}, torch.tensor([0, 2])
    assert torch.autograd.gradcheck(
        lambda a, b, g: loss([a, b], **rest, student_global=g, labels=labels),
        (*x['student'], x['student_global']),
    )


@pytest.mark.parametrize(('side', 'term'), [(0, 'squeezed'), (1, 'estimator_task')])
def test_each_side_has_the_slope_of_its_own_term(side: int, term: str) -> None:
    loss, x, labels = make(num_classes=3), inputs(), torch.tensor([0, 2, 1])
    parameters = sides(loss)[side]
    directions = [torch.randn_like(p) for p in parameters]
    slopes = gradients(loss(**x, labels=labels), parameters)
    slope = sum((d * g).sum() for d, g in zip(directions, slopes, strict=True))
    values = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += step * d
        loss(**x, labels=labels)
        values.append(loss.diagnostics[term])
    torch.testing.assert_close((values[0] - values[1]) / 2e-6, slope, rtol=1e-6, atol=0)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    loss, x = make(num_classes=3).float(), inputs(dtype=dtype)
    x['student'] = [300 * m for m in x['student']]  # its square is no float16
    labels = torch.tensor([0, 1, 2])
    wide = {k: [m.float() for m in v] if isinstance(v, list) else v.float() for k, v in x.items()}
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(**x, labels=labels)
    assert value.dtype == torch.float32
    assert value == loss(**wide, labels=labels)
    assert value.isfinite()
    assert torch.autograd.grad(value, x['student_global'])[0].dtype == dtype


def test_float64_stays_float64_under_float32_weights() -> None:
    loss, x = make().float(), inputs()
    value = loss(**x)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, loss.double()(**x), rtol=1e-12, atol=0)


# ---- the teacher's side cannot collapse ----


def test_the_distance_moves_nothing_of_the_teacher() -> None:
    loss, x = make(num_classes=3), inputs()
    student, teacher = sides(loss)
    value = loss(**x, labels=torch.tensor([2, 0, 1]))
    task = loss._task(
        loss.classifier(
            torch.cat(
                [
                    e(m.detach(), x['teacher_global'].detach())
                    for e, m in zip(loss.teacher_estimators, x['teacher'], strict=True)
                ],
                1,
            )
        ),
        torch.tensor([2, 0, 1]),
    )
    distance_ = squeezed_knowledge(
        *(
            [e(m, x[f'{k}_global']) for e, m in zip(estimators, x[k], strict=True)]
            for k, estimators in (
                ('student', loss.student_estimators),
                ('teacher', loss.teacher_estimators),
            )
        )
    )
    torch.testing.assert_close(value, distance_ + task)
    assert all((g == 0).all() for g in gradients(distance_, teacher))
    torch.testing.assert_close(gradients(value, teacher), gradients(task, teacher))
    assert all(g.abs().sum() > 0 for g in gradients(value, teacher))  # the task does reach it
    assert all((g == 0).all() for g in gradients(task, student))
    torch.testing.assert_close(gradients(value, student), gradients(distance_, student))
    assert all(g.abs().sum() > 0 for g in gradients(value, student))
    assert all((g == 0).all() for g in gradients(value, [*x['teacher'], x['teacher_global']]))
    assert all(g.abs().sum() > 0 for g in gradients(value, [*x['student'], x['student_global']]))
    loss.loss_weight = 1e9  # not a bit of the distance is in the teacher's gradient
    assert all(
        map(
            torch.equal,
            gradients(loss(**x, labels=torch.tensor([2, 0, 1])), teacher),
            gradients(value, teacher),
        )
    )


def test_without_a_task_the_estimators_of_the_teacher_are_frozen() -> None:
    loss, x = make(), inputs()
    before = {k: v.clone() for k, v in loss.teacher_estimators.state_dict().items()}
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss(**x).backward()
        optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in loss.teacher_estimators.state_dict().items())
    assert loss.classifier is None
    assert not any(p.requires_grad for p in loss.teacher_estimators.parameters())


def test_training_keeps_the_descriptors_of_the_teacher_apart() -> None:
    """They learn the task, and to the last bit the same under a distance that weighs a thousand
    times as much.
    """
    n, labels = 30, torch.arange(30) % 3
    teacher = [torch.randn(n, c, 3, 3) + 2 * F.one_hot(labels, c)[..., None, None] for c in TEACHER]
    x = dict(
        student=[torch.randn(n, c, 3, 3) for c in STUDENT],
        teacher=teacher,
        student_global=torch.randn(n, DS),
        teacher_global=torch.randn(n, DT),
    )

    def train(weight: float) -> tuple[float, float, float, dict]:
        torch.manual_seed(0)
        loss = make(num_classes=3, loss_weight=weight).float()
        optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
        spreads, tasks = [], []
        for _ in range(25):
            optimizer.zero_grad()
            loss(**x, labels=labels).backward()
            with torch.no_grad():
                spreads.append(
                    sum(
                        e(m, x['teacher_global']).var(0).sum().item()
                        for e, m in zip(loss.teacher_estimators, teacher, strict=True)
                    )
                )
            tasks.append(loss.diagnostics['estimator_task'].item())
            optimizer.step()
        return spreads[-1] / spreads[0], tasks[0], tasks[-1], loss.teacher_estimators.state_dict()

    kept, first, last, state = train(1.0)
    assert kept > 0.8
    assert last < 0.1 < 1 < first
    assert all(torch.equal(v, state[k]) for k, v in train(1000.0)[-1].items())


# ---- building and wiring: see also test_squeezed_wiring.py ----


def test_what_is_not_given_is_built_from_the_maps() -> None:
    loss = build_part(dict(type='SqueezedKnowledgeLoss', num_classes=3, student_channels=STUDENT))
    x = inputs(dtype=torch.float32)
    with pytest.raises(
        RuntimeError, match=r'the estimators are not built.*student_global_channels=…, .* or build'
    ):
        loss(**x, labels=torch.tensor([0, 1, 2]))
    assert loss.build(**x) == 'attention estimators of stages [2, 3] -> [4, 5] channels'
    assert loss.build(**x) == ''
    torch.manual_seed(1)
    given = SqueezedKnowledgeLoss(STUDENT, TEACHER, DS, DT, num_classes=3)
    given.load_state_dict(loss.state_dict())
    labels = torch.tensor([0, 1, 2])
    assert given(**x, labels=labels) == loss(**x, labels=labels)
    assert "the teacher's stay as drawn" in SqueezedKnowledgeLoss().build(**x)


def test_refusals() -> None:
    loss, x = make(num_classes=3), inputs()
    labels = torch.tensor([0, 1, 2])

    def refuse(
        match: str, error: type[Exception] = ValueError, module: nn.Module = loss, **change: Any
    ) -> None:
        with pytest.raises(error, match=match):
            module(**x | dict(labels=labels) | change)

    refuse('student has 2 stages, teacher 1; mend: lists of one length', teacher=x['teacher'][:1])
    refuse(
        r'student must be a list of maps, one a stage, got Tensor; mend: '
        r"reads=dict\(student=\['student.stage1'",
        TypeError,
        student=x['student'][0],
    )
    refuse(
        r'teacher needs maps \(N, F, H, W\), got .*\(3, 4\)',
        teacher=[torch.zeros(3, 4), x['teacher'][1]],
    )
    refuse(
        r'student has stages of \[3, 2\] channels, but the estimators are of \[2, 3\]; mend: '
        r'student_channels=\[3, 2\]',
        student=x['student'][::-1],
    )
    refuse(
        r'teacher_global must be a descriptor \(3, 7\) or a map of so many channels, got \(3, 6\); '
        r'mend: teacher_gl',
        teacher_global=x['student_global'],
    )
    refuse(
        r'differ in their number of images: student \[3, 2\]',
        student=[x['student'][0], x['student'][1][:2]],
    )
    refuse(r"none were given; mend: reads=dict\(labels='batch.labels'\)", labels=None)
    refuse('labels were given, but there is no classifier .*mend: num_classes', module=make())
    refuse(r'labels must be \(3,\) or \(3, H, W\), got \(2,\)', labels=labels[:2])
    refuse(
        r'labels hold the ids \[10\], but num_classes=3 \(0 … 2; -100 is ignored\); mend: '
        r'num_classes',
        labels=torch.tensor([0, 1, 10]),
    )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(multiply='fuse'), "multiply must be one of .*did you mean 'fused'"),
        (dict(pooling='max'), "pooling must be one of .*got 'max'"),
        (dict(num_classes=1), 'num_classes must be a whole number of at least 2, got 1'),
        (
            dict(student_channels=[1, 2, 3], teacher_channels=[1, 2]),
            'student_channels has 3 stages, teacher_channels 2; mend: lists of one length, stage '
            'beside stage',
        ),
        (dict(student_channels=[], teacher_channels=[]), 'student_channels has 0 stages'),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SqueezedKnowledgeLoss(**options)
