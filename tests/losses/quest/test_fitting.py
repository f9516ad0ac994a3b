"""mmkd fit-vocabulary: a vocabulary in a file, shared by runs."""

import argparse
import errno
from pathlib import Path

import pytest
import torch
from helpers.classification import config as classification
from helpers.classification import distiller as classifiers
from helpers.runs import model_of, run_config, train
from helpers.shells import config_file, here, names
from mmengine.config import Config
from mmengine.runner import Runner

from mmkd.apis.commands import parser_of
from mmkd.apis.commands.fit_vocabulary import check_arguments
from mmkd.losses import AssignmentKLLoss
from mmkd.losses.quest.hook import VocabularyHook

LOSS = dict(type='AssignmentKLLoss', num_words=6, tau='auto', target_perplexity=2.0)
TAPS = dict(feat='decode_head.bottleneck', early='backbone[0]')


def quest(*taps: str, **loss: str) -> dict:
    """Return a Distiller with a vocabulary for each tap, named after it."""
    return model_of(
        critic=False, taps=TAPS, objectives={tap: dict(loss=LOSS | loss, on=tap) for tap in taps}
    )


def fit(
    folder: Path, out: Path, *options: str, monkeypatch: pytest.MonkeyPatch, **changes: dict
) -> None:
    here(
        'fit_vocabulary.py',
        config_file(folder, **changes),
        out,
        *options,
        *names(f'fit_{folder.name}_{out.name}'),
        monkeypatch=monkeypatch,
    )


def vocabulary_by_hook(cfg: Config) -> torch.nn.Module:
    """Return what the hook fits for the same run."""
    runner = Runner.from_cfg(cfg)
    VocabularyHook().before_train(runner)
    return next(iter(runner.model.objectives.values())).loss.vocabulary


def test_a_file_is_what_the_hook_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / 'words/feat.pth'
    fit(tmp_path, out, model=quest('feat', vocabulary='not/there/yet.pth'), monkeypatch=monkeypatch)
    assert f'wrote {out}: ' in capsys.readouterr().out
    by_hook = vocabulary_by_hook(run_config(tmp_path, quest('feat')))
    saved = torch.load(out, weights_only=True)
    assert saved['state_dict'].keys() == dict(by_hook.named_buffers()).keys()
    assert all(
        torch.equal(value, getattr(by_hook, key)) for key, value in saved['state_dict'].items()
    )
    assert {
        key: saved['meta'][key]
        for key in ('objective', 'teacher', 'tap', 'pooling', 'images', 'vectors')
    } == dict(
        objective='feat',
        teacher='teacher',
        tap='decode_head.bottleneck',
        pooling=1,
        images=6,
        vectors=150,
    )
    assert [file.name for file in out.parent.iterdir()] == ['feat.pth']  # no half file beside it

    # a run takes it as it is, and the hook checks whose it is
    monkeypatch.setattr('mmkd.losses.quest.hook.fit_vocabularies', None)
    runner = train(
        run_config(tmp_path, quest('feat', vocabulary=str(out)), max_iters=2, val_interval=9)
    )
    assert torch.equal(runner.model.objectives['feat'].loss.vocabulary.words, by_hook.words)
    with pytest.raises(
        ValueError, match="objective 'feat': this vocabulary was fitted to another teacher"
    ):
        train(
            run_config(
                tmp_path, quest('feat', vocabulary=str(out)), randomness=dict(seed=3), name='other'
            )
        )
    alone = AssignmentKLLoss(4, 16, num_words=6, tau=0.3, vocabulary=out)
    assert alone(torch.randn(2, 4, 3, 3), torch.randn(2, 16, 6, 6)) > 0


def test_a_folder_holds_every_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ('--images', '3', '--max-vectors', '30', '--seed', '4')
    fit(
        tmp_path,
        tmp_path / 'words',
        *options,
        model=quest('feat', 'early'),
        monkeypatch=monkeypatch,
    )
    metas = {
        file.stem: torch.load(file, weights_only=True)['meta']
        for file in (tmp_path / 'words').iterdir()
    }
    assert {
        name: (meta['tap'], meta['images'], meta['vectors'], meta['seed'])
        for name, meta in metas.items()
    } == dict(feat=('decode_head.bottleneck', 3, 30, 4), early=('backbone[0]', 3, 30, 4))


