"""What a student said of the last batch, whose images come again: DLB."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from helpers import classification, two_ranks_last_batch
from helpers.processes import ranks
from helpers.runs import run_config, train
from helpers.states import checkpoint, differences
from helpers.tiny import batch, build, segmentor, sgd
from helpers.unlabelled import mark
from mmengine.hooks import Hook
from torch import Tensor, nn

from mmkd.apis.benchmark.pair import Options, Pair
from mmkd.apis.doctor import diagnose
from mmkd.apis.prepare import prepare_config
from mmkd.distiller.members.kinds import LastBatch
from mmkd.engine.hooks import LastBatchHook
from mmkd.engine.hooks.last_batch import again, joined
from mmkd.engine.optimizers.bf16_optim_wrapper import Bf16OptimWrapper
from mmkd.tasks import Classification, generated_batch

LAST = dict(kind='last-batch', of='student')
OBJECTIVE = dict(
    loss=dict(type='PixelWiseKLLoss', tau=3.0),
    reads=dict(student='student.logits', teacher='last.logits', mask='batch.repeated'),
)


def net(**options: Any) -> dict:
    return segmentor(2, num_classes=3, size=32, auxiliary=False, **options)


def config(student: dict | None = None, **changes: Any) -> dict:
    return (
        dict(
            type='mmkd.Distiller',
            student=dict(model=student or net()),
            teachers=dict(last=LAST),
            taps=dict(logits='auto'),
            objectives=dict(dlb=copy.deepcopy(OBJECTIVE)),
        )
        | changes
    )


def louder() -> Any:
    """Return a Distiller whose student says something: as it is drawn, all classes are alike."""
    torch.manual_seed(0)
    model = build(config(net(dropout=0.0)))
    model.student.decode_head.conv_seg.weight.data *= 30
    return model


def led(model: Any, **runner: Any) -> tuple[LastBatchHook, Any]:
    """Return the hook at the start of a training, and what stands for its runner."""
    hook = LastBatchHook()
    loop = SimpleNamespace(max_iters=99, val_interval=99)
    runner = SimpleNamespace(**dict(model=model, iter=0, train_loop=loop, hooks=[]) | runner)
    hook.before_train(runner)
    return hook, runner


def steps(model: Any, batches: list[dict], **options: Any) -> Iterator[tuple[dict, dict]]:
    """Train on batches, the hook beside; yield what a step saw and what it returned."""
    hook, runner = led(model)
    wrapper = options.pop('wrapper', None) or sgd(model, lr=0.1)
    for runner.iter, data in enumerate(batches):
        hook.before_train_iter(runner, runner.iter, data)
        logs = model.train_step(dict(data), wrapper)
        hook.after_train_iter(runner, runner.iter, data)
        yield data, logs


def maps(number: int, n: int = 2) -> list[dict]:
    return [batch(n, 32, 3, seed=seed, ignore=0.2) for seed in range(number)]


# ---------------------------------------------------------------------- the numbers


def linear() -> Any:
    """Return a Distiller of a linear model of images."""
    torch.manual_seed(0)
    student = dict(
        type='mmkd.ImageClassifier', backbone=nn.Flatten(), num_classes=3, in_channels=12288
    )
    return build(config(student, taps=dict(logits='head.fc')))


def test_a_linear_model_learns_what_the_slow_loop_does() -> None:
    """z = W x + b, by its own gradients: CE of both halves, T² KL to what it said a step ago."""
    model = linear()
    W, b = (p.detach().double().clone() for p in model.student.parameters())
    batches = []
    for seed in range(5):
        torch.manual_seed(seed)
        batches.append(generated_batch(3, (64, 64), Classification(3)))
    plain = copy.deepcopy(batches)
    found = [logs['dlb.loss'] for _, logs in steps(model, batches, wrapper=sgd(model, lr=1e-4))]
    moves, last = [torch.zeros_like(W), torch.zeros_like(b)], None
    for step, data in enumerate(plain):
        seen = model.data_preprocessor(data, True)
        x = seen['inputs'].flatten(1).double()
        y = torch.tensor([int(one.gt_label) for one in seen['data_samples']])
        now, said = (x, y), x @ W.T + b
        if last is not None:
            x, y = torch.cat([last[0], x]), torch.cat([last[1], y])
        z = x @ W.T + b
        gradient = (z.softmax(1) - F.one_hot(y, 3)) / len(x)
        kl = 0.0
        if last is not None:
            n = len(last[2])
            p, q = (z[:n] / 3).softmax(1), (last[2] / 3).softmax(1)
            kl = 9 * sum(float((q[i] * (q[i] / p[i]).log()).sum()) for i in range(n)) / n
            gradient[:n] += 3 * (p - q) / n  # of T² KL: T (p − q)
        assert float(found[step]) == pytest.approx(kl, rel=1e-3, abs=1e-7)
        for own, move, g in zip((W, b), moves, (gradient.T @ x, gradient.sum(0)), strict=True):
            move.mul_(0.9).add_(g)
            own.sub_(1e-4 * move)
        last = (*now, said)
    for mine, own in zip(model.student.parameters(), (W, b), strict=True):
        torch.testing.assert_close(mine.detach().double(), own, rtol=1e-4, atol=1e-6)
    assert found[0] == 0
    assert all(x > 0 for x in found[1:])


def test_of_label_maps_it_is_the_kl_to_the_maps_of_the_step_before() -> None:
    """Student and loss stepped by hand: the mean over the pixels of what comes again."""
    model, other = louder(), louder()
    taken: list[Tensor] = []
    other.student.decode_head.conv_seg.register_forward_hook(lambda *a: taken.append(a[-1]))
    wrapper, before, first = sgd(other, lr=0.1), None, None
    plain = copy.deepcopy(maps(4))
    for step, (_, logs) in enumerate(steps(model, maps(4))):
        data = plain[step] if first is None else joined(first, plain[step])
        first = copy.deepcopy(plain[step])
        seen = other.data_preprocessor(data, True)
        loss = other.student(**seen, mode='loss')['decode.loss_ce']
        said, kl = taken[-1], torch.zeros(())
        if before is not None:
            s, t = said[:2].movedim(1, -1).flatten(0, 2), before.movedim(1, -1).flatten(0, 2)
            kl = 9 * F.kl_div((s / 3).log_softmax(1), (t / 3).softmax(1), reduction='batchmean')
        before = said[-2:].detach().clone()
        wrapper.update_params(loss + kl)
        torch.testing.assert_close(logs['dlb.loss'], kl.detach(), rtol=1e-4, atol=1e-7)
    assert logs['dlb.loss'] > 0
    for mine, own in zip(model.student.parameters(), other.student.parameters(), strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-3, atol=1e-5)


def test_the_first_step_is_that_of_the_student_alone() -> None:
    """Value and gradient are 0, whatever the weight."""
    states = []
    for weight in (1.0, 1e9):
        model = louder()
        model.objectives['dlb'].weight = weight
        (_, logs), *_ = steps(model, maps(1))
        assert logs['dlb.loss'] == 0
        states.append(model.student.state_dict())
    assert differences(*states) == []


def test_it_says_of_new_images_what_the_student_says() -> None:
    """So nothing is to be learned there, with the mask or without it."""
    objectives = dict(dlb=copy.deepcopy(OBJECTIVE), all=copy.deepcopy(OBJECTIVE))
    objectives['all']['reads'].pop('mask')
    model = build(config(objectives=objectives))
    for _, logs in steps(model, maps(3)):
        torch.testing.assert_close(logs['all.loss'], logs['dlb.loss'] / 2, rtol=1e-4, atol=1e-7)


def test_a_step_that_is_looked_at_twice_counts_once() -> None:
    """As by GradientShareHook, which observes the batch again."""
    rule = LastBatch()
    said = torch.arange(4.0).view(2, 2).requires_grad_()
    rule.recall('logits', said, [])
    rule.recall('logits', said + 1, [])
    rule.recall('logits', said.detach() + 2, [])  # and a probe not at all
    rule.turn()
    assert torch.equal(rule.recall('logits', said.detach(), [0, 1]), said)
    rule.eval()
    rule.recall('logits', said + 1, [])
    assert not rule.heard


def test_under_autocast_what_was_said_stays_as_it_was_said() -> None:
    model = louder()
    wrapper = Bf16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    found = [logs['dlb.loss'] for _, logs in steps(model, maps(3), wrapper=wrapper)]
    assert found[0] == 0
    assert all(x.isfinite() and x > 0 for x in found[1:])
    assert model.combined['last'].heard['logits'].dtype == torch.bfloat16


def test_a_batch_of_one_is_two_from_the_second_step_on() -> None:
    model = build(config(net(head='FCNHead')))
    found = [(len(x['inputs']), logs['dlb.loss']) for x, logs in steps(model, maps(3, n=1))]
    assert [number for number, _ in found] == [1, 2, 2]
    assert found[2][1] > 0


def test_images_without_labels_come_again_as_well() -> None:
    batches = [mark(one, [1, 2]) for one in maps(3, n=4)]
    model = build(config())
    for step, (data, logs) in enumerate(steps(model, batches)):
        assert len(data['inputs']) == (4 if step == 0 else 8)
        assert logs['loss'].isfinite()
    assert logs['dlb.loss'] > 0


def test_the_samples_that_come_again_are_as_they_were() -> None:
    """A preprocessor pads the labels of the samples that it is given."""
    data = batch(2, 20, 3)
    kept = again(data)
    build(config()).data_preprocessor(data, True)
    assert kept['data_samples'][0].gt_sem_seg.shape == (20, 20)
    assert [one.repeated for one in kept['data_samples']] == [True, True]
    whole = joined(kept, batch(1, 32, 3))
    assert [tuple(x.shape[1:]) for x in whole['inputs']] == [(20, 20), (20, 20), (32, 32)]


# ---------------------------------------------------------------------- runs


class Seen(Hook):
    """Notes every batch as the model gets it."""

    priority = 'LOW'

    batches: ClassVar[list[list[Tensor]]] = []  # a Runner copies its hooks

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.batches.append([x.clone() for x in data_batch['inputs']])


def run(folder: Path, name: str, iters: int, resume: bool = False) -> tuple[Any, list]:
    cfg = run_config(folder, config(), max_iters=iters, interval=3, val_interval=99, name=name)
    cfg.optim_wrapper.pop('critic')
    cfg.custom_hooks.append(Seen())
    Seen.batches.clear()
    return train(cfg, resume), list(Seen.batches)


def halves_agree(batches: list[list[Tensor]]) -> bool:
    """Return whether each batch begins with the new images of the one before, view by view."""
    pairs = zip(batches, batches[1:], strict=False)
    return all(
        len(one[-2:]) == len(other[:2]) and all(map(torch.equal, one[-2:], other[:2]))
        for one, other in pairs
    )


def test_a_run_repeats_the_view_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, seen = run(tmp_path, 'whole', 5)
    assert [len(one) for one in seen] == [2, 4, 4, 4, 4]
    assert halves_agree(seen)
    _, first = run(tmp_path, 'parts', 3)
    parts, second = run(tmp_path, 'parts', 5, resume=True)
    assert [len(one) for one in second] == [4, 4]
    assert all(map(torch.equal, sum(first + second, []), sum(seen, [])))
    one, other = checkpoint(whole, 'iter_5.pth'), checkpoint(parts, 'iter_5.pth')
    for key in ('state_dict', 'optimizer'):
        assert differences(one[key], other[key]) == [], key
    assert one['state_dict']['combined.last.rank0.logits'].shape[0] == 2


def test_a_run_by_epochs_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Across the end of an epoch, whose last batch is smaller."""
    student = dict(model=classification.classifier(2))
    states = []
    for name, ends in (('whole', (2,)), ('parts', (1, 2))):
        for epochs in ends:
            model = config(student['model'], taps=dict(logits='head.fc'))
            cfg = classification.config(tmp_path, model, name=name)
            cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=9)
            cfg.param_scheduler = []
            cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
            cfg.train_dataloader.batch_size = 4
            cfg.default_hooks.checkpoint = dict(
                type='mmkd.SafeCheckpointHook', by_epoch=True, interval=1, save_best=None
            )
            runner = train(cfg, resume=epochs == 2 and name == 'parts')
        states.append(checkpoint(runner, 'epoch_2.pth'))
    assert differences(states[0]['state_dict'], states[1]['state_dict']) == []


