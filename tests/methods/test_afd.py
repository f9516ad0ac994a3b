"""AFD: peers in a cycle, three phases from one forward, against the equations step by step; who
learns from what.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.peers import OPTIMIZERS, TAU, afd, batch, classifier, model_of, optimizers
from helpers.phased import record_steps
from helpers.processes import ranks
from helpers.tiny import build, distiller, segmentor
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from references.afd import step
from torch import Tensor, nn

from mmkd.engine.runner.phased_ddp import PhasedDDP
from mmkd.losses import ensemble_kl
from mmkd.registry import MODELS

KINDS = {'logit': torch.optim.SGD, 'feature': torch.optim.Adam, 'critic': torch.optim.Adam}


class Seen(nn.Module):
    """A classifier as the equations see it: logits and last map."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, C) and the last map."""
        maps = self.model.backbone(images)
        return self.model.head.fc(maps[-1].mean((2, 3))), maps[-1]


class Judge(nn.Module):
    """A critic as the equations see it: the probability of 'real'."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = copy.deepcopy(critic)

    def forward(self, maps: Tensor) -> Tensor:
        """Return probabilities (N, 1)."""
        return self.critic(maps).sigmoid()


def differences(model: Any, nets: list[Seen], critics: list[Judge]) -> list[float]:
    """Return the largest difference of every parameter from what the equations gave, relative to
    its size.
    """
    pairs = [(model.students[f'peer{k}'], net.model) for k, net in enumerate(nets)]
    pairs += [
        (model.objectives[f'map{k}'].loss.critic, judge.critic) for k, judge in enumerate(critics)
    ]
    return [
        float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1e-3))
        for ours, theirs in pairs
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    ]


@pytest.mark.parametrize('peers', [2, 3])
def test_steps_equal_the_equations(peers: int) -> None:
    """1 → 2 → … → K → 1: SGD on the logit loss, Adam on the map loss of the same weights, Adam on
    the critics.
    """
    model = model_of(peers)
    optim = optimizers(model)
    nets = [Seen(model.students[f'peer{k}']) for k in range(peers)]
    critics = [Judge(model.objectives[f'map{k}'].loss.critic) for k in range(peers)]
    own = {
        kind: [
            make(module.parameters(), **{k: v for k, v in OPTIMIZERS[kind].items() if k != 'type'})
            for module in (critics if kind == 'critic' else nets)
        ]
        for kind, make in KINDS.items()
    }
    start = copy.deepcopy(nets), copy.deepcopy(critics)
    for seed in range(3):
        data = batch(seed=seed)
        seen = model.data_preprocessor(copy.deepcopy(data), True)
        step(
            nets,
            critics,
            seen['inputs'],
            torch.cat([s.gt_label for s in seen['data_samples']]),
            own,
            TAU,
        )
        model.train_step(data, optim)
    assert max(differences(model, nets, critics)) < 1e-3
    assert max(differences(model, *start)) > 0.1


def test_logged_losses_are_those_of_the_cycle() -> None:
    """Peer 0 learns from the last, each other from the one before it."""
    model = model_of(3)
    for student in model.students.values():
        student.head.fc.weight.data *= (
            100  # what untrained peers disagree in would be no more than rounding
        )
    nets = [Seen(model.students[f'peer{k}']) for k in range(3)]
    seen = model.data_preprocessor(batch(), True)
    with torch.no_grad():
        logits, maps = zip(*(net(seen['inputs']) for net in nets), strict=True)
    logs = model.train_step(batch(), optimizers(model))
    for k, j in ((0, 2), (1, 0), (2, 1)):
        p, q = ((logits[i] / TAU).softmax(1) for i in (j, k))
        assert float(logs[f'logit{k}.loss']) == pytest.approx(
            float(TAU**2 * (p * (p / q).log()).sum(1).mean()), 1e-4
        )
        critic = model_of(3).objectives[f'map{k}'].loss.critic
        fake, real = critic(torch.cat([maps[k], maps[j]])).detach().sigmoid().chunk(2)
        assert float(logs[f'map{k}.loss']) == pytest.approx(float((1 - fake).square().mean()), 1e-4)
        expected = float((1 - real).square().mean() + fake.square().mean())
        assert float(logs[f'map{k}.critic_loss']) == pytest.approx(expected, 1e-4)


def grads(model: Any, value: Tensor) -> set[str]:
    """Return the parts of the model that a value's gradient reaches."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
    return {
        '.'.join(name.split('.')[:3])
        for name, g in zip(names, found, strict=True)
        if g is not None and g.any()
    }


