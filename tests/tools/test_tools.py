"""mmkd train, mmkd test and mmkd export as they are called from a shell."""

import json
from pathlib import Path

import pytest
import torch
from helpers.processes import shell, torchrun
from helpers.runs import ROOT, model_of
from helpers.shells import config_file, here, mious, names, refusal
from helpers.tiny import segmentor
from mmengine.config import Config


@pytest.mark.slow
def test_train_resume_test_and_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """A user's evening: train with --amp, resume, test the checkpoint, export the student and test
    that.
    """
    path, work = config_file(tmp_path, max_iters=2), tmp_path / 'work_dirs/recipe'
    text = shell(ROOT / 'tools/train.py', path, '--amp', cwd=tmp_path)
    assert (
        (work / 'last_checkpoint').read_text().endswith('iter_2.pth')
    )  # the default work dir has the config's name
    dumped = Config.fromfile(work / 'recipe.py')
    assert [dumped.optim_wrapper[name].type for name in ('student', 'critic')] == [
        'mmkd.Bf16OptimWrapper'
    ] * 2
    assert "teacher 'teacher' on the validation set" in text
    assert len(mious(text)) == 1

    here(
        'train.py',
        path,
        '--resume',
        '--work-dir',
        work,
        *names('resumed'),
        'train_cfg.max_iters=4',
        'optim_wrapper.critic.optimizer.lr=0.002',
        monkeypatch=monkeypatch,
    )
    # both runs may begin within one second, and then share a folder of logs
    logs = [file.read_text() for file in sorted(work.glob('*/vis_data/scalars.json'))]
    lines = [json.loads(line) for line in ''.join(logs).splitlines()]
    assert [line['iter'] for line in lines if 'loss' in line] == [1, 2, 3, 4]
    said = ''.join(capfd.readouterr())
    assert 'resumed epoch: 0, iter: 2' in said
    validation = mious(said)[-1]

    here(
        'test.py',
        path,
        work / 'iter_4.pth',
        '--work-dir',
        tmp_path / 'tested',
        '--show-dir',
        tmp_path / 'shown',
        *names('tested'),
        monkeypatch=monkeypatch,
    )
    assert mious(''.join(capfd.readouterr()))[-1] == validation
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 6

    here(
        'export_student.py', work / 'iter_4.pth', tmp_path / 'out/net.pth', monkeypatch=monkeypatch
    )
    assert (
        f'wrote {tmp_path}/out/net.pth and {tmp_path}/out/config.py; load them with '
        'mmseg.apis.init_model(' in capfd.readouterr().out
    )
    here(
        'test.py',
        tmp_path / 'out/config.py',
        tmp_path / 'out/net.pth',
        '--work-dir',
        tmp_path / 'plain',
        *names('plain'),
        monkeypatch=monkeypatch,
    )
    assert mious(''.join(capfd.readouterr()))[-1] == validation


@pytest.mark.slow
def test_two_processes_by_torchrun_on_a_cpu(tmp_path: Path) -> None:
    """SyncBN in the student, two optimizers, a validation by both ranks."""
    student = segmentor(4, num_classes=3, size=32, norm='SyncBN')
    path = config_file(tmp_path, model=model_of(student=student), max_iters=2)
    options = ('--launcher', 'pytorch', '--work-dir', tmp_path / 'work')
    text = torchrun(ROOT / 'tools/train.py', path, *options, cwd=tmp_path)
    assert 'PhasedDDP: SyncBN cannot run on a CPU, so it is reverted to BN' in text
    saved = torch.load(tmp_path / 'work/iter_2.pth', weights_only=False)
    assert saved['meta']['iter'] == 2
    assert set(saved['optimizer']) == {'student', 'critic'}
    assert all(value.isfinite().all() for value in saved['state_dict'].values())
    assert len(mious(text)) == 1
    assert (tmp_path / 'work/student/iter_2.pth').is_file()


# ---------------------------------------------------------------- options and refusals


