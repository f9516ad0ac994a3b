"""SqueezedKnowledgeLoss and KSANC's critic through Objective and Distiller: lists of stages,
optimizers, images.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import runs
from helpers.tiny import NUM_CLASSES, batch, build, distiller
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkd.distiller.objectives.objective import Objective
from mmkd.engine.optimizers.phase_constructor import PhaseOptimWrapperConstructor
from mmkd.losses import Loss
from mmkd.structures.batch import Batch

STAGES = ['stage1', 'stage2', 'stage3']
TAPS = dict(logits='head.fc', pooled='head.fc:input') | {
    s: f'backbone.layer{i}' for i, s in enumerate(STAGES, 1)
}
SGD = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05))
ADAM = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-2))


def squeezed(**options: Any) -> dict:
    return dict(
        loss=dict(type='SqueezedKnowledgeLoss', num_classes=3) | options,
        reads=dict(
            student=[f'student.{s}' for s in STAGES],
            teacher=[f'teacher.{s}' for s in STAGES],
            student_global='student.pooled',
            teacher_global='teacher.pooled',
            labels='batch.labels',
        ),
    )


def objectives() -> dict:
    """All three parts of KSANC."""
    critic = dict(
        type='AdversarialLoss',
        mode='bce',
        critic=dict(type='CategoryCritic', channels=(8, 8)),
        l1=1e-4,
        l2=1e-4,
        adversarial_sample=0.1,
    )
    return dict(
        backbone=dict(loss=dict(type='LogitMSELoss'), on='logits'),
        squeezed=squeezed(),
        critic=dict(loss=critic, on='logits', reads=dict(labels='batch.labels'), weight=0.1),
    )


def classifiers(**changes: Any) -> dict:
    def classifier(width: int) -> dict:
        return dict(
            type='mmkd.ImageClassifier',
            num_classes=3,
            in_channels=4 * width,
            backbone=dict(type='CIFARResNet', depth=8, base_channels=width),
        )

    return (
        dict(
            type='mmkd.Distiller',
            student=dict(model=classifier(2)),
            taps=TAPS,
            objectives=objectives(),
            teacher=dict(model=classifier(4), allow_untrained=True),
        )
        | changes
    )


def images(n: int = 6) -> dict:
    samples = [BaseDataElement(gt_label=torch.tensor([i % 3])) for i in range(n)]
    return dict(
        inputs=[torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8) for _ in samples],
        data_samples=samples,
    )


# ---- lists of stages ----


class Stages(Loss):
    """Keeps what it was given."""

    lists = ('student', 'teacher')

    def forward(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        student_global: Tensor,
        teacher_global: Tensor,
        labels: Tensor | None = None,
    ) -> Tensor:
        self.got = dict(
            student=student,
            teacher=teacher,
            student_global=student_global,
            teacher_global=teacher_global,
        )
        self.labels = labels
        return sum(x.sum() for x in student)


def read(loss: nn.Module) -> tuple[dict, dict]:
    """Return a record, and what an objective made of it."""

    def taps(width: int) -> dict:
        return dict(
            stage1=torch.randn(2, width, 4, 4, requires_grad=True),
            stage2=torch.randn(2, 2 * width, 2, 2, requires_grad=True),
            pooled=torch.randn(2, width, requires_grad=True),
        )

    labels = BaseDataElement(gt_label=torch.tensor([1]))
    record = dict(
        student=taps(3), teacher=taps(5), batch=Batch(torch.zeros(2, 3, 8, 8), [labels, labels])
    )
    reads = {role: [f'{role}.stage1', f'{role}.stage2'] for role in ('student', 'teacher')}
    objective = Objective(
        'stages',
        loss,
        {m: ['stage1', 'stage2', 'pooled'] for m in ('student', 'teacher')},
        reads=(
            reads
            | dict(
                student_global='student.pooled',
                teacher_global='teacher.pooled',
                labels='batch.labels',
            )
        ),
    )
    objective(record)
    return record, loss.got


def test_stages_arrive_as_lists_and_only_the_student_carries_gradient() -> None:
    loss = Stages()
    record, got = read(loss)
    for role in ('student', 'teacher'):
        assert isinstance(got[role], list)
        assert all(map(torch.equal, got[role], [record[role]['stage1'], record[role]['stage2']]))
        assert torch.equal(got[f'{role}_global'], record[role]['pooled'])
        learns = [x.requires_grad for x in [*got[role], got[f'{role}_global']]]
        assert learns == [role == 'student'] * 3
    assert loss.labels.tolist() == [1, 1]


def test_a_loss_that_names_no_lists_still_refuses_to_stack_stages() -> None:
    class Stacked(Stages):
        lists = ()

    with pytest.raises(
        ValueError,
        match=r"student stacks \['student.stage1', 'student.stage2'\], whose shapes differ",
    ):
        read(Stacked())


def test_stages_of_different_length_name_objective_and_mend() -> None:
    one = squeezed()
    one['reads']['teacher'] = one['reads']['teacher'][:2]
    with pytest.raises(
        ValueError,
        match=r"objective 'squeezed': SqueezedKnowledgeLoss got student=\['student.stage1'"
        '.*student has 3 stages, teacher 2; mend: lists of one length',
    ):
        build(classifiers(objectives=dict(squeezed=one)))


def test_a_critic_of_ten_classes_for_three_is_refused_before_training() -> None:
    critic = dict(
        loss=dict(
            type='AdversarialLoss', mode='bce', critic=dict(type='CategoryCritic', in_channels=10)
        ),
        on='logits',
        reads=dict(labels='batch.labels'),
    )
    with pytest.raises(
        ValueError,
        match=r"objective 'critic': .*CategoryCritic is one of 10 channels, got logits "
        r'\(\d, 3\); mend: in_channels=3',
    ):
        build(classifiers(objectives=dict(critic=critic)))


# ---- whole trainings ----


def owners(model: nn.Module) -> dict[str, list[str]]:
    wrappers = PhaseOptimWrapperConstructor(dict(student=SGD, critic=ADAM))(model)
    held = {
        name: {id(p) for g in w.param_groups for p in g['params']} for name, w in wrappers.items()
    }
    return {
        name: [n for n, p in model.named_parameters() if id(p) in ids] for name, ids in held.items()
    }


def test_estimators_are_the_students_optimizers_and_the_critic_the_critics() -> None:
    held = owners(build(classifiers()))
    assert all(n.startswith('objectives.critic.loss.critic.') for n in held['critic'])
    parts = {n.split('.')[3] for n in held['student'] if n.startswith('objectives.squeezed')}
    assert parts == {'student_estimators', 'teacher_estimators', 'classifier'}
    assert not any('.critic.' in n.removeprefix('objectives.critic') for n in held['student'])


def test_the_three_parts_train_and_each_optimizer_moves_its_own() -> None:
    model = build(classifiers())
    data = images()
    wrappers = PhaseOptimWrapperConstructor(dict(student=SGD, critic=ADAM))(model)
    teacher = [p.detach().clone() for p in model.teacher.parameters()]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    logs = [model.train_step(data, wrappers) for _ in range(12)]
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(before)  # estimators of both sides, classifier, critic and student
    assert all(map(torch.equal, teacher, model.teacher.parameters()))
    keys = (
        'backbone.loss',
        'squeezed.squeezed',
        'squeezed.estimator_task',
    )  # the critic's may rise
    assert all(logs[-1][k] < logs[0][k] for k in keys)
    terms = sum(logs[0][k] for k in ('loss_cls', 'backbone.loss', 'squeezed.loss', 'critic.loss'))
    torch.testing.assert_close(logs[0]['loss'], terms)


def dense() -> dict:
    """Return taps and objectives of KSANC for two segmentors."""
    taps = dict(
        logits='decode_head.conv_seg',
        feat='decode_head.bottleneck',
        low='backbone.layer1',
        high='backbone.layer4',
    )
    valid = dict(labels='batch.labels', mask='batch.valid')
    critic = dict(
        type='AdversarialLoss', mode='bce', critic=dict(type='CategoryCritic', channels=(8, 8))
    )
    return dict(
        taps=taps,
        objectives=dict(
            backbone=dict(
                loss=dict(type='LogitMSELoss'), on='logits', reads=dict(mask='batch.valid')
            ),
            squeezed=dict(
                loss=dict(type='SqueezedKnowledgeLoss', num_classes=NUM_CLASSES),
                reads=dict(
                    student=['student.low', 'student.high'],
                    teacher=['teacher.low', 'teacher.high'],
                    student_global='student.feat',
                    teacher_global='teacher.feat',
                    labels='batch.labels',
                ),
            ),
            critic=dict(loss=critic, on='logits', reads=valid),
        ),
    )


def test_dense_prediction_with_the_ignored_pixels_masked() -> None:
    """A critic of every pixel, stages of a segmentor, classes present in the image, bottleneck maps
    averaged.
    """
    model = build(distiller(**dense()))
    wrappers = PhaseOptimWrapperConstructor(dict(student=SGD, critic=ADAM))(model)
    data = batch(ignore=0.5)
    record = model.observe(**model.data_preprocessor(data, True))[0]
    loss = model.objectives['critic'].loss
    student, teacher = (record[m]['logits'].detach().float() for m in ('student', 'teacher'))
    step = 64 // student.shape[-1]
    labels = record['batch'].labels[:, ::step, ::step]
    valid_places = labels != 255
    shown = torch.cat([x * valid_places[:, None] for x in (student, teacher)])
    scores = loss.critic(shown)[:2].movedim(1, -1)[valid_places]
    expected = nn.functional.softplus(-scores[:, 0]).mean() + nn.functional.cross_entropy(
        scores[:, 1:], labels[valid_places]
    )
    got = model.objectives['critic'](record)['critic.loss']
    torch.testing.assert_close(got, expected)
    logs = [model.train_step(data, wrappers) for _ in range(3)]
    assert logs[-1]['squeezed.estimator_task'] < logs[0]['squeezed.estimator_task']
    assert logs[-1]['critic.critic_loss'] < logs[0]['critic.critic_loss']


def test_classes_that_a_coarse_map_would_miss_are_present() -> None:
    """A class that shows only between the places of the first stage is in the image all the
    same.
    """
    model = build(distiller(**dense()))
    data = batch()
    for sample in data['data_samples']:
        labels = torch.zeros(1, 64, 64, dtype=torch.long)
        labels[:, 1::4, 1::4] = 3
        sample.gt_sem_seg.data = labels
    record = model.observe(**model.data_preprocessor(data, True))[0]
    objective = model.objectives['squeezed']
    objective(record)
    task = objective.loss.diagnostics['estimator_task']
    maps = [record['teacher'][name].float() for name in ('low', 'high', 'feat')]
    g = maps[2].mean((2, 3))
    found = [e(x, g) for e, x in zip(objective.loss.teacher_estimators, maps[:2], strict=True)]
    present = torch.zeros(2, NUM_CLASSES)
    present[:, [0, 3]] = 1
    expected = nn.functional.binary_cross_entropy_with_logits(
        objective.loss.classifier(torch.cat(found, 1)), present
    )
    torch.testing.assert_close(task, expected)


@pytest.mark.slow
def test_resume_is_exact_with_estimators_and_critic(tmp_path: Path) -> None:
    """Four steps equal two, a stop and two more: both optimizers, the critic's norms, the teacher's
    estimators.
    """
    parts = dense()
    parts['objectives']['squeezed']['loss']['num_classes'] = 3
    model = runs.model_of(**parts)
    whole = runs.train(runs.run_config(tmp_path, copy.deepcopy(model), name='whole'))
    runs.train(runs.run_config(tmp_path, copy.deepcopy(model), max_iters=2, name='parts'))
    rest = runs.train(runs.run_config(tmp_path, copy.deepcopy(model), name='parts'), resume=True)
    expected, got = whole.model.state_dict(), rest.model.state_dict()
    assert any('teacher_estimators' in key for key in expected)
    assert any('critic.loss.critic.layers.0.running_mean' in key for key in expected)
    assert expected.keys() == got.keys()
    assert all(torch.equal(got[key], value) for key, value in expected.items())