def test_weights_without_a_memory_begin_with_new_images(tmp_path: Path) -> None:
    model = build(config())
    list(steps(model, maps(2)))
    state = model.state_dict()
    plain = {key: x for key, x in state.items() if not key.startswith('combined.')}
    rule = model.combined['last']
    model.load_state_dict(state)
    assert rule.knows(['logits'])
    assert not rule.knows(['logits', 'feat'])
    model.load_state_dict(plain)
    assert not rule.knows(['logits'])
    said: list[str] = []
    logger = SimpleNamespace(warning=said.append)
    hook, _ = led(model, iter=7, logger=logger)
    assert hook._last is None
    assert 'begins anew' in said[0]
    assert said.pop().endswith('the checkpoint holds nothing of it')
    two = {key.replace('rank0', 'rank1'): x for key, x in state.items()}
    model.load_state_dict({**state, **two})
    led(model, iter=7, logger=logger)
    assert said.pop().endswith('the checkpoint holds what 2 ranks said, this run has 1')
    model.load_state_dict(state)
    loader = SimpleNamespace(dataset=[], batch_sampler=SimpleNamespace(sampler=None))
    led(model, iter=7, logger=logger, train_loop=SimpleNamespace(dataloader=loader))
    mend = "Mend: custom_hooks=[dict(type='mmkd.ExactResumeHook'), …]"
    assert said.pop().endswith(f'ExactResumeHook is not there. {mend}')
    with pytest.raises(RuntimeError, match='Unexpected key'):
        model.load_state_dict({**state, 'combined.last.rank0': torch.zeros(1)})


