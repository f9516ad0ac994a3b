"""mmkd benchmark --methods: what each method costs on what one forward of the members left."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.tiny import segmentor
from mmengine.config import Config

from mmkd.__main__ import main
from mmkd.apis.benchmark.methods import PROBED, Cost, Members, Method, method_costs, saved_bytes
from mmkd.apis.benchmark.tables import method_rows
from mmkd.distiller.assembly import assemble
from mmkd.losses import HolisticCritic
from mmkd.methods import Pair, Plan, known_methods
from mmkd.registry import METHODS, MODELS

SIZE = (64, 128)


def config(**overrides: Any) -> Config:
    members = dict(
        student=dict(model=segmentor(4, dropout=0.0, pretrained='nowhere/s.pth')),
        teacher=dict(model=segmentor(8), checkpoint='nowhere/best.pth'),
    )
    own = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
    return Config(
        dict(
            default_scope='mmseg',
            train_dataloader=dict(batch_size=2),
            train_cfg=dict(max_iters=100),
            crop_size=SIZE,
            model=tiny.distiller(**members) | overrides,
            optim_wrapper=own,
        )
    )


@pytest.fixture(scope='module')
def members() -> Members:
    return Members(config(), SIZE, 2, 'cpu')


def own(members: Members, name: str) -> Method:
    made = members.method(name)
    assert isinstance(made, Method), made
    return made


# ---------------------------------------------------------------- the arithmetic


def test_aims_depend_on_weights_of_its_own() -> None:
    def missed(share: float, memory: float, parameters: int) -> list[str]:
        return Cost(0.1, share, 5.0, memory, None, parameters, ()).missed()

    assert missed(0.03, 2.04, 0) == []
    assert missed(0.031, 2.06, 0) == ['share', 'memory']
    assert missed(0.1, 0.0, 1) == []
    assert missed(0.11, 0.0, 1) == ['share']


def test_cost_by_hand(members: Members) -> None:
    """Of (s · t).sum() with a copy that is let go: one map is the gradient, nothing is kept."""

    class Product(torch.nn.Module):
        def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
            copies = [teacher.clone() for _ in range(3)]
            return (student * copies[0]).sum()

    def mine(pair: Pair) -> Plan:
        loss = dict(type='Product3')
        return Plan(objectives=dict(a=dict(loss=loss, on='logits')), taps=dict(logits='auto'))

    MODELS.register_module(name='Product3', module=Product)
    METHODS.register_module(name='mine')(mine)
    try:
        one = own(members, 'mine')
    finally:
        METHODS.module_dict.pop('mine')
        MODELS.module_dict.pop('Product3')
    assert [tuple(x.shape) for x in one.maps] == [(2, tiny.NUM_CLASSES, 8, 16)]
    cost = one.cost(seconds=0.2, step=4.0, wider=0.5)
    assert (cost.seconds, cost.share, cost.growth) == (0.2, 0.05, 2.5)
    # three copies and the product at once; of these one copy is kept, and one map is the gradient
    assert cost.peak == pytest.approx(4, abs=0.02)
    assert cost.memory == pytest.approx(2, abs=0.02)
    assert cost.parameters == 0


def test_saved_bytes_are_those_of_the_graph() -> None:
    x = torch.ones(256, requires_grad=True)
    y = torch.ones(256)
    assert saved_bytes(lambda: (x.exp() * y).sum()) == 2048, 'of the exponential, and y'
    there = {y.untyped_storage().data_ptr()}
    assert saved_bytes(lambda: (x.exp() * y).sum(), there) == 1024


# ---------------------------------------------------------------- the pair


def test_a_method_that_changes_a_member_is_measured_on_one_of_its_own(members: Members) -> None:
    """SimKD's student ends in a classifier from the teacher's file."""
    made = own(members, 'simkd')
    (student,) = (made.runs[name].model for name in made.students)
    assert type(student.decode_head).__name__ == 'BorrowedClassifier'
    assert student is not members.student
    assert type(members.student.decode_head).__name__ != 'BorrowedClassifier'
    assert made.cost(seconds=0.2, step=4.0, wider=0.5).share == 0.05
    assert all(x.isfinite() and x > 0 for x in made.losses())


def test_members_run_once_for_each_tap() -> None:
    """Of two images; what is wired sees one."""
    fresh = Members(config(), SIZE, 2, 'cpu')
    seen: list[int] = []
    layer = fresh.teacher.decode_head.conv_seg
    layer.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    kd, lskd = own(fresh, 'kd'), own(fresh, 'lskd')
    assert seen.count(2) == 1
    assert lskd.maps[0] is kd.maps[0]
    assert kd.maps[0].is_leaf
    assert kd.maps[0].requires_grad
    assert not kd.record['teacher']['logits'].requires_grad


def test_the_step_is_of_the_size_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building a method changes what the student's preprocessor pads to."""
    here = Members(config(), (32, 64), 2, 'cpu')
    seen = []
    forward = here.student.backbone.forward
    monkeypatch.setattr(
        here.student.backbone, 'forward', lambda x: seen.append(tuple(x.shape[2:])) or forward(x)
    )
    here.step()
    own(here, 'kd')
    seen.clear()
    here.step()
    assert seen == [(32, 64)]
    assert tuple(here.batch.inputs.shape[2:]) == (32, 64)


