"""DigitScenes: the scenes are what the recipe says, pixel by pixel, the same everywhere, and
mmseg's like any other.
"""

import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from sklearn.datasets import load_digits

from mmkd.datasets import DigitScenes
from mmkd.datasets.digit_scenes import SPLITS, compose_scene, sample_ink, scramble, split_digits
from mmkd.registry import DATASETS


def slow_ink(
    ink: np.ndarray, y: int, x: int, centre: np.ndarray, side: float, angle: float
) -> float:
    """Read a digit at one pixel of the canvas: turn, scale, then bilinear between the four nearest
    values.
    """
    dy, dx = (y - centre[0]) * 8 / side, (x - centre[1]) * 8 / side
    v = math.cos(angle) * dy - math.sin(angle) * dx + 3.5
    u = math.sin(angle) * dy + math.cos(angle) * dx + 3.5
    total = 0.0
    for row in range(8):
        for column in range(8):
            total += ink[row, column] * max(0.0, 1 - abs(v - row)) * max(0.0, 1 - abs(u - column))
    return total


def slow_scene(
    index: int,
    split: str,
    seed: int,
    size: int,
    num_digits: tuple[int, int],
    digit_size: tuple[int, int],
    clutter: int,
    noise: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Compose a scene one pixel at a time from the description in the docstrings."""
    rng = np.random.default_rng((seed, ['train', 'val', 'test'].index(split), index))
    ink, labels = split_digits(split)
    corners = rng.uniform(0.25, 0.75, (2, 2, 3))
    image, seg_map = np.zeros((size, size, 3)), np.zeros((size, size), int)
    for y in range(size):
        for x in range(size):
            down, right = y / (size - 1), x / (size - 1)
            top = corners[0, 0] * (1 - right) + corners[0, 1] * right
            bottom = corners[1, 0] * (1 - right) + corners[1, 1] * right
            image[y, x] = top * (1 - down) + bottom * down
    for place in range(clutter + rng.integers(num_digits[0], num_digits[1] + 1)):
        chosen = rng.integers(len(ink))
        is_clutter = place < clutter
        digit = scramble(ink[chosen], rng) if is_clutter else ink[chosen]
        side = rng.uniform(*digit_size)
        centre = rng.uniform(side / 3, size - side / 3, 2)
        colour = 0.8 * rng.integers(2, size=3) + rng.uniform(0, 0.2, 3)
        angle = rng.uniform(-0.35, 0.35)
        for y in range(size):
            for x in range(size):
                drawn = slow_ink(digit, y, x, centre, side, angle)
                cover = min(1.0, max(0.0, 2 * drawn - 0.5))
                image[y, x] = (1 - cover) * image[y, x] + cover * colour
                if drawn >= 0.47:
                    seg_map[y, x] = 0 if is_clutter else labels[chosen] + 1
    image += noise * rng.standard_normal(image.shape)
    return np.round(255 * image.clip(0, 1)), seg_map


OPTIONS: dict[str, Any] = dict(
    size=32, num_digits=(2, 3), digit_size=(10, 22), clutter=1, noise=0.1
)


@pytest.mark.parametrize(
    ('split', 'index', 'seed'), [('train', 0, 0), ('train', 7, 5), ('test', 3, 0)]
)
def test_a_scene_is_what_the_slow_loop_composes(split: str, index: int, seed: int) -> None:
    image, seg_map = DigitScenes(split=split, num_scenes=8, seed=seed, **OPTIONS).scene(index)
    slow_image, slow_map = slow_scene(index, split, seed, **OPTIONS)
    assert np.abs(image - slow_image).max() <= 1  # a value half way may round either way
    assert (image == slow_image).mean() > 0.999
    np.testing.assert_array_equal(seg_map, slow_map)


def test_an_upright_digit_at_its_own_size_is_itself() -> None:
    ink = split_digits('val')[0][0]
    window, drawn = sample_ink(ink, 20, (9.5, 8.5), 8, 0.0)
    canvas = np.zeros((20, 20))
    canvas[window] = drawn
    expected = np.zeros((20, 20))
    expected[6:14, 5:13] = ink
    np.testing.assert_allclose(canvas, expected, atol=1e-12)


def test_a_quarter_turn_is_numpys() -> None:
    ink = split_digits('val')[0][1]
    window, drawn = sample_ink(ink, 20, (9.5, 9.5), 8, math.pi / 2)
    canvas = np.zeros((20, 20))
    canvas[window] = drawn
    np.testing.assert_allclose(canvas[6:14, 6:14], np.rot90(ink, -1), atol=1e-12)


def test_the_window_holds_all_ink() -> None:
    """Drawn on a canvas that cuts nothing, the ink grows with the area: nothing is lost at the
    window's edge.
    """
    full = np.ones((8, 8))
    for angle in (0.0, 0.35, math.pi / 4):
        window, drawn = sample_ink(full, 120, (60.2, 59.7), 48, angle)
        assert drawn.sum() == pytest.approx(48 * 48, rel=0.002)
        assert max(drawn[0].max(), drawn[-1].max(), drawn[:, 0].max(), drawn[:, -1].max()) < 1e-9


@pytest.mark.parametrize('draw', range(4))
def test_scrambling_moves_every_quadrant_or_turns_them(draw: int) -> None:
    class Fixed:
        def integers(self, _: int) -> int:
            return draw

    ink = np.arange(64.0).reshape(8, 8)
    shuffled = scramble(ink, Fixed())  # type: ignore[arg-type]
    places = [
        (slice(0, 4), slice(0, 4)),
        (slice(0, 4), slice(4, 8)),
        (slice(4, 8), slice(0, 4)),
        (slice(4, 8), slice(4, 8)),
    ]
    moved = [not np.array_equal(ink[place], shuffled[place]) for place in places]
    assert sorted(shuffled.ravel()) == list(range(64))
    assert sum(moved) >= 3


def test_the_digits_are_scikit_learns_and_the_splits_disjoint() -> None:
    source, values = load_digits(return_X_y=True)
    parts = [split_digits(split) for split in ('train', 'val', 'test')]
    np.testing.assert_array_equal(
        np.concatenate([ink for ink, _ in parts]).reshape(-1, 64) * 16, source
    )
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in parts]), values)
    assert [len(labels) for _, labels in parts] == [1257, 180, 360]
    seen = [{ink.tobytes() for ink in part} for part, _ in parts]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    for _, labels in parts:
        assert set(labels) == set(range(10))


def test_the_default_scenes_are_frozen() -> None:
    """Numbers of the demo depend on these scenes: a change here is a change of the data set."""
    scenes = DigitScenes(num_scenes=20)
    labels = np.stack([scenes.scene(i)[1] for i in range(20)])
    images = np.stack([scenes.scene(i)[0] for i in range(20)])
    assert hashlib.sha256(labels.tobytes()).hexdigest()[:16] == '2baa1aeece6a3e03'
    np.testing.assert_allclose(
        images[0, 5:8, 5].astype(int), [[90, 91, 94], [138, 120, 74], [122, 109, 88]], atol=1
    )
    assert images.mean() == pytest.approx(131.6458, abs=0.01)


@pytest.mark.parametrize('split', SPLITS)
def test_a_scene_depends_on_seed_split_and_index_alone(split: str) -> None:
    one, other = DigitScenes(split=split, num_scenes=3), DigitScenes(split=split, num_scenes=30)
    for index in (2, 0, 1):  # in another order, and from a larger set
        for first, second in zip(one.scene(index), other.scene(index), strict=True):
            assert first.tobytes() == second.tobytes()
    images = [
        scenes.scene(index)[0].tobytes()
        for scenes, index in (
            (one, 0),
            (one, 1),
            (DigitScenes(split=split, seed=1), 0),
            *((DigitScenes(split=name), 0) for name in SPLITS if name != split),
        )
    ]
    assert len(set(images)) == 5


def test_all_classes_are_there_and_every_digit_keeps_its_ink() -> None:
    scenes = DigitScenes(split='test', num_scenes=60)
    counts = np.bincount(
        np.concatenate([scenes.scene(i)[1].ravel() for i in range(60)]), minlength=11
    )
    share = counts / counts.sum()
    assert 0.75 < share[0] < 0.9
    assert share[1:].min() > 0.005


def test_the_label_is_the_digit_where_its_ink_is() -> None:
    """One digit on a plain background, no noise: the label is where the picture differs from the
    background.
    """
    ink, labels = split_digits('val')
    plain = dict(size=48, num_digits=(1, 1), digit_size=(24, 40), clutter=0, noise=0.0)
    for index in range(10):
        image, seg_map = compose_scene(
            ink[index : index + 1], labels[index : index + 1], np.random.default_rng(index), **plain
        )
        assert set(np.unique(seg_map)) == {0, labels[index] + 1}
        background = _ramp(np.random.default_rng(index).uniform(0.25, 0.75, (2, 2, 3)), 48)
        ink_colour = np.median(image[seg_map > 0].astype(float), axis=0)
        to_ink = np.abs(image - ink_colour).sum(-1)
        to_background = np.abs(image - background * 255).sum(-1)
        assert ((to_ink < to_background) == (seg_map > 0)).mean() > 0.97


def _ramp(corners: np.ndarray, size: int) -> np.ndarray:
    return (
        torch.nn.functional.interpolate(
            torch.from_numpy(corners).permute(2, 0, 1)[None],
            size=(size, size),
            mode='bilinear',
            align_corners=True,
        )[0]
        .permute(1, 2, 0)
        .numpy()
    )


def test_samples_may_be_written_into() -> None:
    scenes = DigitScenes(num_scenes=1)
    before = scenes[0]
    before['img'][:] = 0
    before['gt_seg_map'][:] = 7
    after = scenes[0]
    assert after['img'].any()
    assert set(np.unique(after['gt_seg_map'])) != {7}


def test_a_scene_is_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    composed = []
    monkeypatch.setattr(
        'mmkd.datasets.digit_scenes.compose_scene',
        lambda *args, **kwargs: composed.append(1) or compose_scene(*args, **kwargs),
    )
    scenes = DigitScenes(num_scenes=5)
    assert composed == []
    for index in (3, 3, -2, 4):  # -2 is 3
        scenes[index]
    assert len(composed) == 2


def test_indices_choose_scenes() -> None:
    chosen = DigitScenes(num_scenes=10, indices=[7, 2])
    assert len(chosen) == 2
    np.testing.assert_array_equal(chosen[0]['img'], DigitScenes(num_scenes=10).scene(7)[0])
    assert chosen[0]['img_path'] == 'train_0_00007.png'
    assert chosen[0]['sample_idx'] == 0


def test_fewer_classes_map_the_labels() -> None:
    scene = DigitScenes(split='val', num_scenes=1)
    classes = ['3', 'background', '9']
    subset = DigitScenes(split='val', num_scenes=1, metainfo=dict(classes=classes))
    old, new = scene[0]['gt_seg_map'], subset[0]['gt_seg_map']
    table = np.full(11, 255)
    table[[4, 0, 10]] = [0, 1, 2]
    np.testing.assert_array_equal(new, table[old])
    assert subset.metainfo['palette'] == [DigitScenes.METAINFO['palette'][i] for i in (4, 0, 10)]


@pytest.fixture
def dataset() -> Any:
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield DATASETS.build(
            dict(
                type='mmkd.DigitScenes',
                split='val',
                num_scenes=6,
                test_mode=True,
                pipeline=[dict(type='PackSegInputs')],
            )
        )


def test_the_usual_pipeline_packs_it(dataset: DigitScenes) -> None:
    sample = dataset[0]
    image, seg_map = dataset.scene(0)
    np.testing.assert_array_equal(sample['inputs'].permute(1, 2, 0).numpy(), image)
    np.testing.assert_array_equal(sample['data_samples'].gt_sem_seg.data[0].numpy(), seg_map)
    assert sample['data_samples'].ori_shape == sample['data_samples'].img_shape == (64, 64)


def test_a_perfect_prediction_has_miou_100_and_another_the_hand_value(dataset: DigitScenes) -> None:
    with DefaultScope.overwrite_default_scope('mmseg'):
        evaluator = Evaluator(dict(type='IoUMetric', iou_metrics=['mIoU']))
    evaluator.dataset_meta = dataset.metainfo
    truth = [dataset[i]['data_samples'] for i in range(6)]
    for guess, expected in ((None, 100.0), (0, None)):
        for sample in truth:
            label = sample.gt_sem_seg.data
            evaluator.process(
                [
                    dict(
                        gt_sem_seg=dict(data=label),
                        pred_sem_seg=dict(data=label if guess is None else torch.zeros_like(label)),
                    )
                ]
            )
        background = np.mean([(sample.gt_sem_seg.data == 0).double().mean() for sample in truth])
        classes = len(np.unique([sample.gt_sem_seg.data.numpy() for sample in truth]))
        expected = (
            expected or 100 * background / classes
        )  # background's IoU is its share, each other class has 0
        assert evaluator.evaluate(6)['mIoU'] == pytest.approx(expected, abs=0.01)


def test_the_base_config_builds_disjoint_loaders() -> None:
    cfg = Config.fromfile('configs/_base_/datasets/digit_scenes.py')
    with DefaultScope.overwrite_default_scope('mmseg'):
        loaders = {
            split: Runner.build_dataloader(cfg[f'{split}_dataloader'], seed=0) for split in SPLITS
        }
    assert {split: loader.dataset.split for split, loader in loaders.items()} == {
        s: s for s in SPLITS
    }
    batch = next(iter(loaders['train']))
    assert batch['inputs'][0].shape == (3, 64, 64)
    assert not [step for step in cfg.train_dataloader.dataset.pipeline if 'Flip' in step.type]
    assert not loaders['train'].dataset.test_mode
    assert loaders['test'].dataset.test_mode


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            dict(split='tain'),
            r"split must be one of \('train', 'val', 'test'\), got 'tain'; did you mean 'train'\?",
        ),
        (dict(num_scenes=0), r'num_scenes must be a whole number of at least 1, got 0'),
        (dict(num_scenes=2.5), r'num_scenes must be a whole number of at least 1, got 2\.5'),
        (dict(num_scenes=True), r'num_scenes must be a whole number of at least 1, got True'),
        (dict(size=8), r'size must be a whole number of at least 16, got 8'),
        (dict(size=(64, 64)), r'size must be a whole number of at least 16, got \(64, 64\)'),
        (dict(seed=-1), r'seed must be a whole number of at least 0, got -1'),
        (dict(clutter=-1), r'clutter must be a whole number of at least 0, got -1'),
        (dict(noise=-0.1), r'noise must be a number from 0 to 1, got -0\.1'),
        (dict(noise=float('nan')), r'noise must be a number from 0 to 1, got nan'),
        (dict(noise='0.1'), r"noise must be a number from 0 to 1, got '0\.1'"),
        (
            dict(num_digits=4),
            r'num_digits must be \(smallest, largest\) with 1 <= smallest <= largest <= 100 '
            r'\(whole numbers\), got 4',
        ),
        (dict(num_digits=(5, 3)), r'num_digits must be .*, got \(5, 3\)'),
        (dict(num_digits=(1.5, 3)), r'num_digits must be .*\(whole numbers\), got \(1\.5, 3\)'),
        (
            dict(digit_size=(4, 30)),
            r'digit_size must be \(smallest, largest\) with 8 <= smallest <= largest <= 64, got '
            r'\(4, 30\)',
        ),
        (dict(digit_size=(20, 80)), r'digit_size must be .* <= 64, got \(20, 80\)'),
    ],
)
def test_bad_values(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitScenes(**arguments)


@pytest.mark.parametrize(('name', 'near'), [('num_scene', 'num_scenes'), ('piepline', 'pipeline')])
def test_unknown_arguments(name: str, near: str) -> None:
    with pytest.raises(
        TypeError, match=f"DigitScenes got an unknown key '{name}'; did you mean .*'{near}'"
    ):
        DigitScenes(**{name: 1})


def test_arguments_that_name_files_are_refused() -> None:
    with pytest.raises(TypeError, match="DigitScenes got an unknown key 'data_root'"):
        DigitScenes(data_root='data')
