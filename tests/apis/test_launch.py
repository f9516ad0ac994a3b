"""From a config file to a Runner: settings, precision, schedules by optimizer name, the distributed
wrapper.
"""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import torch.distributed as dist
from helpers.processes import free_port
from helpers.tiny import distiller, holistic, objectives, segmentor
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.runner import Runner

from mmkd.apis import launch, prepare
from mmkd.apis.launch import load_config, log_batch_size
from mmkd.apis.prepare import is_distiller, prepare_config
from mmkd.apis.starting_weights import check_checkpoint

POLY = dict(type='PolyLR', power=0.9, begin=0, end=100, by_epoch=False)


def config(
    critic: bool = True, phases: list | None = None, model: dict | None = None, **changes: Any
) -> Config:
    terms = objectives(holistic=holistic()) if critic else objectives()
    wrapper = dict(
        constructor='mmkd.PhaseOptimWrapperConstructor',
        student=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
        critic=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3)),
    )
    return Config(
        dict(model=model or distiller(objectives=terms, phases=phases), optim_wrapper=wrapper)
        | changes
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decide as on a machine that has a GPU."""
    monkeypatch.setattr(prepare, 'get_device', lambda: 'cuda')


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the backends of process groups in place of starting them."""
    backends: list[str] = []
    monkeypatch.setattr(
        dist, 'init_process_group', lambda backend, timeout: backends.append(backend)
    )
    return backends


# ---------------------------------------------------------------- the file


@pytest.mark.bad_input
def test_a_missing_config_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / 'pspnet_r18.py').write_text('')
    with pytest.raises(
        FileNotFoundError, match="pspnet_r19.py' is not there; did you mean 'pspnet_r18.py'"
    ):
        load_config(str(tmp_path / 'pspnet_r19.py'))
    with pytest.raises(
        FileNotFoundError, match=r"config 'nowhere/at/all.py' is not there \(relative"
    ):
        load_config('nowhere/at/all.py')


def test_a_module_of_ones_own_that_is_not_found_says_how_it_is(tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text("custom_imports = dict(imports=['no_module_of_mine'])")
    with pytest.raises(
        ValueError, match='no_module_of_mine.* Mend: modules of your own .*PYTHONPATH=.'
    ):
        load_config(str(tmp_path / 'own.py'))


def test_options_and_work_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'recipe.py'
    path.write_text('model = dict(type="A", depth=18)\n')
    assert load_config(str(path)).work_dir == str(Path('work_dirs') / 'recipe')
    assert load_config(str(path), work_dir='here').work_dir == 'here'
    assert load_config(str(path), {'model.depth': 50}).model.depth == 50
    path.write_text('work_dir = "mine"\n')
    assert load_config(str(path)).work_dir == 'mine'
    assert load_config(str(path), work_dir='here').work_dir == 'here'


@pytest.mark.bad_input
@pytest.mark.parametrize('name', ['', ' '])
def test_a_work_dir_without_a_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / 'recipe.py'
    path.write_text('')
    with pytest.raises(
        ValueError, match=f"work_dir must be the path of a folder, got '{name}'. Mend: --work-dir"
    ):
        load_config(str(path), work_dir=name)
    path.write_text(f'work_dir = {name!r}')
    with pytest.raises(ValueError, match='work_dir must be the path of a folder'):
        load_config(str(path))


def test_configs_by_package() -> None:
    cfg = load_config('mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py')
    assert cfg.model.backbone.depth == 18
    assert cfg.work_dir == str(Path('work_dirs') / 'pspnet_r18-d8_4xb2-80k_cityscapes-512x1024')


@pytest.mark.parametrize(
    ('model', 'expected'),
    [
        (dict(type='mmkd.Distiller'), True),
        (dict(type='Distiller'), True),
        (dict(type='EncoderDecoder'), False),
    ],
)
def test_is_distiller(model: dict, expected: bool) -> None:
    from mmkd import Distiller

    assert is_distiller(Config(dict(model=model))) is expected
    assert is_distiller(Config(dict(model=dict(type=Distiller))))
    assert not is_distiller(Config(dict()))


# ---------------------------------------------------------------- precision


def test_amp_reaches_every_optimizer_on_a_gpu(gpu: None) -> None:
    cfg = config()
    cfg.optim_wrapper.critic.loss_scale = 512.0
    prepare_config(cfg, amp=True)
    assert [cfg.optim_wrapper[name].type for name in ('student', 'critic')] == [
        'AmpOptimWrapper'
    ] * 2
    assert [cfg.optim_wrapper[name].loss_scale for name in ('student', 'critic')] == [
        'dynamic',
        512.0,
    ]
    assert cfg.optim_wrapper.constructor == 'mmkd.PhaseOptimWrapperConstructor'
    assert 'type' not in cfg.optim_wrapper


def test_amp_on_a_cpu_is_bfloat16() -> None:
    """mmengine's AmpOptimWrapper refuses a CPU; what only it takes goes."""
    cfg = config()
    amp = dict(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16')
    cfg.optim_wrapper.student.update(accumulative_counts=2, **amp)
    prepare_config(cfg, amp=True)
    assert cfg.optim_wrapper.student == dict(
        type='mmkd.Bf16OptimWrapper', accumulative_counts=2, optimizer=dict(type='SGD', lr=0.1)
    )
    assert cfg.optim_wrapper.critic.type == 'mmkd.Bf16OptimWrapper'


def test_amp_of_a_single_optimizer() -> None:
    cfg = config(optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)))
    assert prepare_config(cfg, amp=True).optim_wrapper.type == 'mmkd.Bf16OptimWrapper'
    assert prepare_config(config(), amp=False).optim_wrapper.student.type == 'OptimWrapper'