def test_each_gradient_reaches_its_own_peer_and_phase_alone() -> None:
    """Every objective, every peer's own losses and every critic's, in a model with transfer
    layers.
    """
    model = model_of(3, widths=(2, 3, 4))
    record, task = model.observe(**model.data_preprocessor(batch(), True))
    body = lambda k: {f'students.peer{k}.backbone', f'students.peer{k}.head'}  # noqa: E731
    for k in range(3):
        assert grads(model, task[f'peer{k}.loss_cls']) == body(k)
        assert grads(model, model.objectives[f'logit{k}'](record)[f'logit{k}.loss']) == body(k)
        of_map = grads(model, model.objectives[f'map{k}'](record)[f'map{k}.loss'])
        assert of_map == {f'students.peer{k}.backbone', f'objectives.map{k}.connectors'}
        of_critic = grads(
            model, model.objectives[f'map{k}'].critic_loss(record)[f'map{k}.critic_loss']
        )
        assert of_critic == {f'objectives.map{k}.loss'}


def test_each_optimizer_steps_on_its_own_phase_alone() -> None:
    """The head never gets the map loss's gradient, the connectors never the logit loss's, critics
    their own alone.
    """
    model = model_of(2, widths=(2, 3))
    optim = optimizers(model)
    steps = record_steps(optim, model)
    model.train_step(batch(), optim)
    assert [name for name, _ in steps] == ['logit', 'feature', 'critic']
    parts = {name: {'.'.join(key.split('.')[:3]) for key in found} for name, found in steps}
    students = {f'students.peer{k}.{part}' for k in range(2) for part in ('backbone', 'head')}
    assert parts['logit'] == students
    assert parts['feature'] == {s for s in students if 'head' not in s} | {
        f'objectives.map{k}.connectors' for k in range(2)
    }
    assert parts['critic'] == {f'objectives.map{k}.loss' for k in range(2)}


@pytest.mark.parametrize('peers', [2, 3])
def test_one_forward_of_each_peer_serves_all_phases(peers: int) -> None:
    model = model_of(peers)
    optim = optimizers(model)
    counts = dict.fromkeys(model.students, 0)
    for name, student in model.students.items():
        student.backbone.register_forward_hook(
            lambda *_, name=name: counts.update({name: counts[name] + 1})
        )
    norms = [student.backbone.layer3[0].bn1 for student in model.students.values()]
    for _ in range(2):
        model.train_step(batch(), optim)
    assert counts == dict.fromkeys(model.students, 2)
    assert all(int(norm.num_batches_tracked) == 2 for norm in norms)


def test_peers_start_apart() -> None:
    model = model_of(2)
    one, two = (
        torch.cat([p.detach().flatten() for p in student.parameters()])
        for student in model.students.values()
    )
    assert float((one - two).abs().max()) > 0.1


