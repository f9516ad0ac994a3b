"""FitHook: tokens are fitted by the teacher's task before the first step, saved and checked."""

from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from helpers.runs import model_of, run_config, train
from mmengine.config import Config
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmkd.distiller.members.teacher import Teacher
from mmkd.losses.features.mask_tokens import masks_of, overlap
from mmkd.losses.fitted.fitting import batches_of
from mmkd.losses.fitted.hook import FitHook
from mmkd.losses.fitted.training_images import training_images
from mmkd.losses.quest.hook import VocabularyHook
from mmkd.structures.batch import Batch

TAPS = dict(logits='decode_head.conv_seg', feat='decode_head.conv_seg:input')
STEPS = 12


def tokens(on: str = 'logits', **changes: Any) -> dict:
    loss = dict(type='MaskedTokenLoss', num_tokens=3, fit=dict(steps=STEPS) | changes)
    connect = dict(teacher='auto') if on == 'logits' else dict(student='auto')
    return dict(loss=loss, on=on, connectors=connect)


def config(folder: Path, objectives: dict | None = None, **changes: Any) -> Config:
    model = model_of(critic=False, taps=TAPS, objectives=objectives or dict(deep=tokens()))
    cfg = run_config(folder, model, **changes)
    cfg.custom_hooks = cfg.custom_hooks + [dict(type='mmkd.FitHook')]
    return cfg


def state_of(path: Path) -> dict:
    return torch.load(path, weights_only=False)['state_dict']


@pytest.mark.parametrize('on', ['logits', 'feat'])
def test_the_first_step_is_that_of_the_formula(tmp_path: Path, on: str) -> None:
    """One step of SGD, against autograd through the head by hand."""
    runner = Runner.from_cfg(config(tmp_path, dict(deep=tokens(on, steps=1, lr=0.5))))
    model = runner.model
    before = {key: x.clone() for key, x in model.teacher.state_dict().items()}
    FitHook(images=2).before_train(runner)
    got = model.objectives.deep.loss.tokens.tokens
    generator = torch.Generator().manual_seed(runner.seed)
    start = (0.01 * torch.randn(got.shape, generator=generator)).requires_grad_()
    batch = batches_of(model)(next(iter(training_images(runner.cfg, images=2))))
    head = model.teacher.decode_head
    feature = model.runs['teacher'].watch(batch)[on]
    masks = masks_of(feature, start)
    masked = feature * masks.sum(1, keepdim=True)
    logits = (
        masked
        if on == 'logits'
        else torch.nn.functional.conv2d(masked, head.conv_seg.weight, head.conv_seg.bias)
    )
    labels = batch.labels
    full = torch.nn.functional.interpolate(logits, labels.shape[1:], mode='bilinear')
    loss = torch.nn.functional.cross_entropy(full, labels) + overlap(masks)
    slope = torch.autograd.grad(loss, start)[0] + 1e-3 * start
    torch.testing.assert_close(got, (start - 0.5 * slope).detach(), rtol=1e-4, atol=1e-7)
    after = model.teacher.state_dict()
    assert all(torch.equal(x, after[key]) for key, x in before.items())
    assert all(p.grad is None for p in model.teacher.parameters())


def test_masks_keep_the_task_better_than_at_first(tmp_path: Path) -> None:
    reports = []
    for steps in (1, 60):
        runner = Runner.from_cfg(config(tmp_path, dict(deep=tokens(steps=steps, dice=0.1))))
        hook = FitHook()
        hook.before_train(runner)
        reports.append(hook.reports['deep'])
    first, last = reports
    assert (first['steps'], last['steps']) == (1, 60)
    assert last['task_loss'] + 0.1 * last['overlap'] < first['task_loss'] + 0.1 * first['overlap']


def test_resume_is_exact_and_fits_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objectives = dict(deep=tokens(), feat=tokens('feat'))
    straight = train(config(tmp_path, objectives, name='straight'))
    train(config(tmp_path, objectives, max_iters=2))
    monkeypatch.setattr('mmkd.losses.fitted.hook.fit_parts', None)
    train(config(tmp_path, objectives), resume=True)
    one, other = (state_of(tmp_path / name / 'iter_4.pth') for name in ('straight', 'run'))
    assert list(one) == list(other)
    assert all(torch.equal(x, other[key]) for key, x in one.items())
    for name in objectives:
        saved = one[f'objectives.{name}.loss.tokens.tokens']
        assert saved.isfinite().all()
        assert torch.equal(saved, straight.model.objectives[name].loss.tokens.tokens)
    early = state_of(tmp_path / 'straight/iter_2.pth')
    assert torch.equal(
        early['objectives.deep.loss.tokens.tokens'], one['objectives.deep.loss.tokens.tokens']
    )


