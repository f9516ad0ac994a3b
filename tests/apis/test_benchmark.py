"""mmkd benchmark and benchmarks/pair_wise.py: what they measure is what they say, and the
arithmetic is right.
"""

import copy
import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path
from time import process_time
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.peers import afd
from mmengine.config import Config
from torch import nn

from mmkd.apis.benchmark import (
    PEER_TARGETS,
    TARGETS,
    VARIANTS,
    Options,
    Pair,
    environment,
    ratios,
    run,
    run_variants,
)
from mmkd.apis.benchmark.pair import quiet_optimizers
from mmkd.apis.benchmark.peers import mmrazor_case
from mmkd.apis.benchmark.tables import print_summary
from mmkd.losses.relations.pair_wise_affinity import pair_wise_affinity
from mmkd.utils.tables import make_console
from mmkd.utils.timing import interleaved_times, peak_memory

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20


def config(critic: bool = True, **overrides: Any) -> Config:
    """Return a config of tiny models; ``overrides`` replace keys of the model."""
    objectives = tiny.objectives(holistic=tiny.holistic()) if critic else tiny.objectives()
    members = dict(
        student=dict(model=tiny.segmentor(4, dropout=0.0, pretrained='nowhere/student.pth')),
        teacher=dict(
            model=tiny.segmentor(8, pretrained='nowhere/t.pth'), checkpoint='nowhere/best.pth'
        ),
    )
    return Config(
        dict(
            default_scope='mmseg',
            train_dataloader=dict(batch_size=2),
            model=tiny.distiller(objectives=objectives, **members) | overrides,
            optim_wrapper=dict(
                constructor='mmkd.PhaseOptimWrapperConstructor',
                student=dict(
                    type='OptimWrapper',
                    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
                ),
                critic=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=4e-4)),
            ),
        )
    )


# ---------------------------------------------------------------- clocks and memory


def test_cases_take_turns_and_warmup_does_not_count() -> None:
    order: list[str] = []
    now = [0.0]
    cost = dict(a=iter([100.0, 1.0, 2.0, 9.0]), b=iter([100.0, 5.0, 5.0, 5.0]))

    def case(name: str) -> None:
        order.append(name)
        now[0] += next(cost[name])

    found = interleaved_times(
        {name: lambda name=name: case(name) for name in 'ab'},
        iters=3,
        warmup=1,
        clock=lambda: now[0],
    )
    assert order == ['a', 'b'] * 4
    assert found == dict(a=2.0, b=5.0)  # medians of 1 2 9 and of 5 5 5


