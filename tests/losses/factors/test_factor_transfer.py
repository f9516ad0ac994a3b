"""FactorTransferLoss by value, its paraphraser, and the fit of it before training."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import torch
import torch.nn.functional as F
from helpers import two_ranks_factors
from helpers.processes import ranks
from helpers.runs import model_of, run_config, train
from helpers.two_ranks_factors import config
from mmengine.runner import Runner
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from mmkd.losses import FactorTransferLoss, Paraphraser, factor_transfer
from mmkd.losses.factors.fitter import ParaphraserFitter, join, pieces_of
from mmkd.losses.factors.paraphraser import convolutions
from mmkd.losses.fitted.hook import FitHook


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


STUDENT, TEACHER = draw(3, 4, 5, 6), 2 * draw(3, 4, 5, 6, seed=1) + 1
FIT = dict(epochs=60, lr=1e-2)


def pieces(number: int = 96, channels: int = 6, rank: int = 3, side: int = 6) -> Tensor:
    """Return samples of maps that hold but ``rank`` directions, and where they count."""
    generator = torch.Generator().manual_seed(5)
    basis = torch.randn(channels, rank, generator=generator)
    codes = torch.randn(number, rank, side, side, generator=generator).relu()
    maps = torch.einsum('cr,nrhw->nchw', basis, codes).relu()
    return torch.cat([maps, torch.ones(number, 1, side, side)], 1)


# ---------------------------------------------------------------------- the value


@pytest.mark.parametrize('power', [1, 2])
def test_it_is_the_authors_but_for_the_number_of_values(power: int) -> None:
    """Their mean over unit vectors of whole images, which mmrazor's is too."""
    ours, theirs = (F.normalize(x.flatten(1)) for x in (STUDENT, TEACHER))
    official = (ours - theirs).abs().pow(power).mean()
    number = ours.shape[1]
    value = factor_transfer(STUDENT, TEACHER, power)
    torch.testing.assert_close(value, number ** (power / 2) * official)


def test_repdistillers_is_another_loss() -> None:
    """It squares and averages channels first."""
    ours, theirs = (F.normalize(x.pow(2).mean(1).flatten(1)) for x in (STUDENT, TEACHER))
    energy = 30**0.5 * (ours - theirs).abs().mean()
    assert abs(factor_transfer(STUDENT, TEACHER) - energy) > 0.1
    turned = STUDENT.flip(1)
    assert abs(factor_transfer(turned, STUDENT)) > 0.1, 'channels count'


def test_the_size_of_an_image_is_forgotten() -> None:
    size = draw(3, 1, 1, 1, seed=2).exp()
    value = factor_transfer(STUDENT, TEACHER)
    torch.testing.assert_close(factor_transfer(size * STUDENT, TEACHER / size), value)
    assert factor_transfer(3 * TEACHER, TEACHER) < 1e-15


def test_the_module_translates_and_paraphrases() -> None:
    """Masked places are 0 before the nets, so that what lies there reaches nothing."""
    loss = FactorTransferLoss(4, 6, rate=0.7, power=2, loss_weight=0.3).double()
    loss.paraphraser.draw(torch.Generator().manual_seed(0))
    teacher, mask = draw(3, 6, 5, 6, seed=3), torch.arange(90).view(3, 5, 6) % 4 != 1
    assert loss.paraphraser.width == 4
    net = convolutions([6, 6, 4, 4]).double()
    net.load_state_dict(dict(zip(net.state_dict(), loss.paraphraser.numbers(), strict=True)))
    torch.testing.assert_close(loss.paraphraser(teacher), net(teacher))
    ours, theirs = (x * mask[:, None] for x in (STUDENT, teacher))
    weight = draw(3, 5, 6, seed=4).abs()
    expected = 0.3 * factor_transfer(loss.translator(ours), net(theirs), 2, mask, weight)
    spoilt = STUDENT.masked_fill(~mask[:, None], float('nan'))
    torch.testing.assert_close(loss(spoilt, teacher, mask, weight), expected)
    expected.backward()
    assert all(p.grad.abs().sum() > 0 for p in loss.translator.parameters())
    assert [*loss.parameters()] == [*loss.translator.parameters()], 'the other part is frozen'


# ---------------------------------------------------------------------- the paraphraser