@pytest.mark.bad_input
def test_tokens_of_another_teacher_or_tap_are_refused(tmp_path: Path) -> None:
    short = dict(max_iters=1, val_interval=9)
    train(config(tmp_path, **short))
    load = dict(load_from=str(tmp_path / 'run/iter_1.pth'), **short)
    with pytest.raises(ValueError, match="objective 'deep': this set of tokens was fitted to anoth"
                       'er teacher.*Mend: give back the teacher .*FitHook'):  # fmt: skip
        train(config(tmp_path, name='teacher', randomness=dict(seed=5), **load))
    taps = dict(TAPS, logits='decode_head.conv_seg:output')
    with pytest.raises(ValueError, match='fitted to another tap of the teacher'):
        train(config(tmp_path, name='tap', **{'model.taps': taps}, **load))
    train(config(tmp_path, name='same', **load))


@pytest.mark.bad_input
def test_what_cannot_be_fitted(tmp_path: Path) -> None:
    cfg = config(tmp_path, name='call')
    cfg.model.taps.logits = 'decode_head.conv_seg#0'
    with pytest.raises(ValueError, match='cannot be changed on its way.*Mend: a tap such as'):
        train(cfg)
    with pytest.raises(
        ValueError, match="objective 'deep': the tokens became NaN or Inf.*Mend: fit"
    ):
        train(config(tmp_path, dict(deep=tokens(lr=1e30)), name='lr'))
    cfg = config(tmp_path, name='without')
    cfg.custom_hooks = cfg.custom_hooks[:-1]
    with pytest.raises(ValueError, match="objective 'deep': .*the tokens are not fitted.*Mend: "):
        train(cfg)
    peer = dict(loss=tokens()['loss'], reads=dict(student='one.logits', teacher='two.logits'))
    cfg = config(tmp_path, dict(deep=peer), name='peers')
    small = cfg.model.pop('student')
    cfg.model.students = dict(one=small, two=small)
    with pytest.raises(ValueError, match='which is no teacher .*tokens fitted to features that go'):
        train(cfg)
    with pytest.raises(ValueError, match='images must be a whole number of at least 1, got 0'):
        HOOKS.build(dict(type='mmkd.FitHook', images=0))


def test_runs_without_such_a_loss_are_left_alone(tmp_path: Path) -> None:
    runner = Runner.from_cfg(run_config(tmp_path, model_of(critic=False)))
    for key in ('train_dataloader', 'val_dataloader'):
        runner.cfg.pop(key)
    hook = FitHook()
    hook.before_train(runner)
    assert hook.reports == {}


def test_what_has_no_label_is_left_out_of_the_overlap(tmp_path: Path) -> None:
    """Of one step of SGD by the overlap alone, which labels do not change but by their mask."""
    objective = tokens(steps=1, lr=0.5, dice=1e9) | dict(reads=dict(mask='batch.valid'))
    cfg = config(tmp_path, dict(deep=objective))
    for path in (tmp_path / 'data/ann').iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels[:, :16] = 255
        cv2.imwrite(str(path), labels)
    runner = Runner.from_cfg(cfg)
    FitHook(images=2).before_train(runner)
    got = runner.model.objectives.deep.loss.tokens.tokens
    generator = torch.Generator().manual_seed(runner.seed)
    start = (0.01 * torch.randn(got.shape, generator=generator)).requires_grad_()
    batch = batches_of(runner.model)(next(iter(training_images(runner.cfg, images=2))))
    logits = runner.model.runs['teacher'].watch(batch)['logits']
    kept, every = (
        torch.autograd.grad(overlap(masks_of(x, start)), start)[0]
        for x in (logits[..., 2:], logits)
    )
    step = (start.detach() - got) / 0.5e9
    torch.testing.assert_close(step, kept, rtol=0, atol=1e-4 * kept.abs().max().item())
    assert (step - every).abs().max() > 1e-3 * kept.abs().max()


def test_one_pass_is_for_all_that_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words and two paraphrasers: the teacher sees each image once."""
    words = dict(type='AssignmentKLLoss', num_words=6, tau='auto', target_perplexity=2.0)
    factors = dict(type='FactorTransferLoss', epochs=2)
    every = dict(words=words, factors=factors, shorter=dict(factors, epochs=1))
    seen: list[int] = []
    watch = Teacher.watch

    def watching(self: Teacher, batch: Batch, **options: Any) -> dict:
        seen.append(len(batch.inputs))
        return watch(self, batch, **options)

    monkeypatch.setattr(Teacher, 'watch', watching)
    found = []
    for names in (every, ['factors']):
        objectives = {name: dict(loss=every[name], on='feat') for name in names}
        runner = Runner.from_cfg(config(tmp_path, objectives))
        seen.clear()
        hook = FitHook()
        hook.before_train(runner)
        assert sum(seen) == 6
        assert set(hook.reports) == set(names)
        found.append({name: runner.model.objectives[name].loss.part for name in names})
    together, alone = found
    assert all(part.fitted for part in together.values())
    # A map of 5×5 is one piece, wherever it begins.
    for one, other in zip(together['factors'].buffers(), alone['factors'].buffers(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(together['factors'].weight0, together['shorter'].weight0)


def test_it_comes_after_the_hook_of_vocabularies(tmp_path: Path) -> None:
    runner = Runner.from_cfg(config(tmp_path))
    order = [type(hook) for hook in runner.hooks]
    assert order.index(VocabularyHook) < order.index(FitHook)
    assert VocabularyHook.kind is not FitHook.kind