@pytest.mark.parametrize(('count', 'peak'), [(1, 1), (3, 3)])
def test_peak_memory_of_tensors_held(count: int, peak: int) -> None:
    def run() -> None:
        held = [torch.ones(MIB // 4) for _ in range(count)]
        del held

    assert peak_memory(run) == peak * MIB


def test_peak_memory_counts_what_is_freed_before_only_once() -> None:
    def run() -> torch.Tensor:
        x = torch.ones(MIB)  # 4 MiB
        del x
        return torch.ones(MIB // 2)  # 2 MiB

    kept = torch.ones(MIB)  # before: not counted, and freeing it inside takes nothing off
    assert peak_memory(run) == 4 * MIB
    del kept


def test_peak_memory_of_materialised_affinities_is_three_matrices() -> None:
    bench = runpy.run_path(str(ROOT / 'benchmarks' / 'pair_wise.py'))
    student, teacher = torch.randn(1, 4, 16, 32, requires_grad=True), torch.randn(1, 8, 16, 32)
    matrix = (16 * 32) ** 2 * 4
    peak = peak_memory(lambda: bench['materialised'](student, teacher).backward())
    assert 3 * matrix <= peak <= 5.2 * matrix
    assert (
        peak_memory(lambda: pair_wise_affinity(student, teacher, method='gram').backward()) < matrix
    )


# ---------------------------------------------------------------- ratios


def test_ratios_by_hand() -> None:
    times = dict(
        student=10.0,
        teacher=6.0,
        step=16.8,
        step_with_critic=20.0,
        peer_student=20.0,
        peer_teacher=13.6,
        mmrazor=33.6,
    )
    memory = dict(student=300, teacher=100, step=420, step_with_critic=440)
    assert ratios(times, memory) == pytest.approx(
        dict(
            overhead=1.05,
            overhead_with_critic=1.25,
            memory=1.05,
            memory_with_critic=1.1,
            peers=0.5,
            mmrazor=0.5,
        )
    )


def test_ratios_where_every_objective_has_a_critic_and_where_no_peer_is_measured() -> None:
    times = dict(student=1.0, teacher=1.0, step_with_critic=3.0, peer_student=2.0, peer_teacher=2.0)
    assert ratios(times, {}) == dict(overhead_with_critic=1.5, peers=0.75)
    assert ratios(dict(student=1.0, teacher=1.0, step=3.0), {}) == dict(overhead=1.5)
    assert (
        dict(
            overhead=1.05,
            overhead_with_critic=1.25,
            memory=1.1,
            memory_with_critic=1.1,
            objectives=0.1,
            objectives_with_critic=0.2,
            noise=0.03,
        )
        == TARGETS
    )


def test_shares_of_the_step_by_hand() -> None:
    times = dict(
        student=10.0,
        teacher=6.0,
        noise=0.25,
        noisy_teacher=6.25,
        objectives=1.0,
        critics=3.0,
        step=20.0,
        step_with_critic=25.0,
    )
    found = ratios(times, {})
    assert (found['objectives'], found['objectives_with_critic'], found['noise']) == (
        0.05,
        0.16,
        0.025,
    )
    assert found['critics'] == 0.12
    assert ratios(dict(times, noisy_teacher=5.9), {})['noise'] == 0.0125, (
        'a teacher that is no slower costs nothing'
    )
    assert 'noise' not in ratios(dict(student=1.0, teacher=1.0, step=2.0), {})


# ---------------------------------------------------------------- the pair


@pytest.fixture(scope='module')
def pair() -> Pair:
    """Build one pair for the tests that only look at it."""
    return Pair(
        config(), Options('bf16', 'both', 'bf16', False, False), size=(32, 64), batch_size=3
    )


def test_nothing_is_loaded_and_the_size_is_the_one_asked_for(pair: Pair) -> None:
    assert pair.size == (32, 64)
    assert [image.shape for image in pair.data['inputs']] == [(3, 32, 64)] * 3
    assert pair.full.data_preprocessor.size == (32, 64)
    assert pair.full.objectives['holistic'].loss.critic is not None


def test_preprocessors_of_every_kind_take_a_size() -> None:
    divisor = tiny.preprocessor() | dict(size=None, size_divisor=8)
    models = [tiny.segmentor(width, data_preprocessor=dict(divisor)) for width in (4, 8)]
    teacher = dict(model=models[1], allow_untrained=True)
    made = Pair(config(student=dict(model=models[0]), teacher=teacher), Options(), size=(32, 64))
    ready = made.full.data_preprocessor(made.data, True)
    assert tuple(ready['inputs'].shape) == (2, 3, 32, 64)


def test_options_reach_student_teacher_and_optimizers(pair: Pair) -> None:
    weight = pair.full.teacher.backbone.layer1[0].conv1.weight
    assert weight.dtype == torch.bfloat16
    assert weight.is_contiguous(memory_format=torch.channels_last)
    own = pair.plain[0].backbone.layer1[0].conv1.weight
    assert own.dtype == torch.float32
    assert own.is_contiguous(memory_format=torch.channels_last)
    assert pair.optimizers['student']['type'] == 'mmkd.Bf16OptimWrapper'
    for peer in (pair.peer_students[0], pair.peer_teachers[0]):
        assert peer.backbone.layer1[0].conv1.weight.dtype == torch.float32
        assert peer.backbone.layer1[0].conv1.weight.is_contiguous()
    assert pair.peer_optimizers['student']['type'] == 'OptimWrapper'
    assert not pair.peer_teachers[0].training


def test_the_step_without_critics_shares_every_module(pair: Pair) -> None:
    assert list(pair.lean.objectives) == ['pixel', 'pair']
    assert list(pair.full.objectives) == ['pixel', 'pair', 'holistic']
    assert pair.lean.student is pair.full.student
    assert pair.lean.runs['teacher'] is pair.full.runs['teacher']
    assert list(pair.lean.runs['student'].taps.paths) == ['logits', 'feat']
    assert len(pair.lean.phases) == 1


def test_cases_are_complete_and_run(pair: Pair) -> None:
    cases = pair.cases()
    assert list(cases) == [
        'student',
        'teacher',
        'objectives',
        'critics',
        'step',
        'step_with_critic',
        'peer_student',
        'peer_teacher',
    ]
    logs = {name: case() for name, case in cases.items()}
    assert logs['teacher']['teacher']['logits'].dtype == torch.bfloat16
    assert {'pixel.loss', 'pair.loss', 'decode.loss_ce'} <= set(logs['step'])
    assert 'holistic.critic_loss' not in logs['step']
    assert 'holistic.critic_loss' in logs['step_with_critic']


def test_without_critics_there_is_one_step() -> None:
    assert list(Pair(config(critic=False), Options()).cases()) == [
        'student',
        'teacher',
        'objectives',
        'step',
        'peer_student',
        'peer_teacher',
    ]


def peers(**optimizers: Any) -> Config:
    """Return the config of two classifiers by AFD, with an optimizer each where ``optimizers`` says
    so.
    """
    model = afd(2)
    if optimizers:
        model['phases'][:1] = [
            dict(name=f'peer{k}', optimizer=f'peer{k}', task=[f'peer{k}'], objectives=[f'logit{k}'])
            for k in range(2)
        ]
    own = optimizers or dict(logit=dict(optimizer=dict(type='SGD', lr=0.1)))
    rest = {
        name: dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=0.1))
        for name in ('feature', 'critic')
    }
    return Config(
        dict(
            default_scope='mmseg',
            train_dataloader=dict(batch_size=4),
            model=model,
            crop_size=(16, 16),
            optim_wrapper=dict(
                constructor='mmkd.PhaseOptimWrapperConstructor',
                **rest,
                **{name: dict(type='OptimWrapper', **value) for name, value in own.items()},
            ),
        )
    )


def test_peers_are_compared_with_the_sum_of_their_own_steps() -> None:
    """Both step alone in the one case; without critics the phase of the maps is gone, that of the
    logits stays.
    """
    pair = Pair(peers(), Options())
    assert [phase.name for phase in pair.lean.phases] == ['logit']
    assert list(pair.lean.objectives) == ['logit0', 'logit1']
    assert [phase.name for phase in pair.full.phases] == ['logit', 'feature', 'critic']
    seen: list[int] = []
    for k, model in enumerate(pair.plain):
        model.register_forward_hook(lambda *_, k=k: seen.append(k))
    cases = pair.cases()
    assert list(cases) == [
        'student',
        'teacher',
        'objectives',
        'critics',
        'step',
        'step_with_critic',
        'peer_student',
        'peer_teacher',
    ]
    cases['student']()
    assert seen == [0, 1]
    assert 'map0.critic_loss' in cases['step_with_critic']()
    assert set(cases['step']()) == {
        'peer0.loss_cls',
        'peer1.loss_cls',
        'logit0.loss',
        'logit1.loss',
        'loss',
    }


def test_each_peer_alone_takes_the_optimizer_of_its_own_losses() -> None:
    pair = Pair(
        peers(
            peer0=dict(optimizer=dict(type='SGD', lr=0.1), params=['students.peer0']),
            peer1=dict(optimizer=dict(type='AdamW', lr=0.1), params=['students.peer1']),
        ),
        Options(),
    )
    kinds = [
        type(pair.plain_wrapper(f'peer{k}', pair.plain[k], pair.optimizers).optimizer).__name__
        for k in range(2)
    ]
    assert kinds == ['SGD', 'AdamW']
    inherited = dict(student=dict(type='OptimWrapper', optimizer=dict(type='RMSprop', lr=0.1)))
    for optimizers in (
        pair.optimizers | inherited,
        {k: v for k, v in pair.optimizers.items() if k != 'feature'},
    ):
        wrapper = pair.plain_wrapper('peer1', pair.plain[1], optimizers)
        assert type(wrapper.optimizer).__name__ == 'AdamW', (
            'an optimizer that a base brought along is left alone'
        )
    assert [phase.name for phase in pair.lean.phases] == ['peer0', 'peer1']
    assert 'peer0.loss_cls' in pair.cases()['step']()


def test_targets_of_peers_are_their_own() -> None:
    found = run(peers(), Options(), iters=1, warmup=0)
    assert found['targets'] == PEER_TARGETS == dict(overhead=1.1)
    assert (
        found['ratios']['critics']
        == found['seconds']['critics'] / found['seconds']['step_with_critic']
    )
    assert run(config(critic=False), Options(), iters=1, warmup=0)['targets'] == TARGETS


def test_objectives_alone_are_run_forward_and_backward() -> None:
    pair = Pair(config(critic=False), Options())
    seen: list[torch.Tensor] = []
    for objective in pair.full.objectives.values():
        objective.loss.register_forward_hook(lambda loss, args, value: seen.append(value))
    pair.cases()['objectives']()
    assert [value.item() > 0 for value in seen] == [True, True]
    for value in seen:
        with pytest.raises(RuntimeError, match='second time'):
            value.backward()


def test_critics_alone_run_both_their_sides() -> None:
    pair = Pair(config(), Options())
    loss = pair.full.objectives['holistic'].loss
    seen: list[str] = []
    loss.register_forward_hook(lambda *_: seen.append('student'))
    critic_loss = loss.critic_loss
    loss.critic_loss = lambda **inputs: seen.append('critic') or critic_loss(**inputs)
    pair.cases()['critics']()
    assert seen == ['student', 'critic']
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.critic.parameters()), (
        'the critic learns'
    )