def test_two_ranks_repeat_their_own_and_one_checkpoint_holds_both(tmp_path: Path) -> None:
    ranks(two_ranks_last_batch.work, tmp_path)
    found = [json.loads((tmp_path / f'rank{k}.json').read_text()) for k in (0, 1)]
    assert found[0]['heard'] != found[1]['heard']
    assert found[0]['state'] == found[1]['state']
    for rank, one in enumerate(found):
        assert one['images'] == 4
        assert one['loss'] > 0
        assert one['knows']
        assert one['kept'] == one['heard'] == one['state'][f'combined.last.rank{rank}.logits']


def test_mmkd_train_adds_the_hook_once(tmp_path: Path) -> None:
    for hooks in ([], [dict(type='mmkd.LastBatchHook')]):
        cfg = run_config(tmp_path, config(), custom_hooks=hooks)
        cfg.optim_wrapper.pop('critic')
        kinds = [one['type'] for one in prepare_config(cfg).custom_hooks]
        assert kinds == ['mmkd.LastBatchHook']


def test_the_doctor_and_the_benchmark_take_it(tmp_path: Path) -> None:
    cfg = run_config(tmp_path, config())
    cfg.optim_wrapper.pop('critic')
    assert diagnose(cfg, batches=1, val_batches=1).errors == []
    for case in Pair(cfg, Options(), batch_size=2).cases().values():
        case()