# ---------------------------------------------------------------- schedules


def test_a_list_serves_every_optimizer() -> None:
    cfg = config(param_scheduler=[POLY])
    assert prepare_config(cfg).param_scheduler == [POLY]


def test_schedules_by_name_are_left_to_the_runner() -> None:
    cfg = config(param_scheduler=dict(student=[POLY]))
    assert prepare_config(cfg).param_scheduler == dict(student=[POLY])


@pytest.mark.bad_input
def test_a_schedule_for_an_unknown_optimizer() -> None:
    with pytest.raises(
        KeyError,
        match=r"param_scheduler names the optimizer 'critics'; did you mean 'critic'\? "
        r".optim_wrapper has \['student', 'critic'\]",
    ):
        prepare_config(config(param_scheduler=dict(student=[POLY], critics=[POLY])))


def test_a_critic_is_known_by_what_its_class_can_do(gpu: None) -> None:
    """Not by its name, nor by a ``critic`` key: both have defaults."""
    adversarial = dict(objectives=dict(h=dict(loss=dict(type='AdversarialLoss'), on='logits')))
    for kind in ('AdversarialLoss', 'mmkd.AdversarialLoss'):
        adversarial['objectives']['h']['loss']['type'] = kind
        cfg = prepare_config(config(model=distiller(**adversarial)), 'pytorch')
        assert cfg.model_wrapper_cfg == dict(type='mmkd.PhasedDDP')


def test_no_optimizer_at_all_is_a_test_run() -> None:
    assert prepare_config(Config(dict(model=distiller()))).launcher == 'none'


# ---------------------------------------------------------------- distributed


def test_the_wrapper_on_gpus(gpu: None, group: list[str]) -> None:
    """mmengine's own where it can serve: one phase. No group is started: mmengine will, with the
    config's backend.
    """
    assert prepare_config(config(), 'pytorch').model_wrapper_cfg == dict(type='mmkd.PhasedDDP')
    assert prepare_config(config(critic=False), 'pytorch').get('model_wrapper_cfg') is None
    assert prepare_config(config(model=segmentor()), 'slurm').get('model_wrapper_cfg') is None
    assert (
        prepare_config(
            config(model_wrapper_cfg=dict(type='Mine')), 'pytorch'
        ).model_wrapper_cfg.type
        == 'Mine'
    )
    assert prepare_config(config(), 'none').get('model_wrapper_cfg') is None
    assert group == []