def test_noises_of_students_and_of_teachers_are_cases_of_their_own() -> None:
    def cases(noise: list) -> list[str]:
        pair = Pair(config(critic=False, noise=noise), Options())
        found = pair.cases()
        for name in ('noise', 'noisy_teacher'):
            found.get(name, lambda: None)()
        return list(found)

    both = [dict(type='GaussianInput', std=0.1), dict(type='TeacherDropout')]
    assert cases(both)[:5] == ['student', 'teacher', 'noise', 'noisy_teacher', 'objectives']
    assert 'noisy_teacher' not in cases(both[:1])
    assert 'noise' not in cases(both[1:])


def test_a_teacher_that_no_step_runs_is_no_part_of_a_case() -> None:
    both = {name: dict(model=tiny.segmentor(8), allow_untrained=True) for name in 'ab'}
    pixel = dict(
        loss=dict(type='PixelWiseKLLoss'), reads=dict(student='student.logits', teacher='a.logits')
    )
    dropout = dict(type='TeacherDropout', members=['a'])
    found = []
    for noise in ([], [dropout]):
        model = dict(teacher=None, teachers=both, objectives=dict(pixel=pixel), noise=noise)
        pair = Pair(config(critic=False, **model), Options())
        ran: list[str] = []
        for name, teacher in pair.full.teachers.items():
            teacher.backbone.register_forward_hook(lambda *_, to=ran, name=name: to.append(name))
        cases = pair.cases()
        for name in ('teacher', 'noisy_teacher', 'step'):
            cases.get(name, lambda: None)()
        found.append(ran)
    assert found == [['a'] * 2, ['a'] * 3]


