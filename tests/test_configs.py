"""Every recipe builds and trains two iterations through its own Runner, on generated images and untrained teachers."""
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS

from mmkd.launch import build_runner, is_distiller, load_config, prepare_config

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
RECIPES = sorted(path for path in CONFIGS.rglob('*.py') if not {'_base_', 'demo'} & set(path.parts))
CAMVID = [path for path in RECIPES if path.stem.endswith('_camvid')]
CITYSCAPES = [path for path in RECIPES if '_cityscapes-' in path.stem]
SIZE = (64, 96)


@pytest.fixture(scope='session')
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write two frames a split in the layout of each data set."""
    generator = np.random.default_rng(0)
    layouts = {'mmkd.CamVid': ('img_dir/{0}/{1}.jpg', 'ann_dir/{0}/{1}.png', 11),
               'CityscapesDataset': ('leftImg8bit/{0}/{1}_leftImg8bit.png',
                                     'gtFine/{0}/{1}_gtFine_labelTrainIds.png', 19)}
    made = {}
    for name, (image, label, classes) in layouts.items():
        made[name] = tmp_path_factory.mktemp(name)
        for split in ('train', 'val', 'test'):
            for frame in 'ab':
                blocks = generator.integers(0, classes, (SIZE[0] // 8, SIZE[1] // 8), np.uint8)
                labels = blocks.repeat(8, 0).repeat(8, 1)
                labels[-8:] = 255
                for pattern, pixels in ((image, np.stack([labels * 10] * 3, -1)), (label, labels)):
                    path = made[name] / pattern.format(split, frame)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(path), pixels)
    return {name: str(path) for name, path in made.items()}


def shrink(cfg: Config, roots: dict[str, str]) -> Config:
    """Two iterations at batch 2 and 64×96, no download; all else as in the recipe."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = roots.get(loader.dataset.type, loader.dataset.get('data_root'))
        for step in loader.dataset.pipeline:
            if 'Resize' in step.type:
                step.update(scale=SIZE[::-1], **(dict(ratio_range=(1, 1)) if 'ratio_range' in step else {}))
            if step.type == 'RandomCrop':
                step.crop_size = SIZE
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    if not is_distiller(cfg):
        cfg.model.data_preprocessor.size = SIZE
        return cfg
    student, teacher = cfg.model.student, cfg.model.teacher
    if 'cfg' in student:
        student.cfg_options = {**student.get('cfg_options', {}), 'model.pretrained': None,
                               'model.data_preprocessor.size': SIZE}
    else:
        student.model.data_preprocessor.size = SIZE
    assert teacher.checkpoint, 'a recipe names its teacher'
    teacher.update(checkpoint=None, allow_untrained=True)
    return cfg


@pytest.mark.parametrize('path', RECIPES, ids=[path.stem for path in RECIPES])
def test_two_iterations(path: Path, roots: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # mmengine pretty-prints the config five times a checkpoint, which would be most of this test's time
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True))
    cfg = shrink(load_config(str(path), work_dir=str(tmp_path)), roots)
    runner = build_runner(prepare_config(cfg))
    distils = is_distiller(cfg)
    teacher = {k: v.clone() for k, v in runner.model.teacher.state_dict().items()} if distils else {}
    runner.train()

    assert runner.iter == 2
    scalars = MessageHub.get_current_instance().log_scalars
    history = {key.removeprefix('train/'): buffer.data[0] for key, buffer in scalars.items()}
    guess = 7 / 8 * math.log(19 if path in CITYSCAPES else 11)  # mmseg's mean runs over the ignored pixels as well
    assert history['decode.loss_ce'][0] == pytest.approx(guess, abs=0.2), 'an untrained student guesses'
    objectives = list(cfg.model.get('objectives', {}))
    parts = [f'{name}.loss' for name in objectives] + ['decode.loss_ce', 'aux.loss_ce']
    assert history['loss'] == pytest.approx(sum(history[key] for key in parts), rel=1e-4)
    critics = [f'{name}.critic_loss' for name in objectives if name == 'holistic']
    assert [key for key in history if key.endswith('.critic_loss')] == critics
    model = runner.model.student if distils else runner.model
    wrappers = dict(runner.optim_wrapper.items()) if 'holistic' in objectives else {'student': runner.optim_wrapper}
    moved = wrappers['student'].optimizer.state
    assert all(moved[p]['momentum_buffer'].abs().sum() > 0 for p in model.parameters()), 'all of the student learns'
    if distils:
        after = runner.model.teacher.state_dict()
        assert all(torch.equal(value, after[key]) for key, value in teacher.items())
        plain = Config.fromfile(tmp_path / 'student/config.py')
        alone = MODELS.build(dict(plain.model, _scope_='mmseg'))
        alone.load_state_dict(torch.load(tmp_path / 'student/iter_2.pth', map_location='cpu')['state_dict'])
        assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize('path', CAMVID, ids=[path.stem for path in CAMVID])