def test_what_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(
        SystemExit, match=r"has the vocabularies \['early', 'feat'\], one file holds one: give a"
    ):
        fit(tmp_path, tmp_path / 'words.pth', model=quest('feat', 'early'), monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match='recipe.py has no AssignmentKLLoss among its objectives'):
        fit(tmp_path, tmp_path / 'none.pth', model=model_of(critic=False), monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match='2'):
        fit(
            tmp_path,
            tmp_path / 'zero.pth',
            '--images',
            '0',
            model=quest('feat'),
            monkeypatch=monkeypatch,
        )
    assert (
        "error: argument --images: must be a whole number of at least 1, got '0'"
        in capsys.readouterr().err
    )


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('out', 'said'),
    [
        ('taken/deep/words.pth', r'must be in a folder, but \S+/taken is a file\. Mend: '),
        ('taken', r'taken/feat\.pth must be in a folder, but \S+/taken is a file\. Mend: '),
        ('full', r'full/feat\.pth must be a file, but it is a folder\. Mend: '),
        ('full/feat.pth', r'must be a file, but it is a folder\. Mend: '),
        (
            'weights.pth',
            r'weights\.pth is there, and is no vocabulary that may be replaced\. Mend: ',
        ),
        ('closed/words.pth', r'closed/words\.pth cannot be written \(.*read-only.*\)\. Mend: '),
    ],
)
def test_where_nothing_can_be_written_nothing_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, said: str
) -> None:
    (tmp_path / 'taken').touch()
    (tmp_path / 'full' / 'feat.pth').mkdir(parents=True)
    torch.save(dict(state_dict={}, meta={}), tmp_path / 'weights.pth')  # a teacher's
    if out.startswith('closed'):  # whoever runs the tests may write everywhere
        monkeypatch.setattr('tempfile.TemporaryFile', read_only)
    monkeypatch.setattr('mmkd.losses.quest.fitting.fit_vocabularies', None)
    with pytest.raises(SystemExit, match=said):
        fit(tmp_path, tmp_path / out, model=quest('feat'), monkeypatch=monkeypatch)


def read_only(**options: object) -> None:
    raise OSError(errno.EROFS, 'read-only')


@pytest.mark.bad_input
@pytest.mark.parametrize('name', ['words.pt', 'words.PTH', 'v1.2/words.ckpt'])
def test_a_file_of_another_suffix_is_no_folder(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match='2'):
        check_arguments(parser_of('fit-vocabulary'), argparse.Namespace(out=name))
    mend = f'Mend: {name.rpartition(".")[0]}.pth, or {name}/ where a folder is meant'
    assert f"or a folder, got '{name}'. {mend}" in capsys.readouterr().err


def test_folders_may_have_dots(tmp_path: Path) -> None:
    (tmp_path / 'words.old').mkdir()
    for out in ('tau_0.3', 'words.pt/', '.', 'words.pth', str(tmp_path / 'words.old')):
        check_arguments(parser_of('fit-vocabulary'), argparse.Namespace(out=out))


def test_vectors_of_a_classifier(tmp_path: Path) -> None:
    """Maps (N, C, H, W) and vectors (N, C) of classified images; one vector an image, all of them
    valid.
    """
    loss = dict(type='AssignmentKLLoss', num_words=4, tau='auto', target_perplexity=2.0)
    cfg = classification(
        tmp_path,
        classifiers(
            objectives=dict(
                maps=dict(loss=loss, on='feat'),
                vectors=dict(loss=loss, on='logits', reads=dict(mask='batch.valid')),
            )
        ),
    )
    runner = Runner.from_cfg(cfg)
    hook = VocabularyHook()
    hook.before_train(runner)
    images = len(runner.train_dataloader.dataset)
    size = hook.reports['maps']['vectors'] // images
    assert hook.reports['vectors']['vectors'] == images
    assert size > 1
    assert hook.reports['maps']['vectors'] == size * images
    assert all(
        report['assignment'] == pytest.approx(2, rel=1e-3) for report in hook.reports.values()
    )
    scalars = train(cfg).message_hub.log_scalars
    assert scalars['train/vectors.loss'].data[0][-1] > 0