def test_the_wrapper_on_cpus(group: list[str]) -> None:
    for critic in (True, False):
        cfg = prepare_config(config(critic=critic), 'pytorch')
        assert cfg.model_wrapper_cfg == dict(type='mmkd.PhasedDDP')
        assert cfg.launcher == 'pytorch'
    assert group == ['gloo'] * 2


@pytest.mark.parametrize('norm', ['SyncBN', torch.nn.SyncBatchNorm])
def test_a_plain_model_on_cpus_loses_sync_bn(group: list[str], norm: Any) -> None:
    cfg = prepare_config(config(model=segmentor(norm=norm)), 'pytorch')
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False
    )
    assert 'SyncBN' not in str(cfg.model)
    assert cfg.model.backbone.norm_cfg == dict(type='BN', requires_grad=True)
    assert cfg.model.auxiliary_head.norm_cfg.type == 'BN'


@pytest.mark.bad_input
def test_other_launchers_need_gpus(group: list[str]) -> None:
    with pytest.raises(
        ValueError,
        match='--launcher slurm needs GPUs. Mend: torchrun … --launcher pytorch also runs',
    ):
        prepare_config(config(), 'slurm')


@pytest.mark.parametrize(
    ('written', 'seconds'), [(dict(timeout=8), 8), (dict(timeout=0.5), 0.5), (dict(), 1800)]
)
def test_the_timeout_of_the_config_holds_on_cpus(
    written: dict, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    _alone(monkeypatch)
    prepare_config(config(env_cfg=dict(dist_cfg=dict(backend='nccl', **written))), 'pytorch')
    assert _timeout_of_the_group() == seconds


def test_the_timeout_of_the_config_holds_where_mmengine_starts_the_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _alone(monkeypatch)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda rank: None)
    init_dist('pytorch', backend='gloo', timeout=8)
    assert _timeout_of_the_group() == 8