def test_auto_scale_lr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Batch 2 at a base of 16: every optimizer's rate is an eighth."""
    path = config_file(tmp_path, max_iters=1, interval=1, val_interval=9, param_scheduler=[])
    with pytest.raises(
        SystemExit,
        match='--auto-scale-lr needs auto_scale_lr=dict.base_batch_size=…. in the config',
    ):
        here(
            'train.py',
            path,
            '--auto-scale-lr',
            '--work-dir',
            tmp_path / 'w',
            monkeypatch=monkeypatch,
        )
    scaled = ('train.py', path, '--auto-scale-lr', '--work-dir', tmp_path / 'w', *names('auto'))
    base = 'auto_scale_lr.base_batch_size=16'
    added_up = 'optim_wrapper.student.accumulative_counts=4'
    with pytest.raises(SystemExit):
        here(*scaled, base, added_up, monkeypatch=monkeypatch)
    assert 'the learning rate would be 4 times too small' in capsys.readouterr().err
    here(*scaled, base, monkeypatch=monkeypatch)
    groups = {
        name: state['param_groups'][0]['lr']
        for name, state in torch.load(tmp_path / 'w/iter_1.pth', weights_only=False)[
            'optimizer'
        ].items()
    }
    assert groups == {'student': pytest.approx(0.05 / 8), 'critic': pytest.approx(1e-3 / 8)}


def test_a_config_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / 'recipe.py').write_text('')
    for tool in ('train.py', 'test.py'):
        checkpoint = ['x.pth'] if tool == 'test.py' else []
        said = refusal(
            tool, tmp_path / 'recipes.py', *checkpoint, monkeypatch=monkeypatch, capfd=capfd
        )
        assert said.startswith(
            f"error: the config '{tmp_path}/recipes.py' is not there; did you mean 'recipe.py'?"
        )


def test_a_plain_checkpoint_is_not_tested_as_a_distiller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    path = config_file(tmp_path)
    torch.save(dict(state_dict={'backbone.w': torch.ones(1)}), tmp_path / 'plain.pth')
    assert 'plain.pth holds no students' in refusal(
        'test.py', path, tmp_path / 'plain.pth', monkeypatch=monkeypatch, capfd=capfd
    )


def test_a_work_dir_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    path = config_file(tmp_path)
    for tool in ('train.py', 'train_ensemble.py'):
        said = refusal(tool, path, '--work-dir', '', monkeypatch=monkeypatch, capfd=capfd)
        assert said.startswith(
            "error: work_dir must be the path of a folder, got ''. Mend: --work-dir work_dirs/NAME"
        )


def test_pictures_of_a_model_that_predicts_no_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'classifier.py').write_text(
        "model = dict(type='mmkd.Ensemble')\ndefault_hooks = dict()\n"
    )
    with pytest.raises(
        SystemExit,
        match='--show-dir draws label maps, but this config has no default_hooks.visualiz',
    ):
        here(
            'test.py',
            tmp_path / 'classifier.py',
            '--show-dir',
            tmp_path / 'shown',
            monkeypatch=monkeypatch,
        )


def test_export_of_an_unknown_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    torch.save(
        dict(state_dict={'students.student.w': torch.ones(1)}, meta=dict(cfg='')),
        tmp_path / 'iter_1.pth',
    )
    said = refusal(
        'export_student.py',
        tmp_path / 'iter_1.pth',
        tmp_path / 'x.pth',
        '--member',
        'studen',
        monkeypatch=monkeypatch,
        capfd=capfd,
    )
    assert said.startswith("error: no student 'studen' in this checkpoint; did you mean 'student'")


@pytest.mark.parametrize('tool', ['train.py', 'test.py', 'export_student.py'])
def test_help_and_unknown_flags(
    tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        here(tool, '--help', monkeypatch=monkeypatch)
    assert stop.value.code == 0
    said = capsys.readouterr().out
    flags = dict(
        train=['--work-dir', '--resume', '--amp', '--cfg-options', '--launcher', '--auto-scale-lr'],
        test=['--work-dir', '--cfg-options', '--launcher', '--show-dir'],
        export_student=['--member'],
    )
    assert all(flag in said for flag in flags[tool.removesuffix('.py')])
    with pytest.raises(SystemExit) as stop:
        here(tool, 'a', 'b', '--no-such-flag', monkeypatch=monkeypatch)
    assert stop.value.code == 2
