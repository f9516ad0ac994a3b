"""PGD by hand, against a slow loop, in pixel units; its test loop; robustness() and
tools/robustness.py.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.classification import classifier, config, distiller
from helpers.runs import run_config, train
from helpers.shells import config_file, here, names
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import LOOPS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmkd.apis.launch import build_runner, prepare_config
from mmkd.apis.robustness import robustness
from mmkd.engine.runner.pgd_loop import pgd, pixel_units


def images(n: int = 4, seed: int = 0, **options: Any) -> Tensor:
    """Return images of [0, 1] pixels, some of them black or white."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(n, 3, 5, 6, generator=generator, **options) - 0.5).clamp(0, 1)


def network(seed: int = 0) -> nn.Module:
    """Return a small differentiable classifier in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5)).double()


LABELS = torch.tensor([0, 1, 2, 3])


def test_equals_the_equation_value_by_value() -> None:
    """Without a random start, in plain numpy around the gradient."""
    model, x = network(), images(dtype=torch.float64)
    moved = x.numpy().copy()
    for _ in range(5):
        at = torch.from_numpy(moved).requires_grad_()
        F.cross_entropy(model(at), LABELS, reduction='sum').backward()
        for index in np.ndindex(*moved.shape):
            value = moved[index] + 0.02 * np.sign(at.grad[index].item())
            value = min(max(value, x[index].item() - 0.05), x[index].item() + 0.05)
            moved[index] = min(max(value, 0.0), 1.0)
    found = pgd(lambda z: F.cross_entropy(model(z), LABELS), x, 0.05, 0.02, 5, random_start=False)
    assert torch.allclose(found, torch.from_numpy(moved), atol=1e-12, rtol=0)


def test_limits() -> None:
    x, slope = images(), torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(3))

    def linear(z: Tensor) -> Tensor:
        return (z * slope).sum((1, 2, 3))

    assert torch.equal(pgd(linear, x, epsilon=0.0), x), 'nothing is allowed to move'
    steps_end_first = pgd(linear, x, 0.5, 0.01, 3, random_start=False)
    assert torch.allclose(steps_end_first, (x + 0.03 * slope.sign()).clamp(0, 1), atol=1e-6)
    epsilon_ends_first = pgd(linear, x, 0.02, 0.01, 9)
    assert torch.allclose(epsilon_ends_first, (x + 0.02 * slope.sign()).clamp(0, 1), atol=1e-6), (
        'from any start'
    )


def test_stays_in_the_box_and_raises_the_loss() -> None:
    model, x = network(), images(dtype=torch.float64)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def loss(z: Tensor) -> Tensor:
        return F.cross_entropy(model(z), LABELS)

    values = []
    for steps in (1, 5, 20):
        moved = pgd(loss, x, 0.031, 0.003, steps, generator=torch.Generator().manual_seed(0))
        assert (moved - x).abs().max() <= 0.031 + 1e-9
        assert moved.min() >= 0
        assert moved.max() <= 1
        assert not moved.requires_grad
        values.append(loss(moved).item())
    assert loss(x).item() < values[0] < values[1] < values[2]
    assert all(p.grad is None for p in model.parameters()), 'the network is left alone'
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_random_start_is_uniform_seeded_and_clipped() -> None:
    x = torch.full((100, 3, 20, 20), 0.5)

    def start(seed: int) -> Tensor:  # steps too small to count
        return pgd(
            lambda z: z.sum(), x, 0.1, 1e-9, 1, generator=torch.Generator().manual_seed(seed)
        )

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))
    noise = (start(0) - x) / 0.1
    assert noise.mean().abs() < 3 * 3**-0.5 / 120_000**0.5
    assert noise.var().item() == pytest.approx(1 / 3, rel=0.01)
    assert noise.abs().max() <= 1 + 1e-5


def test_works_under_no_grad_and_leaves_the_images() -> None:
    x = images()
    before = x.clone()
    with torch.no_grad():
        moved = pgd(lambda z: z.square().sum(), x, random_start=False)
    assert not torch.equal(moved, x)
    assert torch.equal(x, before)


def test_attack_on_normalised_images_is_the_attack_on_pixels() -> None:
    """255/std is 1 in the units of the network; channel order and padding value do not matter."""
    preprocessor = ImgDataPreprocessor(mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0])
    x, model = images(), network().float()
    mean, std = (getattr(preprocessor, name).view(3, 1, 1) for name in ('mean', 'std'))
    normalised = (255 * x - mean) / std
    unit, low, high = pixel_units(preprocessor, normalised)
    attacked = pgd(
        lambda z: F.cross_entropy(model(z), LABELS),
        normalised,
        random_start=False,
        unit=unit,
        low=low,
        high=high,
    )
    pixels = pgd(
        lambda z: F.cross_entropy(model((255 * z - mean) / std), LABELS), x, random_start=False
    )
    assert torch.allclose((attacked * std + mean) / 255, pixels, atol=1e-5)
    raw = pixel_units(ImgDataPreprocessor(), x)
    assert [value.item() for value in raw] == [255, 0, 255]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(epsilon=-0.1), 'epsilon must be a finite number, 0 or above, got -0.1'),
        (dict(step=0.0), 'step must be a finite number above 0, got 0.0'),
        (dict(steps=0), 'steps must be a whole number of at least 1, got 0'),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pgd(lambda z: z.sum(), images(), **options)


# ---------------------------------------------------------------------- on models


def attacked(cfg: Any, checkpoint: Path, **attack: Any) -> tuple[Runner, dict[str, float]]:
    """Test under attack, as a config says it."""
    cfg.load_from, cfg.test_cfg = str(checkpoint), dict(type='mmkd.PGDTestLoop', **attack)
    runner = build_runner(prepare_config(cfg))
    return runner, runner.test()


def test_a_classifier_that_reads_colours_fails_where_they_may_change(tmp_path: Path) -> None:
    """What is trained to tell three colours is right on all, until the attack may move a pixel by
    half its range.
    """
    cfg = config(tmp_path, classifier(4), max_iters=100)
    cfg.merge_from_dict(
        dict(train_cfg=dict(val_interval=100), default_hooks=dict(checkpoint=dict(interval=100)))
    )
    train(cfg)
    results = {}
    for epsilon in (0.0, 0.5):
        fresh = config(tmp_path, classifier(4), name=f'attack_{epsilon}')
        results[epsilon] = attacked(
            fresh, tmp_path / 'run/iter_100.pth', epsilon=epsilon, step=0.1
        )[1]['accuracy/top1']
    assert results[0.0] == 100
    assert results[0.5] < 50


def test_of_a_distiller_the_student_that_predicts_is_attacked(tmp_path: Path) -> None:
    """The same student as a plain model gives the same numbers; objectives and teacher have no part
    in it.
    """
    model = distiller()
    train(config(tmp_path, model, max_iters=1))
    whole = attacked(config(tmp_path, model, name='whole'), tmp_path / 'run/iter_1.pth')[1]
    alone = attacked(
        config(tmp_path, classifier(2), name='alone'), tmp_path / 'run/student/iter_1.pth'
    )[1]
    assert whole == alone


def test_segmentors_keep_their_padding(tmp_path: Path) -> None:
    """Images of 40×40 in batches padded to 48×48 are attacked inside alone."""
    from helpers.tiny import segmentor

    student = segmentor(4, num_classes=3, size=32)
    student['data_preprocessor'].update(test_cfg=dict(size_divisor=48))
    runner = build_runner(prepare_config(run_config(tmp_path, student)))
    loop = LOOPS.build(
        dict(type='mmkd.PGDTestLoop', steps=2),
        default_args=dict(
            runner=runner,
            dataloader=runner.cfg.test_dataloader,
            evaluator=runner.cfg.test_evaluator,
        ),
    )
    seen: list[tuple[Tensor, str]] = []
    labels: list[Tensor] = []
    forward = runner.model.forward

    def spy(inputs: Tensor, samples: Any = None, mode: str = 'tensor') -> Any:
        seen.append((inputs.detach().clone(), mode))
        labels.append(samples[0].gt_sem_seg.data)
        return forward(inputs, samples, mode)

    runner.model.forward = spy
    runner.call_hook('before_run')
    loop.run()
    clean = runner.model.data_preprocessor(next(iter(loop.dataloader)), False)['inputs']
    assert [mode for _, mode in seen[:3]] == ['loss', 'loss', 'predict']
    assert labels[0].shape == (1, 48, 48), 'the loss is taken where it belongs'
    assert (labels[0][:, 40:] == 255).all()
    assert (labels[0][:, :, 40:] == 255).all()
    assert labels[0][:, :40, :40].max() < 3
    assert labels[2].shape == (1, 40, 40), 'what is scored stays as it is'
    moved = seen[2][0] - clean
    assert clean.shape[-2:] == (48, 48)
    assert moved[..., :40, :40].abs().gt(0).float().mean() > 0.9
    assert moved[..., 40:, :].abs().max() == 0
    assert moved[..., 40:].abs().max() == 0
    unit = 255 / runner.model.data_preprocessor.std.view(3, 1, 1)
    assert (moved.abs() <= 0.031 * unit + 1e-5).all()


def test_loop_refusals(tmp_path: Path) -> None:
    runner = build_runner(prepare_config(run_config(tmp_path)))
    parts = dict(
        runner=runner, dataloader=runner.cfg.test_dataloader, evaluator=runner.cfg.test_evaluator
    )
    with pytest.raises(
        TypeError, match=r"PGDTestLoop got an unknown key 'epsilom'; did you mean 'epsilon'"
    ):
        LOOPS.build(dict(type='mmkd.PGDTestLoop', epsilom=0.1), default_args=parts)
    with pytest.raises(ValueError, match='precision of the weights. Mend: fp16=False'):
        LOOPS.build(dict(type='mmkd.PGDTestLoop', fp16=True), default_args=parts)


# ---------------------------------------------------------------------- robustness


def test_conditions_share_images_and_the_mean_is_one(tmp_path: Path) -> None:
    """The images of every condition are the same evenly spread ones; 'corrupted' is the mean over
    the corruptions.
    """
    runner = build_runner(prepare_config(config(tmp_path, classifier(4))))
    paths: list[list[str]] = []
    predict = runner.model.forward

    def spy(inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        if mode == 'predict':
            paths[-1].extend(sample.img_path for sample in data_samples)
        return predict(inputs, data_samples, mode)

    runner.model.forward = spy
    found: dict[str, dict[str, float]] = {}
    paths.append([])
    for condition, metrics in robustness(
        runner, ['contrast', 'gaussian_noise'], [5], 6, dict(steps=1)
    ):
        found[condition] = metrics
        paths.append([])
    assert list(found) == ['clean', 'contrast', 'gaussian_noise', 'corrupted', 'PGD']
    whole = runner.build_dataloader(runner.cfg.test_dataloader).dataset
    spread = [whole.get_data_info(i)['img_path'] for i in (0, 2, 4, 7, 9, 11)]
    assert [p for p in paths if p] == [spread] * 4
    mean = (found['contrast']['accuracy/top1'] + found['gaussian_noise']['accuracy/top1']) / 2
    assert found['corrupted'] == {'accuracy/top1': mean}


def test_corruption_comes_last_before_packing(tmp_path: Path) -> None:
    runner = build_runner(prepare_config(run_config(tmp_path)))
    before = runner.cfg.test_dataloader.dataset.pipeline
    steps = [step.type for step in before]
    list(robustness(runner, ['contrast'], [1, 5]))
    loader = runner.test_loop.dataloader
    assert [type(step).__name__ for step in loader.dataset.pipeline.transforms] == [
        *steps[:-1],
        'Corrupt',
        steps[-1],
    ]
    assert loader.dataset.pipeline.transforms[-2].severity == 5
    assert [step.type for step in runner.cfg.test_dataloader.dataset.pipeline] == steps, (
        'the config stays'
    )


def test_robustness_refusals(tmp_path: Path) -> None:
    runner = build_runner(prepare_config(config(tmp_path, classifier(4))))
    with pytest.raises(
        ValueError, match="corruptions must be one of .* got 'contrasts'; did you mean 'contrast'"
    ):
        next(robustness(runner, ['contrasts']))
    with pytest.raises(ValueError, match='severities must be one of .* got 6'):
        next(robustness(runner, severities=[6]))
    with pytest.raises(ValueError, match='images must be a whole number of at least 1, got 0'):
        next(robustness(runner, images=0))
    runner.cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[])
    with pytest.raises(
        ValueError, match='the test set ConcatDataset has no pipeline .* Mend: --cfg-options'
    ):
        next(robustness(runner))


def test_tool_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    path = config_file(tmp_path, max_iters=1, name='first')
    monkeypatch.chdir(tmp_path)
    here('train.py', path, '--work-dir', 'work', *names('robust_train'), monkeypatch=monkeypatch)
    here(
        'robustness.py',
        path,
        'work/iter_1.pth',
        '--work-dir',
        'test',
        '--images',
        '3',
        '--corruptions',
        'contrast',
        '--severities',
        '3',
        '5',
        '--steps',
        '1',
        '--json',
        'found.json',
        *names('robust_test'),
        monkeypatch=monkeypatch,
    )
    found = json.loads((tmp_path / 'found.json').read_text())
    assert list(found) == ['clean', 'contrast', 'corrupted', 'PGD']
    assert found['contrast'] == found['corrupted']
    printed = capfd.readouterr().out
    assert f'{found["PGD"]["mIoU"]:.2f}' in printed
    assert 'severities [3, 5]' in printed