def test_the_learning_rate_of_the_map_loss_is_its_own() -> None:
    """Feature rate 0: the students move as by mutual learning of their logits alone."""
    weights = []
    for objective in ('map', 'none'):
        model = model_of(2)
        optim = optimizers(model)
        if objective == 'none':
            for phase in model.phases[1:]:
                optim.optim_wrappers.pop(phase.optimizer)
            model.phases[1:] = []
            assert model.phase_runner.phases is model.phases
        else:
            optim['feature'].optimizer.param_groups[0]['lr'] = 0.0
        model.train_step(batch(), optim)
        weights.append([p.detach().clone() for p in model.students.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


# ---------------------------------------------------------------- accumulation, precision, two
# processes


def test_accumulation_equals_the_big_batch() -> None:
    """No norm in critics or peers sees a batch here, so two halves are the whole."""
    big, small = (model_of(2, norm=False) for _ in range(2))
    for model in (big, small):
        for module in model.students.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    data = batch(4)
    halves = [
        dict(inputs=data['inputs'][i : i + 2], data_samples=data['data_samples'][i : i + 2])
        for i in (0, 2)
    ]
    first, second = optimizers(big), optimizers(small, accumulative_counts=2)
    steps = [record_steps(first, big), record_steps(second, small)]
    big.train_step(copy.deepcopy(data), first)
    for half in halves:
        small.train_step(copy.deepcopy(half), second)
    assert [name for name, _ in steps[1]] == ['logit', 'feature', 'critic']
    for (_, whole), (_, parts) in zip(*steps, strict=True):
        assert whole.keys() == parts.keys()
        for key, value in whole.items():
            torch.testing.assert_close(parts[key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_bfloat16_stays_near_float32() -> None:
    logs = []
    for kind in ('OptimWrapper', 'mmkd.Bf16OptimWrapper'):
        model = model_of(2)
        optim = optimizers(model, kind)
        for seed in range(3):
            values = model.train_step(batch(seed=seed), optim)
        logs.append(values)
    for key, value in logs[0].items():
        assert logs[1][key].dtype == torch.float32
        assert float(logs[1][key]) == pytest.approx(float(value), rel=0.1, abs=0.05), key
    assert any(float(logs[1][key]) != float(value) for key, value in logs[0].items())


def steady(model: Any) -> Any:
    for module in model.students.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def three_steps(rank: int | None, wrap: Any = None) -> dict[str, Tensor]:
    """Take three steps on joined batches of 4, or on one rank's halves."""
    model = steady(model_of(2, norm=False))
    wrapped = wrap(model) if wrap else model
    optim = optimizers(model)
    for seed in range(3):
        data = batch(4, seed)
        if rank is not None:
            data = {key: value[rank::2] for key, value in data.items()}
        wrapped.train_step(data, optim)
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def work(rank: int, folder: Path) -> None:
    """What each of the two processes does."""
    torch.save(three_steps(rank, PhasedDDP), folder / f'rank{rank}.pth')


@pytest.mark.slow
def test_two_processes_equal_one_on_the_joined_batch(tmp_path: Path) -> None:
    ranks(work, tmp_path)
    both = [torch.load(tmp_path / f'rank{rank}.pth') for rank in range(2)]
    joined, alone = three_steps(None), three_steps(0)
    apart = 0.0
    for key, value in joined.items():
        assert torch.equal(both[0][key], both[1][key]), key
        torch.testing.assert_close(both[0][key], value, rtol=1e-3, atol=1e-5, msg=key)
        apart = max(apart, float((alone[key] - value).abs().max()))
    assert apart > 1e-3, 'a rank that steps alone ends elsewhere'


# ---------------------------------------------------------------- refusals


def without(config: dict, phase: str) -> dict:
    return {**config, 'phases': [p for p in config['phases'] if p['name'] != phase]}


@pytest.mark.parametrize(
    ('config', 'error', 'message'),
    [
        (
            afd(1),
            ValueError,
            "objective 'logit0': student and teacher both read 'peer0.logits', and a network has "
            'nothing to learn from itself. Mend: .*; peers that teach each other are two or more',
        ),
        (
            afd(2)
            | dict(
                students=dict(
                    peer0=dict(model=classifier()), peer1=dict(model=classifier(num_classes=4))
                )
            ),
            ValueError,
            r"the students disagree on classes: \{'peer0': 3, 'peer1': 4\}. Mend: the same classes",
        ),
        (
            without(afd(2), 'critic'),
            ValueError,
            "no phase trains the critic of objective 'map0'. Mend: dict",
        ),
        (
            without(afd(2), 'logit'),
            ValueError,
            "no phase names the objective 'logit0', so it would contribute nothing",
        ),
        (
            afd(2, widths=(2, 3)) | dict(objectives=afd(2)['objectives']),
            ValueError,
            r"objective 'map0': AdversarialLoss got .*\(1, 8, 16, 16\).*\(1, 12, 16, 16\).*maps "
            r'differ.*mend: connectors',
        ),
    ],
)
def test_bad_configs(config: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MODELS.build(config)


def test_a_segmentor_and_a_classifier_are_no_peers() -> None:
    """A batch has labels of one kind; of what they disagree in, classes are said first."""
    config = afd(2) | dict(
        students=dict(peer0=dict(model=classifier()), peer1=dict(model=segmentor(4, num_classes=3)))
    )
    with pytest.raises(Exception, match='peer1'):
        MODELS.build(config)


@pytest.mark.parametrize(
    ('feature', 'critic', 'message'),
    [
        (
            ['students'],
            ['objectives'],
            "phase 'feature' takes the gradient of objective 'map0', but its optimizer 'feature' "
            "does not hold objectives.map0.connectors.student.conv.weight .the optimizer 'logit' "
            "holds it.*Mend: add 'objectives.map0'",
        ),
        (
            ['students', 'objectives'],
            ['objectives.map0'],
            "phase 'critic' takes the gradient of objective 'map1', but its optimizer 'critic' "
            "does not hold objectives.map1.loss.critic.* .the optimizer 'feature' holds it",
        ),
        (
            ['students', 'objectives.map0', 'objectives.map1.connectors'],
            ['objectives.map0'],
            'does not hold objectives.map1.loss.critic',
        ),
    ],
)
def test_a_connector_or_critic_that_its_optimizer_does_not_hold(
    feature: list, critic: list, message: str
) -> None:
    cfg = {
        name: dict(type='OptimWrapper', optimizer=dict(optimizer))
        for name, optimizer in OPTIMIZERS.items()
    }
    cfg['feature']['params'], cfg['critic']['params'] = feature, critic
    with pytest.raises(ValueError, match=message):
        OPTIM_WRAPPER_CONSTRUCTORS.build(
            dict(type='mmkd.PhaseOptimWrapperConstructor', optim_wrapper_cfg=cfg)
        )(model_of(2, widths=(2, 3)))


def test_phases_under_one_plain_optimizer_are_refused() -> None:
    """Also without a critic, where one optimizer could step on everything, but not as the phases
    say.
    """
    config = without(afd(2), 'critic')
    for k in range(2):
        config['objectives'][f'map{k}']['loss'] = dict(type='FeatureL1Loss')
    model = MODELS.build(config)
    with pytest.raises(
        ValueError,
        match=r"the phases \['logit', 'feature'\] need the optimizers .*, but there is one",
    ):
        model.train_step(batch(), OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))


def test_an_objective_that_is_called_like_the_only_student() -> None:
    """Whose loss, where its head names it so, would have the key of the objective's."""
    one = dict(loss=dict(type='FeatureL1Loss'), on='feat', connectors=dict(student='auto'))
    with pytest.raises(ValueError, match="objective 'student' is called like a student, whose own"):
        MODELS.build(distiller(objectives=dict(student=one)))


def test_an_objective_that_is_called_like_a_peer() -> None:
    config = afd(2)
    config['objectives']['peer0'] = config['objectives'].pop('logit0')
    config['phases'][0]['objectives'] = ['peer0', 'logit1']
    with pytest.raises(ValueError, match="objective 'peer0' is called like a student"):
        MODELS.build(config)


def test_a_connector_of_what_is_only_listened_to() -> None:
    config = afd(2)
    config['objectives']['map0']['connectors'] = dict(
        teacher=dict(type='Connector', in_channels=8, out_channels=8)
    )
    with pytest.raises(
        ValueError, match="the connector of 'teacher' has weights, which would never be trained"
    ):
        MODELS.build(config)


def test_peers_may_learn_from_the_mean_of_all() -> None:
    """A running statistic over peers: the value is that of the stacked logits, itself included."""
    config = afd(3)
    config['objectives'] = dict(
        mean=dict(
            loss=dict(type='EnsembleKLLoss'),
            reads=dict(student='peer0.logits', teachers='peer*.logits'),
        )
    )
    config['phases'] = None
    model = build(config)
    seen = model.data_preprocessor(batch(), True)
    record, _ = model.observe(**seen)
    logits = [record[f'peer{k}']['logits'] for k in range(3)]
    expected = ensemble_kl(logits[0], torch.stack(logits).detach())
    torch.testing.assert_close(model.objectives['mean'](record)['mean.loss'], expected)


def test_a_phase_that_names_an_unknown_optimizer() -> None:
    config = afd(2)
    config['phases'][1]['optimizer'] = 'featuer'
    with pytest.raises(
        KeyError, match="phase 'feature' needs the optimizer 'featuer'; did you mean 'feature'"
    ):
        optimizers(MODELS.build(config))


def test_any_peer_predicts() -> None:
    images = model_of(2).data_preprocessor(batch(), False)['inputs']
    for name in ('peer0', 'peer1'):
        model = model_of(2, predict_with=name).eval()
        assert torch.equal(model(images), model.students[name](images))
    with pytest.raises(
        KeyError, match="predict_with='peer2' names no student; did you mean 'peer1' or 'peer0'"
    ):
        MODELS.build(afd(2, predict_with='peer2'))
