"""Validation and test of peers: each one's numbers are those that it gets alone; best checkpoints,
resume, export.
"""

import copy
from pathlib import Path
from typing import Any

import mmseg.apis
import pytest
import torch
from helpers.processes import ranks
from helpers.runs import ADAM, SGD, run_config, train
from helpers.states import checkpoint, differences
from helpers.tiny import segmentor
from mmengine.config import Config

from mmkd.apis.launch import build_runner
from mmkd.apis.prepare import prepare_config
from mmkd.distiller.export import export_student
from mmkd.engine.runner.peer_loops import _predict
from mmkd.models import Ensemble

PEERS = ('peer0', 'peer1')
LOOPS = dict(val_cfg=dict(type='mmkd.PeerValLoop'), test_cfg=dict(type='mmkd.PeerTestLoop'))


def peers(adversarial: bool = False, **changes: Any) -> dict:
    """Return two segmentors that teach each other."""
    pairs = list(zip(PEERS, PEERS[::-1], strict=True))
    terms = {
        f'logit_{own}': dict(
            loss=dict(type='PixelWiseKLLoss', tau=3.0),
            reads=dict(student=f'{own}.logits', teacher=f'{other}.logits'),
        )
        for own, other in pairs
    }
    maps = {
        f'map_{own}': dict(
            loss=dict(type='AdversarialLoss', mode='lsgan', critic=dict(type='FeatureMapCritic')),
            reads=dict(student=f'{own}.feat', teacher=f'{other}.feat'),
        )
        for own, other in pairs
        if adversarial
    }
    phases = (
        [
            dict(name='logit', optimizer='student', task=True, objectives=list(terms)),
            dict(name='feature', optimizer='feature', objectives=list(maps)),
            dict(name='critic', optimizer='critic', critics=list(maps)),
        ]
        if adversarial
        else None
    )
    return (
        dict(
            type='mmkd.Distiller',
            taps=dict(logits='decode_head.conv_seg', feat='decode_head.bottleneck'),
            students={name: dict(model=segmentor(4, num_classes=3, size=32)) for name in PEERS},
            objectives={**terms, **maps},
            phases=phases,
        )
        | changes
    )


def config(
    folder: Path, model: dict | None = None, optimizers: dict | None = None, **changes: Any
) -> Config:
    """Return the config of a run of peers."""
    cfg = run_config(folder, model or peers(), **{**LOOPS, **changes})
    cfg.optim_wrapper = dict(
        constructor='mmkd.PhaseOptimWrapperConstructor', **(optimizers or dict(student=SGD))
    )
    return cfg


def plain_metrics(cfg: Config, model: Any, stage: str) -> dict[str, float]:
    """Return what mmengine's own loop finds of one model."""
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(
        dict(
            work_dir=f'{cfg.work_dir}_{stage}',
            val_cfg=dict(type='ValLoop', _delete_=True),
            test_cfg=dict(type='TestLoop', _delete_=True),
            experiment_name=f'{cfg.experiment_name}_p',
        )
    )
    cfg.custom_hooks = []
    runner = build_runner(prepare_config(cfg))
    runner.model = model
    return runner.val() if stage == 'val' else runner.test()


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_every_peer_gets_the_numbers_it_gets_alone(tmp_path: Path, stage: str) -> None:
    cfg = config(tmp_path)
    runner = build_runner(prepare_config(cfg))
    torch.manual_seed(0)
    for (
        student
    ) in runner.model.students.values():  # peers that guess different classes from place to place
        torch.nn.init.normal_(student.decode_head.conv_seg.weight)
    found = runner.val() if stage == 'val' else runner.test()
    alone = {name: plain_metrics(cfg, runner.model.students[name], stage) for name in PEERS}
    assert alone['peer0'] != alone['peer1']
    for name, metrics in alone.items():
        assert {key: found[f'{name}/{key}'] for key in metrics} == metrics
    for key in alone['peer0']:
        assert found[f'mean/{key}'] == pytest.approx(sum(alone[name][key] for name in PEERS) / 2)
    together = plain_metrics(
        cfg, Ensemble({name: runner.model.students[name] for name in PEERS}), stage
    )
    assert {key: found[f'ensemble/{key}'] for key in together} == together
    assert {key.split('/')[0] for key in found} == {*PEERS, 'mean', 'ensemble'}