def test_an_autoencoder_of_few_directions_loses_little() -> None:
    """The report is the autoencoder's own error, and its factors tell the maps apart."""
    samples = pieces()
    paraphraser = Paraphraser(6, **FIT)
    report = paraphraser.fit(samples, seed=1)
    assert report['samples'] == 96
    assert report['vectors'] == 96 * 36
    assert report['error'] < 0.45
    assert Paraphraser(6, epochs=1).fit(samples, seed=1)['error'] > 2 * report['error']
    factor = paraphraser(samples[:, :-1])
    assert factor.shape == (96, 3, 6, 6)
    codes, maps = (x.movedim(1, -1).flatten(0, 2) for x in (factor, samples[:, :-1]))
    codes = torch.cat([codes, torch.ones(len(codes), 1)], 1)
    left = maps - codes @ torch.linalg.lstsq(codes, maps).solution
    assert left.square().sum() < 0.5 * (maps - maps.mean(0)).square().sum()


def test_a_fit_follows_its_seed_and_no_other_numbers() -> None:
    samples, states = pieces(20), torch.get_rng_state()
    fits = []
    for seed in (1, 1, 2):
        paraphraser = Paraphraser(6, epochs=2)
        paraphraser.fit(samples, seed)
        fits.append(paraphraser.weight0)
        torch.rand(3)
    torch.set_rng_state(states)
    assert torch.equal(fits[0], fits[1])
    assert not torch.equal(fits[0], fits[2])
    Paraphraser(6, epochs=1).fit(samples)
    assert torch.equal(torch.get_rng_state(), states)


