"""Lengths, intervals and sizes are checked before anything is built."""

import pytest
from mmengine.config import Config

from mmkd.apis.prepare import prepare_config
from mmkd.apis.settings import check_settings

SGD = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
GOOD = dict(
    model=dict(type='EncoderDecoder'),
    work_dir='runs',
    randomness=dict(seed=0),
    train_dataloader=dict(batch_size=2, num_workers=0),
    val_dataloader=dict(batch_size=1),
    test_dataloader=None,
    train_cfg=dict(type='IterBasedTrainLoop', max_iters=10, val_interval=5),
    optim_wrapper=SGD,
    default_hooks=dict(
        checkpoint=dict(type='CheckpointHook', interval=5, max_keep_ckpts=-1), timer=None
    ),
    env_cfg=dict(dist_cfg=dict(backend='gloo', timeout=7200)),
)


def test_good_settings_pass() -> None:
    check_settings(Config(GOOD))
    check_settings(Config(dict()))
    check_settings(Config({**GOOD, 'randomness': dict(seed=None), 'train_cfg': dict(max_epochs=1)}))
    check_settings(
        Config({**GOOD, 'default_hooks': dict(checkpoint=dict(interval=-1))})
    )  # mmengine's 'never'


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('key', 'value', 'least', 'mend'),
    [
        ('train_cfg.max_iters', 0, 1, 'a whole number'),
        ('train_cfg.max_iters', 1e3, 1, 'a whole number'),
        ('train_cfg.max_iters', '10', 1, 'a whole number'),
        ('train_cfg.max_epochs', 0, 1, 'a whole number'),
        (
            'train_cfg.val_interval',
            0,
            1,
            'to leave validation out: val_dataloader=None, val_cfg=None, val_evaluator=None',
        ),
        ('train_cfg.val_interval', 2.5, 1, 'a whole number'),
        ('train_cfg.val_begin', -1, 0, 'a whole number'),
        ('train_dataloader.batch_size', 0, 1, 'a whole number'),
        ('val_dataloader.batch_size', 1.5, 1, 'a whole number'),
        ('train_dataloader.num_workers', -1, 0, 'a whole number'),
        ('train_dataloader.batch_size', True, 1, 'a whole'),
        ('default_hooks.checkpoint.interval', 2.5, -1, '-1 for never'),
        ('default_hooks.checkpoint.max_keep_ckpts', '3', -1, '-1 for never'),
        ('optim_wrapper.accumulative_counts', 0, 1, '1 for a step after every batch'),
        ('randomness.seed', -1, 0, 'None for another one'),
        ('randomness.seed', 0.5, 0, 'a whole number such as 0'),
    ],
)
def test_each_bad_number(key: str, value: object, least: int, mend: str) -> None:
    cfg = Config(GOOD)
    cfg.merge_from_dict({key: value})
    with pytest.raises(ValueError, match='must be') as raised:
        prepare_config(cfg)  # by the door through which training and doctor come
    text = str(raised.value)
    assert text.startswith(
        f'{key} must be a whole number of at least {least}, got {value!r}. Mend: '
    )
    assert mend in text


@pytest.mark.bad_input
def test_optimizers_by_name() -> None:
    critic = dict(**SGD, accumulative_counts=0)
    cfg = Config({**GOOD, 'optim_wrapper': dict(constructor='x', student=SGD, critic=critic)})
    with pytest.raises(
        ValueError, match=r'optim_wrapper\.critic\.accumulative_counts must be .* got 0'
    ):
        check_settings(cfg)


@pytest.mark.bad_input
@pytest.mark.parametrize('seconds', [0, -1, '30', True])
def test_a_timeout_that_is_none(seconds: object) -> None:
    cfg = Config({**GOOD, 'env_cfg': dict(dist_cfg=dict(timeout=seconds))})
    with pytest.raises(
        ValueError, match='env_cfg.dist_cfg.timeout must be a number of seconds above 0, got'
    ):
        check_settings(cfg)