def test_a_run_without_such_a_teacher_is_left_alone() -> None:
    hook = LastBatchHook()
    data = batch(2, 32)
    runner = SimpleNamespace(model=nn.Identity(), iter=0)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, data)
    hook.after_train_iter(runner, 0, data)
    assert len(data['inputs']) == 2


# ---------------------------------------------------------------------- mistakes


def told(error: type, text: str) -> Any:
    return pytest.raises(error, match=re.escape(text))


@pytest.mark.parametrize(
    ('last', 'error', 'text'),
    [
        (dict(kind='last-batch', of=['student', 'big']), ValueError, 'recalls one student'),
        (dict(kind='last-batch', of='big'), ValueError, "'big' is a teacher"),
        (dict(kind='last-batch', of='studnt'), KeyError, "did you mean 'student'"),
        (dict(kind='last-batch', of='student', drop=0.5), TypeError, 'drop'),
        (dict(kind='last-bach', of='student'), ValueError, "did you mean 'last-batch'"),
    ],
)
def test_a_mistake_in_the_config_is_told(last: dict, error: type, text: str) -> None:
    big = dict(model=net(), allow_untrained=True)
    with told(error, text):
        build(config(teachers=dict(big=big, last=last)))


def test_a_combination_of_it_is_refused() -> None:
    big = dict(model=net(), allow_untrained=True)
    both = dict(kind='mean', of=['big', 'last'])
    with told(ValueError, 'is a combination itself'):
        build(config(teachers=dict(big=big, last=LAST, both=both)))