def test_the_wider_record_holds_every_map_twice(members: Members) -> None:
    skd = own(members, 'skd')
    assert skd.wider is not None
    for name in ('student', 'teacher'):
        for tap, x in skd.record[name].items():
            twice = skd.wider[name][tap]
            assert torch.equal(twice, torch.cat([x, x], -1))
            assert twice.requires_grad == (name == 'student')
    assert skd.wider.batch.inputs.shape == (2, 3, 64, 256)
    assert skd.wider.batch.labels.shape == (2, 64, 256)
    single, double = (sum(own(members, 'kd').losses(r)) for r in (None, own(members, 'kd').wider))
    assert float(double) == pytest.approx(float(single), rel=1e-5), 'a mean over positions'


def test_critics_and_layers_count_as_weights_of_their_own(members: Members) -> None:
    skd, quest = own(members, 'skd'), own(members, 'quest')
    assert len(skd.losses()) == 4, 'three objectives and a critic'
    critic = sum(p.numel() for p in skd.objectives[2].loss.critic.parameters())
    assert sum(p.numel() for p in skd.parameters) == critic > 0
    assert len(quest.parameters) > 0
    assert own(members, 'kd').parameters == []


def test_a_critic_is_built_for_the_size_that_is_measured() -> None:
    skd = own(Members(config(), (256, 512), 2, 'cpu'), 'skd')
    logits = skd.record['student']['logits']
    critics = [
        HolisticCritic(logits.shape[1], size=[side // d for side in logits.shape[2:]])
        for d in (1, 4)
    ]
    assert skd.objectives[2].loss.critic.minimum == critics[0].minimum
    assert critics[1].minimum < critics[0].minimum, 'as of the size that methods are wired on'


def test_a_detector_is_wired_on_the_size_that_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On smaller images its coarsest level is one place, which has no pairs."""
    detector, sizes = Members(config(), (96, 128), 2, 'cpu'), []

    def spy(settings: Any, size: Any) -> Any:
        sizes.append(size)
        return assemble(settings, size=size)

    monkeypatch.setattr('mmkd.apis.benchmark.methods.assemble', spy)
    detector.method('kd')
    detector.kind = 'detection'
    detector.method('kd')
    assert sizes == [PROBED, (96, 128)]


@pytest.mark.slow
def test_every_method_of_segmentors_is_measured_or_says_why_not() -> None:
    found = method_costs(config(), iters=1, warmup=0, size=SIZE)
    rows = found['methods']
    assert set(known_methods()) - set(rows) == {'crd', 'fgd', 'kd-detr', 'ld', 'semckd'}, (
        'all others serve segmentors'
    )
    for name in ('id', 'pid', 'sid'):
        assert 'does not say how many attention layers' in rows[name]['error']
    good = {name: row for name, row in rows.items() if 'error' not in row}
    transformers = {'transkd', 'vitkd'}  # these members are none
    assert set(rows) - set(good) == {'id', 'pid', 'sid'} | transformers
    for name, row in good.items():
        assert row['share'] == row['seconds'] / found['step'] > 0, name
        assert row['growth'] > 0, name
        assert row['peak'] > row['memory'] >= 0, name
    with_weights = {name for name, row in good.items() if row['parameters']}
    assert {'skd', 'afd', 'ksanc', 'quest', 'vid', 'ofd', 'fitnet'} <= with_weights
    assert with_weights.isdisjoint({'kd', 'cwd', 'cgd', 'dist', 'dkd', 'gdkd', 'nkd', 'lskd'})
    cells = method_rows(found)
    shares = [float(line[2]) for line in cells if line[1] != '–']
    assert shares == sorted(shares, reverse=True)
    assert {line[0] for line in cells[-5:]} == set(rows) - set(good)


# ---------------------------------------------------------------- the command


def run(*argv: str) -> None:
    main(['benchmark', *argv])


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config().dump(str(tmp_path / 'config.py'))
    out = tmp_path / 'out.json'
    flags = ('--iters', '1', '--warmup', '0', '--device', 'cpu', '--size', '64', '128')
    run(
        str(tmp_path / 'config.py'),
        '--methods',
        'kd',
        'id',
        *flags,
        '--json',
        str(out),
        '--markdown',
    )
    found = json.loads(out.read_text())
    assert set(found['methods']) == {'kd', 'id'}
    assert (found['iters'], found['batch_size'], found['size']) == (1, 2, list(SIZE))
    text = capsys.readouterr().out
    row = found['methods']['kd']
    assert f'| kd | {1e3 * row["seconds"]:.1f} | {row["share"]:.3f} | ≤ 0.03 |' in text
    assert '| id | – |' in text
    assert found['seconds'] == 'of the clock'
    run(str(tmp_path / 'config.py'), '--methods', 'kd', *flags, '--cpu-time')
    text = capsys.readouterr().out
    assert 'of the step' in text
    assert 'seconds: of the processor' in text


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ([], 'needs a config. Mend: mmkd benchmark CONFIG'),
        (['--methods', 'kd', '--amp', 'bf16'], 'leave --amp out'),
        (['--methods', '--variants'], 'leave --variants out'),
        (['x.py', '--markdown'], '--markdown prints the table of --methods'),
    ],
)
def test_what_does_not_go_together(
    argv: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match='1'):
        run(*argv)
    captured = capsys.readouterr()
    assert message in ' '.join((captured.out + captured.err).split())


@pytest.mark.bad_input
def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(KeyError, match="there is no method 'cdw'; did you mean 'cwd'"):
        method_costs(config(), ['cdw'], size=SIZE)
    with pytest.raises(ValueError, match="the model of this config is 'EncoderDecoder'"):
        method_costs(Config(dict(model=segmentor(4))), ['kd'])