def test_camvid_rows_have_equal_budgets(path: Path) -> None:
    """Student, data, schedule and seed are those of the baseline: rows differ in objectives alone."""
    half = '-half' if '-half' in path.stem else ''
    baseline = Config.fromfile(CONFIGS / f'structured_kd/baseline_pspnet-r18{half}_camvid.py')
    cfg = Config.fromfile(path)
    model = cfg.model.student.model if is_distiller(cfg) else cfg.model
    assert model.to_dict() == baseline.model.to_dict()
    for key in baseline:
        assert key == 'model' or cfg[key] == baseline[key], key
    assert (cfg.train_cfg.max_iters, cfg.train_dataloader.batch_size) == (1300, 16)
    assert cfg.param_scheduler[0].end == cfg.train_cfg.max_iters
    weights = {name: objective.weight for name, objective in cfg.model.get('objectives', {}).items()}
    name = path.stem.split('_effnetlite2')[0]
    assert weights == {'structured_kd-pi': {'pixel': 10}, 'structured_kd-pi-pa': {'pixel': 10, 'pair': 10},
                       'structured_kd': {'pixel': 10, 'pair': 10, 'holistic': 0.1}}.get(name, {})


@pytest.mark.parametrize(('stem', 'iterations', 'crop'), [('512x512-40k', 40000, (512, 512)),
                                                         ('512x1024-80k', 80000, (512, 1024))])
def test_the_papers_pair(stem: str, iterations: int, crop: tuple[int, int]) -> None:
    cfg = Config.fromfile(CONFIGS / f'structured_kd/structured_kd_pspnet_r101-r18_cityscapes-{stem}.py')
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[0].end == iterations
    assert [s.crop_size for s in cfg.train_dataloader.dataset.pipeline if s.type == 'RandomCrop'] == [crop]
    student = get_config(cfg.model.student.cfg)
    student.merge_from_dict(cfg.model.student.get('cfg_options', {}))
    assert tuple(student.model.data_preprocessor.size) == crop
    sgd, adam = cfg.optim_wrapper.student.optimizer, cfg.optim_wrapper.critic.optimizer
    assert (sgd.lr, sgd.momentum, sgd.weight_decay, adam.lr) == (0.01, 0.9, 5e-4, 4e-4)
    assert {n: o.weight for n, o in cfg.model.objectives.items()} == {'pixel': 10, 'pair': 10, 'holistic': 0.1}
    # the published weights, by mmseg's own index
    import mmseg
    index = (Path(mmseg.__file__).parent / '.mim/configs/pspnet/metafile.yaml').read_text()
    entry = index.split('- Name: pspnet_r101-d8_4xb2-80k_cityscapes-512x1024\n')[1].split('- Name:')[0]
    assert f'Weights: {cfg.model.teacher.checkpoint}\n' in entry


@pytest.mark.parametrize('path', RECIPES, ids=[path.stem for path in RECIPES])
def test_recipes_are_short_and_portable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 25
    assert not re.search(r"'/|\.\./\.\./|[A-Z]:\\\\", text), 'no absolute path'
    assert text.startswith('# '), 'one line says what it is'