def test_views_of_another_size_are_told() -> None:
    """Of random crops that nothing pads to one size."""
    preprocessor = dict(net()['data_preprocessor'], size=None, size_divisor=32)
    model = build(config(net() | dict(data_preprocessor=preprocessor)))
    batches = [batch(2, 32, 3), batch(2, 64, 3)]
    with told(ValueError, 'views of another size cannot be compared'):
        list(steps(model, batches))


def test_stacked_images_of_another_size_are_told() -> None:
    with told(ValueError, 'inputs of the last batch is (2, 3, 4, 4), of this one (1, 3, 8, 8)'):
        joined(dict(inputs=torch.zeros(2, 3, 4, 4)), dict(inputs=torch.zeros(1, 3, 8, 8)))


def test_what_changes_images_afterwards_is_told() -> None:
    with told(ValueError, 'InputMixup changes them in every step anew'):
        led(build(config(noise=[dict(type='InputMixup')], task_weight=0.0)))
    model = build(config())
    model.data_preprocessor.batch_augments = nn.Identity()
    with told(ValueError, 'batch_augments of the data_preprocessor'):
        led(model)


def test_a_stored_teacher_beside_is_told() -> None:
    model = build(config())
    stored = SimpleNamespace(role='teacher', live=False, where="teacher 'big'")
    model.runs = {'big': stored, **model.runs}
    with told(ValueError, "of which teacher 'big' holds nothing"):
        led(model)


@pytest.mark.parametrize('data', [[torch.zeros(1)], dict(inputs=[]), dict(data_samples=[1])])
def test_batches_without_samples_are_told(data: Any) -> None:
    with told(TypeError, 'cannot be told to come again'):
        again(data)


def test_what_nobody_led_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        'mmkd.distiller.members.kinds.last_batch.print_log', lambda text, **_: said.append(text)
    )
    model, wrapper = build(config()), None
    wrapper = sgd(model)
    for data in maps(3):
        assert model.train_step(data, wrapper)['dlb.loss'] == 0
    assert len(said) == 1
    assert 'mmkd.LastBatchHook' in said[0]
    data = batch(2, 32, 3)
    data['data_samples'][0].set_metainfo(dict(repeated=True))
    with told(RuntimeError, 'nothing is kept of what was said'):
        model.train_step(data, wrapper)


def test_images_that_come_again_elsewhere_are_told() -> None:
    with told(ValueError, 'must be the first of the batch, got places [1]'):
        LastBatch().recall('logits', torch.zeros(2, 3), [1])


def test_several_tensors_of_a_tap_are_told() -> None:
    with told(TypeError, 'cannot be recalled'):
        LastBatch().recall('logits', [torch.zeros(1)], [])