def test_classifiers_are_measured_on_labelled_images() -> None:
    from mmkd.apis.launch import load_config

    cfg = load_config(str(ROOT / 'configs/noisy_collaboration/messy_resnet20-resnet8_cifar10.py'))
    pair = Pair(cfg, Options('fp32'), batch_size=4)
    assert (pair.size, pair.batch_size) == ((32, 32), 4)  # the config's crop_size
    logs = pair.cases()['step']()
    assert float(logs['loss']) == pytest.approx(float(logs['loss_cls'] + logs['kd.loss']), rel=1e-5)


def test_a_vocabulary_that_is_not_fitted_gets_random_words() -> None:
    quest = dict(loss=dict(type='AssignmentKLLoss', num_words=8, tau='auto'), on='feat')
    pair = Pair(config(critic=False, objectives=dict(quest=quest)), Options())
    words = pair.full.objectives['quest'].loss.vocabulary.words
    assert (words.mean().abs() < 0.5).item()
    assert words.std().item() == pytest.approx(1, abs=0.3)
    assert pair.cases()['step']()['quest.loss'] > 0


def test_with_critics_alone_there_is_only_the_step_with_critics() -> None:
    cfg = config(objectives=dict(holistic=tiny.holistic()))
    assert list(Pair(cfg, Options()).cases()) == [
        'student',
        'teacher',
        'critics',
        'step_with_critic',
        'peer_student',
        'peer_teacher',
    ]