def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what torchrun sets for a single process."""
    for key, value in dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0, MASTER_ADDR='127.0.0.1').items():
        monkeypatch.setenv(key, str(value))
    monkeypatch.setenv('MASTER_PORT', str(free_port()))


def _timeout_of_the_group() -> float:
    """Return the seconds that ranks wait for each other, and end the group."""
    try:
        backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device('cpu'))
        return backend.options._timeout.total_seconds()
    finally:
        dist.destroy_process_group()


# ---------------------------------------------------------------- checkpoints to test


@pytest.mark.bad_input
def test_a_checkpoint_of_another_kind(tmp_path: Path) -> None:
    """mmengine logs the missing keys and goes on with random weights."""
    distilled, plain = tmp_path / 'iter_1.pth', tmp_path / 'student.pth'
    torch.save(dict(state_dict={'students.student.w': torch.ones(1)}), distilled)
    torch.save(dict(state_dict={'w': torch.ones(1)}), plain)
    check_checkpoint(config(), str(distilled))
    check_checkpoint(config(model=segmentor()), str(plain))
    with pytest.raises(
        ValueError,
        match='student.pth holds no students: it is the checkpoint of a plain model.*Mend: '
        'test it by its own config',
    ):
        check_checkpoint(config(), str(plain))
    with pytest.raises(
        ValueError, match='iter_1.pth is the checkpoint of a Distiller.*export the student first'
    ):
        check_checkpoint(config(model=segmentor()), str(distilled))
    with pytest.raises(
        FileNotFoundError, match="iter_2.pth does not exist; did you mean 'iter_1.pth'"
    ):
        check_checkpoint(config(), str(tmp_path / 'iter_2.pth'))


def test_build_runner(tmp_path: Path) -> None:
    runner = launch.build_runner(
        Config(
            dict(
                model=segmentor(4, size=32),
                work_dir=str(tmp_path),
                default_scope='mmseg',
                log_level='ERROR',
                experiment_name='launch',
            )
        )
    )
    assert type(runner) is Runner
    assert runner.model.decode_head.num_classes == 11


@pytest.mark.parametrize(
    ('base', 'enable', 'warning'),
    [
        (
            16,
            False,
            'the recipe was made for a batch of 16, this run has 4: published numbers will not be '
            'reached. Mend: --auto-scale-lr (learning rate x 0.25), or '
            'train_dataloader.batch_size=8',
        ),
        (16, True, None),
        (4, False, None),
        (None, False, None),
    ],
)
def test_the_effective_batch_is_logged_and_compared_with_the_recipe(base, enable, warning):
    scale = {} if base is None else dict(auto_scale_lr=dict(base_batch_size=base, enable=enable))
    runner = MagicMock(world_size=2, cfg=Config(dict(train_dataloader=dict(batch_size=2), **scale)))
    log_batch_size(runner)
    runner.logger.info.assert_called_once_with('effective batch: 2 x 2 = 4')
    assert [c.args[0] for c in runner.logger.warning.call_args_list] == (
        [] if warning is None else [warning]
    )


@pytest.mark.parametrize('base', [16, 32])
def test_gradients_that_are_added_up_are_of_the_effective_batch(base: int) -> None:
    """Of 16, made of 2 × 2 × 4; --auto-scale-lr of mmengine does not count the 4."""
    settings = dict(
        train_dataloader=dict(batch_size=2),
        optim_wrapper=dict(accumulative_counts=4),
        auto_scale_lr=dict(base_batch_size=base),
    )
    runner = MagicMock(world_size=2, cfg=Config(settings))
    log_batch_size(runner)
    runner.logger.info.assert_called_once_with(
        'effective batch: 2 x 2 x 4 (gradient accumulation) = 16'
    )
    said = [call.args[0] for call in runner.logger.warning.call_args_list]
    assert len(said) == (base == 32)
    for text in said:
        assert text.endswith('Mend: a learning rate (now x 0.5), or train_dataloader.batch_size=4')


@pytest.mark.bad_input
def test_a_launcher_that_nothing_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        ValueError, match='nothing launched this process: .*RANK.* Mend: torchrun --nproc'
    ):
        prepare_config(Config(dict(model=dict(type='mmkd.Distiller'))), 'pytorch')


# ---------------------------------------------------------------------- pixels

OWN = dict(type='SegDataPreProcessor', mean=[0.0] * 3, std=[1.0] * 3, size=(64, 64))
GIVEN = dict(type='SegDataPreProcessor', mean=[9.0] * 3, std=[1.0] * 3, size_divisor=32)


def preprocessor_of(student: dict, **model: Any) -> Any:
    """Return what a Distiller takes whose config has a preprocessor at its top."""
    whole = dict(distiller(), **model)
    whole['student'] = student
    return prepare_config(Config(dict(model=whole, data_preprocessor=GIVEN))).model.get(
        'data_preprocessor'
    )


def test_a_distiller_sees_the_pixels_of_its_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As mmseg trains it alone: by the model's own, not by what stands at the top of a config."""
    net = segmentor(4, num_classes=3, size=32)
    net['data_preprocessor'] = OWN
    told: list[str] = []
    monkeypatch.setattr(prepare, 'print_log', lambda text, **_: told.append(text))
    assert preprocessor_of(dict(model=net)) == OWN
    assert 'differs in mean, size, size_divisor and serves no one. Mend' in told[0]
    (tmp_path / 'student.py').write_text(f'model = {net!r}\ndata_preprocessor = {GIVEN!r}\n')
    assert preprocessor_of(dict(cfg=str(tmp_path / 'student.py'))) == OWN
    written = dict(GIVEN, mean=[5.0] * 3)
    assert preprocessor_of(dict(model=net), data_preprocessor=written) == written
    net.pop('data_preprocessor')
    assert preprocessor_of(dict(model=net)) is None, 'the Runner hands it down'