def test_the_best_checkpoint_of_each_peer_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iteration 2 is the best of the one, iteration 4 of the other."""
    scores = iter([(10.0, 1.0), (5.0, 2.0)])
    monkeypatch.setattr(
        'mmkd.engine.runner.peer_loops._evaluate',
        lambda *_: {f'{name}/mIoU': score for name, score in zip(PEERS, next(scores), strict=True)},
    )
    cfg = config(tmp_path, max_iters=4, val_interval=2)
    cfg.default_hooks.checkpoint.update(
        save_best=[f'{name}/mIoU' for name in PEERS], rule='greater'
    )
    runner = train(cfg)
    best = [path.name for path in Path(runner.work_dir).rglob('best_*.pth')]
    assert sorted(best) == ['best_peer0_mIoU_iter_2.pth', 'best_peer1_mIoU_iter_4.pth']


def test_resume_of_three_optimizers_is_exact(tmp_path: Path) -> None:
    """8 iterations equal 4 and 4 more, bit for bit: weights, critics, three optimizers, their
    schedules.
    """

    def run(max_iters: int, name: str, resume: bool = False) -> Any:
        rates = dict(student=SGD, feature=ADAM, critic=ADAM)
        return train(
            config(
                tmp_path,
                peers(adversarial=True),
                rates,
                max_iters=max_iters,
                interval=4,
                val_interval=9,
                name=name,
            ),
            resume,
        )

    whole = run(8, 'whole')
    run(4, 'parts')
    parts = run(8, 'parts', resume=True)
    one, other = checkpoint(whole, 'iter_8.pth'), checkpoint(parts, 'iter_8.pth')
    assert set(one['optimizer']) == {'student', 'feature', 'critic'}
    for key in ('state_dict', 'optimizer', 'param_schedulers'):
        assert differences(one[key], other[key]) == [], key
    assert differences(checkpoint(whole, 'iter_4.pth')['state_dict'], one['state_dict'])


def test_any_peer_exports_as_a_plain_model(tmp_path: Path) -> None:
    """Without mmkd's loops, and with the peer's own weights."""
    runner = train(
        config(
            tmp_path,
            max_iters=2,
            val_interval=9,
            custom_hooks=[dict(type='mmkd.ExportStudentHook')],
        )
    )
    for name in PEERS:
        folder = Path(runner.work_dir) / 'student' / name
        plain = Config.fromfile(folder / 'config.py')
        assert (plain.val_cfg.type, plain.test_cfg.type) == ('ValLoop', 'TestLoop')
        model = mmseg.apis.init_model(
            str(folder / 'config.py'), str(folder / 'iter_2.pth'), device='cpu'
        )
        own = runner.model.students[name].state_dict()
        assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items())


def test_exports_of_two_peers_do_not_meet(tmp_path: Path) -> None:
    """By hand into one folder: each has a config of its own there; one that differs is never
    overwritten.
    """
    model = peers()
    model['students']['peer1']['model']['backbone']['base_channels'] = 6
    model['students']['peer1']['model']['backbone']['stem_channels'] = 6
    for head, at in (('decode_head', 48), ('auxiliary_head', 24)):
        model['students']['peer1']['model'][head]['in_channels'] = at
    runner = train(config(tmp_path, model, max_iters=1, interval=1, val_interval=9))
    file = Path(runner.work_dir) / 'iter_1.pth'
    for name in PEERS:
        weights, written = export_student(file, tmp_path / 'out', name)
        assert (weights, written) == (
            tmp_path / f'out/{name}/{name}.pth',
            tmp_path / f'out/{name}/config.py',
        )
        alone = mmseg.apis.init_model(str(written), str(weights), device='cpu')
        own = runner.model.students[name].state_dict()
        assert all(torch.equal(value, own[key]) for key, value in alone.state_dict().items())
    with pytest.raises(
        ValueError, match='config.py is the config of other weights in .*Mend: another folder'
    ):
        export_student(file, tmp_path / 'out/peer0/other.pth', 'peer1')


@pytest.mark.parametrize(
    ('model', 'error', 'message'),
    [
        (
            segmentor(4, num_classes=3, size=32),
            TypeError,
            'PeerValLoop evaluates the students of a Distiller, got EncoderDecoder. Mend: '
            "type='ValLoop'",
        ),
        (
            dict(
                type='mmkd.Distiller',
                student=dict(model=segmentor(4, num_classes=3, size=32)),
                noise=[dict(type='mmkd.GaussianInput', std=0.1)],
            ),
            ValueError,
            r"PeerValLoop evaluates peers, but there is one student, \['student'\]. Mend: "
            r"type='ValLoop'",
        ),
        (
            peers(
                students={
                    name: dict(model=segmentor(4, num_classes=3, size=32))
                    for name in ('mean', 'peer1')
                },
                objectives=dict(
                    kd=dict(
                        loss=dict(type='PixelWiseKLLoss'),
                        reads=dict(student='mean.logits', teacher='peer1.logits'),
                    )
                ),
            ),
            ValueError,
            "a student is called 'mean', as PeerValLoop calls what it reports of all. Mend: "
            'another name',
        ),
    ],
)
def test_what_the_loop_refuses(
    tmp_path: Path, model: dict, error: type[Exception], message: str
) -> None:
    runner = build_runner(prepare_config(config(tmp_path, model)))
    with pytest.raises(error, match=message):
        _ = runner.val()


def test_a_best_checkpoint_by_a_metric_that_peers_do_not_have(tmp_path: Path) -> None:
    cfg = config(tmp_path, max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.save_best = 'mIoU'
    with pytest.raises(
        ValueError,
        match=r"keeps the best by 'mIoU', but .* begin with one of \['peer0', 'peer1', "
        r"'ensemble', 'mean'\]. Mend: .*save_best=\['peer0/mIoU', 'peer1/mIoU'\]",
    ):
        train(cfg)


def test_a_mistyped_peer_is_told_its_name(tmp_path: Path) -> None:
    cfg = config(tmp_path, max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.save_best = ['pear1/mIoU']
    with pytest.raises(
        ValueError, match=r"'pear1/mIoU'; did you mean 'peer1'.*save_best=\['peer0/mIoU', 'peer1/m"
    ):
        train(cfg)


def test_a_test_asks_nothing_of_the_best_checkpoint(tmp_path: Path) -> None:
    cfg = config(tmp_path, val_cfg=dict(type='ValLoop'))
    cfg.default_hooks.checkpoint.save_best = 'mIoU'
    assert 'mean/mIoU' in build_runner(prepare_config(cfg)).test()


def test_what_metrics_write_has_a_folder_of_each_peer(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.test_evaluator.update(output_dir=str(tmp_path / 'maps'))
    build_runner(prepare_config(cfg)).test()
    found = {path.parent.name for path in (tmp_path / 'maps').rglob('*.png')}
    assert found == {*PEERS, 'ensemble'}
    assert len(list((tmp_path / 'maps').rglob('*.png'))) == 3 * 6


def test_averaged_weights_are_validated(tmp_path: Path) -> None:
    """EMAHook swaps the averages of every peer in: what is found is what they get, loaded from the
    checkpoint.
    """
    cfg = config(tmp_path, max_iters=2, val_interval=2)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.5))
    cfg.optim_wrapper.student.optimizer.lr = 5.0
    runner = train(cfg)
    averaged = checkpoint(runner, 'iter_2.pth')['state_dict']  # the hook swaps them in there too
    live = runner.model.students['peer1'].decode_head.conv_seg.weight
    assert not torch.allclose(averaged['students.peer1.decode_head.conv_seg.weight'], live)
    found = {
        key: runner.message_hub.log_scalars[f'val/{key}'].data[0][-1]
        for key in ('peer0/mIoU', 'peer1/mIoU')
    }
    again = build_runner(prepare_config(config(tmp_path, name='again')))
    again.model.load_state_dict(averaged)
    assert found == {key: value for key, value in again.val().items() if key in found}


def work(rank: int, folder: Path) -> None:
    """Validate on two processes."""
    runner = build_runner(prepare_config(config(folder, launcher='pytorch', name='two'), 'pytorch'))
    runner.load_checkpoint(f'{folder}/weights.pth')
    torch.save(runner.val(), folder / f'rank{rank}.pth')


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    runner = build_runner(prepare_config(config(tmp_path)))
    torch.manual_seed(0)
    for student in runner.model.students.values():
        torch.nn.init.normal_(student.decode_head.conv_seg.weight)
    torch.save(dict(state_dict=runner.model.state_dict(), meta={}), tmp_path / 'weights.pth')
    alone = runner.val()
    ranks(work, tmp_path)
    assert torch.load(tmp_path / 'rank0.pth', weights_only=False) == alone


def test_validation_leaves_the_batch_and_the_training_alone(tmp_path: Path) -> None:
    """A peer writes into samples of its own, so that the next one does not see its prediction."""
    runner = build_runner(prepare_config(config(tmp_path)))
    data = next(iter(runner.val_dataloader))
    outputs = _predict(runner.model.eval(), data)
    samples = [outputs[name][0] for name in (*PEERS, 'ensemble')]
    assert len({id(sample) for sample in samples}) == 3
    assert 'pred_sem_seg' not in data['data_samples'][0]
    logits = [sample.seg_logits.data for sample in samples[:2]]
    expected = sum(value.softmax(0) for value in logits) / 2
    torch.testing.assert_close(
        samples[2].seg_logits.data.softmax(0), expected, rtol=1e-5, atol=1e-6
    )
