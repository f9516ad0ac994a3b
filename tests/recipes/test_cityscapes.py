"""The documented commands on a miniature in Cityscapes' official layout: one process, two, and
resume in between.
"""

import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import processes
from helpers.runs import ROOT
from mmengine.registry import MODELS

from mmkd.apis.launch import load_config
from mmkd.apis.prepare import prepare_config

CONFIG = ROOT / 'configs/structured_kd/structured_kd_pspnet_r101-r18_cityscapes-512x512-40k.py'
# a few crops of 64×64 in place of 320,000 of 512×512, and a teacher of random weights; all else is
# the recipe's
SMALL = [
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=2',
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=1',
    'val_dataloader.num_workers=1',
    'test_dataloader.num_workers=1',
    'train_dataloader.dataset.pipeline.2.scale=(128,64)',
    'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
    'val_dataloader.dataset.pipeline.1.scale=(128,64)',
    'model.teacher.checkpoint=teacher.pth',
    'env_cfg.dist_cfg.backend=gloo',
    'default_hooks.logger.interval=1',
]
CHILD = {'model.data_preprocessor.size': (64, 64), 'model.pretrained': None}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write data/cityscapes as converted by mmseg, a teacher, and the recipe without downloads."""
    rng = np.random.default_rng(0)
    for split, city, number in (('train', 'aachen', 8), ('val', 'frankfurt', 3)):
        for index in range(number):
            labels = rng.integers(0, 19, (8, 16), np.uint8).repeat(16, 0).repeat(16, 1)
            labels[-16:] = 255
            name = f'{city}_{index:06d}_000019'
            for part, end, pixels in (
                ('leftImg8bit', 'leftImg8bit', np.stack([labels * 12] * 3, -1)),
                ('gtFine', 'gtFine_labelTrainIds', labels),
            ):
                path = tmp_path / f'data/cityscapes/{part}/{split}/{city}/{name}_{end}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)
    (tmp_path / 'recipe.py').write_text(
        f'_base_ = {str(CONFIG)!r}\nmodel = dict('
        + ', '.join(f'{member}=dict(cfg_options={CHILD})' for member in ('student', 'teacher'))
        + ')\n'
    )
    from mmengine.hub import get_config

    teacher = get_config('mmseg::pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py')
    teacher.merge_from_dict(CHILD)
    state = MODELS.build(dict(teacher.model, _scope_='mmseg')).state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'teacher.pth')
    return tmp_path


def shell(folder: Path, *command: object) -> str:
    path = f'{Path(os.sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            'PATH': path,
            'PYTHONPATH': str(ROOT),
            'OMP_NUM_THREADS': '1',
            'PORT': str(processes.free_port()),
        },
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_one_process_then_two_and_a_test(tree: Path) -> None:
    """Each image of the tree is found; the run of two processes goes on where the one stopped."""
    options = ('recipe.py', '--work-dir', 'w', '--cfg-options', *SMALL)
    text = processes.shell(ROOT / 'tools/train.py', *options, cwd=tree)
    assert 'effective batch: 2 x 1 = 2' in text
    assert "teacher 'teacher' on the validation set: aAcc" in text
    assert 'Iter(val) [3/3]' in text
    more = ['train_cfg.max_iters=4', *SMALL[1:]]
    text = shell(
        tree,
        ROOT / 'tools/dist_train.sh',
        'recipe.py',
        2,
        '--resume',
        '--work-dir',
        'w',
        '--cfg-options',
        *more,
    )
    assert 'resumed epoch: 0, iter: 2' in text
    assert 'effective batch: 2 x 2 = 4' in text
    assert 'PhasedDDP: SyncBN cannot run on a CPU, so it is reverted to BN' in text
    saved = torch.load(tree / 'w/iter_4.pth', weights_only=False)
    assert saved['meta']['iter'] == 4
    assert set(saved['optimizer']) == {'student', 'critic'}
    assert all(value.isfinite().all() for value in saved['state_dict'].values())
    assert not [key for key in saved['state_dict'] if 'teacher' in key]
    record = json.loads((tree / 'w/run.json').read_text())
    assert (record['iterations'], record['processes']) == (4, 2)
    options = [
        *(option for option in SMALL if 'dataloader' in option and 'train' not in option),
        'model.teacher.checkpoint=teacher.pth',
        'env_cfg.dist_cfg.backend=gloo',
        'test_dataloader.dataset.pipeline.1.scale=(128,64)',
    ]
    tested = (ROOT / 'tools/dist_test.sh', 'recipe.py', 'w/iter_4.pth', 2, '--work-dir', 't')
    text = shell(tree, *tested, '--cfg-options', *options)
    assert 'mIoU' in text


def test_the_scripts_pass_their_flags_on(tmp_path: Path) -> None:
    """What they would start, by a python and an srun that only print."""
    for name in ('python', 'srun'):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    env = {'PATH': f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'}

    def printed(*command: object, **extra: str) -> str:
        return subprocess.run(
            [str(c) for c in command], env=env | extra, capture_output=True, text=True, check=True
        ).stdout

    tools = ROOT / 'tools'
    assert printed(
        tools / 'dist_train.sh', 'c.py', 4, '--amp', '--cfg-options', 'a=1 b', PORT='7'
    ) == (
        'python -m torch.distributed.run --nnodes=1 --node_rank=0 --master_addr=127.0.0.1 '
        f'--master_port=7 --nproc_per_node=4 {tools}/train.py c.py --launcher pytorch --amp '
        '--cfg-options a=1 b\n'
    )
    assert printed(tools / 'dist_test.sh', 'c.py', 'x.pth', 2, '--show-dir', 'd').endswith(
        f'--nproc_per_node=2 {tools}/test.py c.py x.pth --launcher pytorch --show-dir d\n'
    )
    text = printed(
        tools / 'slurm_train.sh',
        'part',
        'job',
        'c.py',
        '--resume',
        GPUS='16',
        SRUN_ARGS='--exclude n -q',
    )
    assert text == (
        'srun -p part --job-name=job --gres=gpu:8 --ntasks=16 --ntasks-per-node=8 '
        f'--cpus-per-task=5 --kill-on-bad-exit=1 --exclude n -q python -u {tools}/train.py c.py '
        '--launcher=slurm --resume\n'
    )


@pytest.mark.parametrize(
    'kind', ['FSDPStrategy', 'DeepSpeedStrategy', 'mmengine.ColossalAIStrategy']
)
def test_strategies_that_shard_weights_are_refused(kind: str) -> None:
    cfg = load_config(str(CONFIG), dict(strategy=dict(type=kind)))
    with pytest.raises(
        ValueError,
        match=rf"strategy=dict\(type='{kind}'\): teachers are outside the module tree.*"
        r"Mend: teacher=dict\(…, precision='bf16'\)",
    ):
        prepare_config(cfg)
    plain = load_config(str(ROOT / 'configs/demo/student.py'), dict(strategy=dict(type=kind)))
    assert prepare_config(plain).strategy.type == kind, 'a plain model is left alone'


@pytest.mark.parametrize(
    ('key', 'kind'),
    [
        ('model_wrapper_cfg', 'MMFullyShardedDataParallel'),
        ('optim_wrapper.student', 'DeepSpeedOptimWrapper'),
    ],
)
def test_wrappers_that_shard_weights_are_refused(key: str, kind: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{key}=dict\(type='{kind}'\): teachers are outside the module tree"
    ):
        prepare_config(load_config(str(CONFIG), {f'{key}.type': kind}))