def test_features_of_any_size_are_learned_alike() -> None:
    """The first layer takes them as they are."""
    samples = pieces(20)
    maps, counts = samples[:, :-1], samples[:, -1:]
    small, large = Paraphraser(6, epochs=5), Paraphraser(6, epochs=5)
    errors = [
        one.fit(torch.cat([size * maps, counts], 1))['error']
        for one, size in ((small, 1.0), (large, 4096.0))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
    torch.testing.assert_close(large(4096 * maps), small(maps), rtol=1e-2, atol=1e-4)


def test_samples_are_pieces_of_the_map() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.arange(2 * 20 * 24.0).view(1, 2, 20, 24)
    mask = torch.arange(480).view(1, 20, 24) % 5 != 0
    found = torch.cat([pieces_of(image, mask, number, generator) for number in (2, 3, 7)])
    assert found.shape == (6, 3, 16, 16), 'two of them cover the map'
    corners = set()
    for piece in found:
        first = int(piece[1, 1, 1]) or int(piece[1, 1, 2]) - 1
        top, left = divmod(first - 480 - 25, 24)
        corners.add((top, left))
        there = (slice(None), slice(top, top + 16), slice(left, left + 16))
        assert torch.equal(piece[2], mask[there][0].float())
        assert torch.equal(piece[:2], (image * mask[:, None])[0][there])
    assert len(corners) > 2
    small = pieces_of(image[..., :5, :7], None, 9, generator)
    assert small.shape == (1, 3, 5, 7), 'no more than cover the map'
    joined = join([found, small, small[:0]])
    assert joined.shape == (len(found) + 1, 3, 16, 16)
    assert joined[-1, 2].sum() == 5 * 7
    assert pieces_of(image, ~mask & mask, 3, generator).shape[0] == 0


@pytest.mark.parametrize('masked', [False, True])
def test_pieces_are_spread_over_images(masked: bool) -> None:
    """Four pieces' places of three images in two batches: 1, 1 and 2 of them, where they count."""
    loss = FactorTransferLoss(4, 2, epochs=1)
    source: Any = SimpleNamespace(loss=loss, masked=masked)
    generator = torch.Generator().manual_seed(0)
    fitter = ParaphraserFitter(source, 3, generator, max_places=4 * 256 + 255)
    maps = torch.arange(1.0, 4.0).view(3, 1, 1, 1).expand(3, 2, 40, 40)
    valid = torch.ones(3, 40, 40, dtype=torch.bool)
    valid[1] = False
    taken: list[Tensor] = []
    loss.paraphraser.fit = lambda samples, seed: taken.append(samples) or dict(seed=seed)
    for part in (slice(0, 2), slice(2, 3)):
        fitter.see(maps[part], SimpleNamespace(valid=valid[part]))
    assert fitter.finish() == dict(seed=0), 'that of the generator'
    images = [1.0, 3.0, 3.0] if masked else [1.0, 2.0, 3.0, 3.0]
    assert taken[0].amax((1, 2, 3)).tolist() == images
    assert bool(taken[0][:, -1].all())


def test_ignored_places_are_left_out(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.model.objectives.ft.reads = dict(mask='batch.valid')
    for path in (tmp_path / 'data/ann').iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        labels[:, :16] = 255
        cv2.imwrite(str(path), labels)
    runner = Runner.from_cfg(cfg)
    hook = FitHook()
    hook.before_train(runner)
    assert hook.reports['ft']['samples'] == 6
    assert hook.reports['ft']['vectors'] == 6 * 5 * 3


def test_places_that_do_not_count_teach_nothing() -> None:
    samples = pieces(12)
    beside = F.pad(samples, (0, 3, 0, 2))
    one, other = Paraphraser(6, epochs=3), Paraphraser(6, epochs=3)
    # Zeros beside a map are what a convolution sees there anyway, of the first layer alone.
    assert one.fit(samples)['vectors'] == other.fit(beside)['vectors'] == 12 * 36
    spoilt = samples.clone()
    spoilt[:, -1, :2] = 0
    spoilt[:, :-1, :2] = 0
    assert Paraphraser(6, epochs=1).fit(spoilt)['vectors'] == 12 * 24


# ---------------------------------------------------------------------- before training


def state_of(path: Path) -> dict:
    return torch.load(path, weights_only=False)['state_dict']


def test_it_is_fitted_before_the_first_step_and_frozen(tmp_path: Path) -> None:
    runner = Runner.from_cfg(config(tmp_path))
    loss = runner.model.objectives['ft'].loss
    assert not loss.paraphraser.fitted
    translator = [p.clone() for p in loss.translator.parameters()]
    random = torch.get_rng_state()
    FitHook().before_train(runner)
    assert torch.equal(torch.get_rng_state(), random)
    fitted = [buffer.clone() for buffer in loss.paraphraser.buffers()]
    runner.train()
    assert all(map(torch.equal, fitted, loss.paraphraser.buffers()))
    assert not any(map(torch.equal, translator, loss.translator.parameters()))
    hook = next(hook for hook in runner.hooks if type(hook) is FitHook)
    assert hook.reports == {}, 'it was there already'
    saved = state_of(tmp_path / 'run/iter_4.pth')
    for name, buffer in loss.paraphraser.named_buffers():
        assert torch.equal(saved[f'objectives.ft.loss.paraphraser.{name}'], buffer)
    scalars = runner.message_hub.log_scalars['train/ft.loss'].data[0]
    assert all(0 < value < 20 for value in scalars)


def test_the_hook_fits_what_one_fits_by_hand(tmp_path: Path) -> None:
    """On maps of 5×5 that are one sample each: six images, in order."""
    runner = Runner.from_cfg(config(tmp_path))
    hook = FitHook()
    hook.before_train(runner)
    part = runner.model.objectives['ft'].loss.paraphraser
    assert hook.reports['ft']['samples'] == 6
    assert hook.reports['ft']['vectors'] == 150
    teacher, found = runner.model.teacher, []
    handle = teacher.decode_head.bottleneck.register_forward_hook(
        lambda *args: found.append(args[2])
    )
    for data in runner.val_dataloader:
        with torch.no_grad():
            teacher(runner.model.data_preprocessor(data, False)['inputs'], mode='tensor')
    handle.remove()
    maps = torch.cat(found)
    again = Paraphraser(maps.shape[1], epochs=3)
    again.fit(torch.cat([maps, torch.ones_like(maps[:, :1])], 1), runner.seed)
    for one, other in zip(again.numbers(), part.numbers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_resume_is_exact_and_fits_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(config(tmp_path, name='straight'))
    train(config(tmp_path, max_iters=2))
    monkeypatch.setattr('mmkd.losses.fitted.hook.fit_parts', None)
    train(config(tmp_path), resume=True)
    straight, resumed = (state_of(tmp_path / name / 'iter_4.pth') for name in ('straight', 'run'))
    assert list(straight) == list(resumed)
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())
    assert 'objectives.ft.loss.paraphraser.weight0' in resumed


@pytest.mark.slow
def test_two_ranks_share_the_paraphraser_of_one(tmp_path: Path) -> None:
    """Rank 0 fits what one process fits, and rank 1 receives it."""
    runner = Runner.from_cfg(config(tmp_path))  # writes the images too
    FitHook().before_train(runner)
    ranks(two_ranks_factors.work, tmp_path)
    first, second = (json.loads((tmp_path / f'rank{rank}.json').read_text()) for rank in range(2))
    assert (first['fits'], second['fits']) == (1, 0)
    assert first['buffers'] == second['buffers']
    assert first['translator'] == second['translator']
    part = runner.model.objectives['ft'].loss.paraphraser
    for got, expected in zip(first['buffers'], part.buffers(), strict=True):
        got = torch.tensor(got).double()
        torch.testing.assert_close(got, expected.double().flatten(), rtol=1e-4, atol=1e-6)


@pytest.mark.bad_input
def test_another_teacher_or_tap_is_refused(tmp_path: Path) -> None:
    train(config(tmp_path, max_iters=2, val_interval=9))
    checkpoint = str(tmp_path / 'run/iter_2.pth')
    changes: tuple[tuple[str, dict[str, Any], str], ...] = (
        ('teacher', dict(randomness=dict(seed=5)), r'another teacher \(other weights'),
        ('tap', {'model.taps': dict(feat='auto:feature')}, 'another tap of the teacher, so'),
    )
    for name, changed, message in changes:
        with pytest.raises(
            ValueError,
            match=f"objective 'ft': this paraphraser was fitted to {message}.*its numbers mean "
            'nothing here.*Mend: give back the .* or fit one anew: FitHook without',
        ):
            train(config(tmp_path, name=name, load_from=checkpoint, **changed))
    train(config(tmp_path, name='same', max_iters=1, val_interval=9, load_from=checkpoint))


@pytest.mark.bad_input
def test_what_is_refused(tmp_path: Path) -> None:
    for options, message in (
        (dict(rate=0.0), 'rate must be a finite number above 0'),
        (dict(epochs=0), 'epochs must be a whole number of at least 1'),
        (dict(lr=-1.0), 'lr must be a finite number above 0'),
        (dict(power=3), 'power must be one of'),
    ):
        with pytest.raises(ValueError, match=message):
            FactorTransferLoss(**options)
    with pytest.raises(ValueError, match='power must be one of'):
        factor_transfer(STUDENT, TEACHER, 3)
    with pytest.raises(ValueError, match=r'factor transfer needs maps .* mend: connectors'):
        factor_transfer(STUDENT, TEACHER[:, :2])
    with pytest.raises(RuntimeError, match='translator are not built.*Mend: student_channels='):
        FactorTransferLoss()(STUDENT, TEACHER)
    loss = FactorTransferLoss(4, 4)
    with pytest.raises(NotFittedError, match='the paraphraser is not fitted.*Mend: .*FitHook'):
        loss(STUDENT, TEACHER)
    for student in (STUDENT[:, :, 0], STUDENT[..., :4], STUDENT[:2]):
        with pytest.raises(ValueError, match=r'needs maps \(N, C, H, W\) of one size'):
            loss(student, TEACHER)
    loss.paraphraser.draw(torch.Generator())
    assert loss.paraphraser.fitted
    for role, maps in (
        ('student', (STUDENT[:, :3], TEACHER)),
        ('teacher', (STUDENT, TEACHER[:, :3])),
    ):
        with pytest.raises(
            ValueError,
            match=rf'for a {role} of 4 channels, got \(3, 3, 5, 6\); mend: {role}_channels=3',
        ):
            loss(*maps)
    loss.paraphraser.bias1[0] = float('inf')
    with pytest.raises(
        ValueError, match=r'the paraphraser: 1 of its \d+ numbers are NaN or Inf. Mend'
    ):
        loss(STUDENT, TEACHER)
    peer = dict(
        loss=dict(type='FactorTransferLoss'),
        reads=dict(student='one.feat', teacher='two.feat'),
    )
    cfg = run_config(tmp_path, model_of(critic=False, objectives=dict(ft=peer)))
    small = cfg.model.pop('student')
    cfg.model.students = dict(one=small, two=small)
    with pytest.raises(ValueError, match="'ft' reads teacher='two.feat', which is no teacher"):
        train(cfg)


@pytest.mark.bad_input
def test_what_no_paraphraser_is_fitted_to() -> None:
    paraphraser, samples = Paraphraser(6), pieces(4)
    nothing = samples.clone()
    nothing[:, -1] = 0
    zero, nan = samples.clone(), samples.clone()
    zero[:, :-1] = 0
    nan[0, 0] = float('nan')
    for wrong, message in (
        (samples[:, 1:], r'of 6 channels needs samples \(P, 7, h, w\), got \(4, 6, 6, 6\)'),
        (nothing, 'no place of .* counts, so no paraphraser can be fitted. Mend'),
        (zero, 'hold NaN or Inf, or nothing but 0'),
        (nan, 'hold NaN or Inf, or nothing but 0'),
    ):
        with pytest.raises(ValueError, match=message):
            paraphraser.fit(wrong)
    with pytest.raises(ValueError, match=r'became NaN or Inf in 9 epochs of lr=1e\+30. Mend: lr='):
        Paraphraser(6, epochs=9, lr=1e30).fit(samples)
    assert not paraphraser.fitted


def test_a_stand_in_is_measured_before_it_is_fitted() -> None:
    loss = FactorTransferLoss(4, 4)
    said = loss.stand_in(torch.Generator().manual_seed(0))
    assert said == 'random paraphrasing layers here: training fits them first'
    assert loss.stand_in(torch.Generator()) == ''
    assert isinstance(loss.translator, nn.Sequential)
    assert loss(STUDENT, TEACHER) > 0