def test_student_case_is_the_train_step_of_mmengine() -> None:
    pair = Pair(config(critic=False), Options())
    pair.optimizers['student']['optimizer']['lr'] = 0.1
    twin = copy.deepcopy(pair.plain[0])
    start = copy.deepcopy(twin.state_dict())
    wrapper = pair.wrapper(twin)
    case = pair.cases()['student']
    for _ in range(2):
        case()
        twin.train_step(copy.deepcopy(pair.data), wrapper)
    for (name, ours), theirs in zip(
        pair.plain[0].state_dict().items(), twin.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
        assert 'conv_seg.weight' not in name or not torch.equal(ours, start[name])


def test_peer_teacher_computes_its_losses_without_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(config(critic=False), Options())
    seen: list[tuple] = []
    teacher = pair.peer_teachers[0]
    original = type(teacher).forward

    def forward(self: nn.Module, inputs: torch.Tensor, data_samples: list, mode: str) -> Any:
        seen.append((self is teacher, mode, torch.is_grad_enabled(), inputs.dtype, self.training))
        return original(self, inputs, data_samples, mode)

    monkeypatch.setattr(type(teacher), 'forward', forward)
    pair.cases()['peer_teacher']()
    assert seen == [(True, 'loss', False, torch.float32, False)]


def test_rates_are_tiny_and_the_config_is_left_as_it_is() -> None:
    before = dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1)
    )
    after = quiet_optimizers(before, 'fp16')
    assert after == dict(
        type='AmpOptimWrapper', optimizer=dict(type='SGD', lr=1e-8), clip_grad=dict(max_norm=1)
    )
    assert before['optimizer']['lr'] == 0.1
    assert (
        quiet_optimizers(
            dict(
                type='AmpOptimWrapper',
                dtype='float16',
                loss_scale='dynamic',
                optimizer=dict(type='SGD', lr=0.1),
            ),
            None,
        )['loss_scale']
        == 'dynamic'
    )


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: Options(amp='fp8'), "amp must be one of .*'bf16'.* got 'fp8'"),
        (
            lambda: Options(channels_last='studnet'),
            "channels_last must be one of .*did you mean 'student'",
        ),
        (
            lambda: Pair(Config(dict(model=tiny.segmentor(4))), Options()),
            "the model of this config is 'EncoderDecoder'",
        ),
        (
            lambda: Pair(
                config(
                    student=dict(
                        model=tiny.segmentor(
                            4,
                            data_preprocessor=tiny.preprocessor(size=None)
                            | dict(size=None, size_divisor=32),
                        )
                    )
                ),
                Options(),
            ),
            'the data preprocessor has no size. Mend: --size H W',
        ),
    ],
)
def test_bad_input(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_a_variant_that_fails_does_not_stop_the_others() -> None:
    variants = {'broken': Options('fp16'), 'good': Options('fp32')}  # fp16 asserts on a CPU
    found = dict(
        run_variants(config(), variants, iters=1, warmup=0, device='cpu', clock=process_time)
    )
    assert set(found['broken']) == {'options', 'error'}
    assert found['good']['ratios'] == ratios(found['good']['seconds'], found['good']['bytes'])
    assert (
        found['good']['bytes']['peer_teacher'] > found['good']['bytes']['teacher']
    )  # resized logits, losses
    assert found['good']['ratios']['memory'] < 1.1


def test_the_presets() -> None:
    assert VARIANTS['fp32, NCHW'].member('teacher') == dict(
        channels_last=False, precision='fp32', fuse_bn=False, compile=False
    )
    assert VARIANTS['bf16, channels_last student'].member('student') == dict(channels_last=True)
    assert VARIANTS['bf16, channels_last student'].member('teacher')['channels_last'] is False
    assert [name for name, options in VARIANTS.items() if options.compile] == [
        'bf16, channels_last, teacher compiled',
        'bf16, channels_last, teacher compiled and fused',
    ]


# ---------------------------------------------------------------- mmrazor


def test_mmrazor_that_is_not_there(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmkd.apis.benchmark.peers.find_spec', lambda name: None)
    assert mmrazor_case(pair) == (None, 'mmrazor is not installed')


def test_mmrazor_that_does_not_import(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmkd.apis.benchmark.peers.find_spec', lambda name: object())
    for name in ('mmrazor', 'mmrazor.models', 'mmrazor.models.algorithms'):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    case, note = mmrazor_case(pair)
    assert case is None
    assert note.startswith('mmrazor does not run: ImportError: cannot import name')


def test_mmrazor_gets_the_same_models_and_taps(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict] = []

    class SingleTeacherDistill(nn.Module):
        def __init__(self, architecture: nn.Module, teacher: nn.Module, distiller: dict) -> None:
            super().__init__()
            self.student, self.teacher = architecture, teacher
            made.append(distiller)

        def train_step(self, data: dict, wrapper: Any) -> str:
            return 'stepped'

    fake = ModuleType('mmrazor.models.algorithms')
    fake.SingleTeacherDistill = SingleTeacherDistill
    monkeypatch.setattr('mmkd.apis.benchmark.peers.find_spec', lambda name: object())
    for name in ('mmrazor', 'mmrazor.models'):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, 'mmrazor.models.algorithms', fake)
    case, note = mmrazor_case(pair)
    assert case() == 'stepped'
    assert 'SingleTeacherDistill' in note
    assert made[0]['student_recorders']['logits']['source'] == 'decode_head.conv_seg'
    assert made[0]['teacher_recorders']['logits']['source'] == 'decode_head.conv_seg'


# ---------------------------------------------------------------- the tools


def test_tool_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    cfg = config()
    cfg.dump(str(tmp_path / 'config.py'))
    out = tmp_path / 'deep' / 'out.json'
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'benchmark.py',
            str(tmp_path / 'config.py'),
            '--size',
            '32',
            '32',
            '--iters',
            '1',
            '--warmup',
            '0',
            '--device',
            'cpu',
            '--channels-last',
            '--teacher-precision',
            'bf16',
            '--fuse-bn',
            '--json',
            str(out),
            '--cpu-time',
        ],
    )
    runpy.run_path(str(ROOT / 'tools' / 'benchmark.py'), run_name='__main__')
    found = json.loads(out.read_text())
    result = found['results']['as given']
    assert found['torch'] == torch.__version__
    assert result['options'] == dict(
        amp=None, channels_last='both', teacher_precision='bf16', fuse_bn=True, compile=None
    )
    assert (result['size'], result['batch_size']) == ([32, 32], 2)
    text = ' '.join(capsys.readouterr().out.split())
    for part in (
        'student step alone',
        "peers' teacher forward: fp32, mode='loss'",
        '≤ 1.25',
        'mmrazor',
        f'{result["ratios"]["overhead"]:.3f}',
    ):
        assert part in text, part


def test_tool_fails_where_nothing_could_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    Config(dict(model=tiny.segmentor(4))).dump(str(tmp_path / 'config.py'))
    monkeypatch.setattr(
        sys, 'argv', ['benchmark.py', str(tmp_path / 'config.py'), '--device', 'cpu']
    )
    with pytest.raises(SystemExit, match='1'):
        runpy.run_path(str(ROOT / 'tools' / 'benchmark.py'), run_name='__main__')
    assert 'compares students and teachers' in capsys.readouterr().out


def test_summary_holds_every_variant(capsys: pytest.CaptureFixture) -> None:
    seconds = dict(student=0.01, teacher=0.02, step=0.03)
    results = dict(
        first=dict(seconds=seconds, ratios=ratios(seconds, {})), second=dict(error='no memory')
    )
    print_summary(make_console(), results)
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if 'distillation step, without critics' in line)
    assert '30.0' in row
    assert '–' in row
    assert any('step / (student + teacher)' in line and '1.000' in line for line in lines)
    assert not any("mmrazor's step" in line for line in lines)


def test_pair_wise_benchmark_compares_equal_losses_and_leaves_out_what_does_not_fit() -> None:
    bench = runpy.run_path(str(ROOT / 'benchmarks' / 'pair_wise.py'))
    args = Namespace(
        batch_size=2, channels=(6, 10), device='cpu', iters=1, warmup=0, max_gib=1.0, cpu_time=True
    )
    found = bench['measure'](8, 16, args)
    assert found['values']['ours'] == pytest.approx(found['values']['materialised'], rel=1e-5)
    assert found['bytes']['ours'] < found['bytes']['materialised']
    assert found['materialised_gib'] == pytest.approx(5 * 4 * 2 * 128**2 / 2**30)
    args.max_gib = 0.0
    assert list(bench['measure'](8, 16, args)['seconds']) == ['ours']


def test_environment_names_hardware_and_versions() -> None:
    found = environment('cpu')
    assert found['torch'] == torch.__version__
    assert f'{torch.get_num_threads()} threads' in found['device']
    assert 'profiler' in found['memory']
