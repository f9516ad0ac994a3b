"""Stored teachers: how they are written, which taps they have, what is refused before training."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.runs import model_of
from helpers.stored import config, reading, store_of
from mmengine.registry import MODELS

from mmkd.apis.launch import build_runner
from mmkd.apis.prepare import prepare_config
from mmkd.distiller.members.member import Member
from mmkd.distiller.members.stored import Stored
from mmkd.losses.fitted.source import digest_of
from mmkd.noise import GaussianInput
from mmkd.noise.base import Noise
from mmkd.structures.batch import Batch
from mmkd.utils.stored.shards import Reader, Shard

LIVE = model_of(critic=False)['teacher']
SMALLER = tiny.segmentor(4, num_classes=3, size=32)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images in ``data`` and stored outputs of four iterations in ``out``."""
    folder = tmp_path_factory.mktemp('stored')
    store_of(config(folder, 'live'), folder / 'out')
    return folder


def build(teacher: Any, **changes: Any) -> Any:
    return tiny.build({**model_of(critic=False), 'teacher': teacher, **changes})


def stored(folder: Path, **changes: Any) -> dict:
    return dict(kind='stored', path=str(folder / 'out')) | changes


# ---------------------------------------------------------------------- as a member


def test_no_network_is_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(Member, 'make', lambda self: made.append(self.name) or make(self))
    model = build(stored(folder))
    assert (made, model.teachers) == (['student'], {})
    assert not any(key.startswith('teacher') for key in model.state_dict())


make = Member.make


def test_it_is_built_as_with_the_live_teacher(folder: Path) -> None:
    states = []
    for teacher in (copy.deepcopy(LIVE), stored(folder)):
        torch.manual_seed(0)
        states.append(build(teacher).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_probe_says_what_the_live_teacher_says(folder: Path) -> None:
    torch.manual_seed(0)
    live, again = build(copy.deepcopy(LIVE)), build(stored(folder))
    batch = Batch(torch.randn(1, 3, 32, 32))
    assert {tap: x.shape for tap, x in live.runs['teacher'].probe(batch).items()} == {
        tap: x.shape for tap, x in again.runs['teacher'].probe(batch).items()
    }


def test_its_weights_are_known(folder: Path) -> None:
    runner = build_runner(prepare_config(config(folder, 'again')))
    model: Any = runner.model
    run = build(stored(folder)).runs['teacher']
    assert run.digest() == model.runs['teacher'].digest() == digest_of(model.teacher)


def test_a_copy_for_ema_reads_the_same_files(folder: Path) -> None:
    model = build(stored(folder))
    assert copy.deepcopy(model).runs['teacher'] is model.runs['teacher']


def test_taps_are_found_by_name_path_or_point(folder: Path) -> None:
    member = build(stored(folder)).runs['teacher'].member
    assert member.find('logits', 'decode_head.conv_seg') == 'logits'
    assert member.find('map', 'decode_head.conv_seg') == 'logits'  # another name for the path
    with pytest.raises(KeyError, match=r"tap 'logits' of teacher .'decode_head.conv_seq'. is not "):
        member.find('logits', 'decode_head.conv_seq')


def test_predicting_and_testing_need_no_hook(folder: Path) -> None:
    model = build(stored(folder)).eval()
    assert model(torch.randn(1, 3, 32, 32), mode='tensor') is not None


def test_a_member_of_a_tool_is_the_live_one() -> None:
    written = dict(kind='stored', path='nowhere', verify=copy.deepcopy(LIVE))
    assert Member.parse('teacher', 'teacher', written).model['type'] == 'EncoderDecoder'
    with pytest.raises(ValueError, match=r"stored in 'nowhere': there is no network.*verify=dict"):
        Member.parse('teacher', 'teacher', dict(kind='stored', path='nowhere'))


# ---------------------------------------------------------------------- refused when built


@pytest.mark.parametrize(
    ('change', 'kind', 'text'),
    [
        (dict(kind='storred'), ValueError, "kind of teacher 'teacher' must be one of"),
        (dict(pth=1), TypeError, "got an unknown key 'pth'; did you mean 'path'"),
        (dict(path=3), TypeError, 'must be the folder that mmkd store wrote, got 3. Mend'),
        (dict(path=' '), TypeError, "must be the folder that mmkd store wrote, got ' '"),
        (dict(path='nowhere'), FileNotFoundError, 'nowhere holds no stored outputs.*mmkd store'),
        (dict(taps=['logits']), TypeError, 'taps of teacher .* must be a dictionary'),
        (
            dict(taps=dict(logits='decode_head.convs')),
            KeyError,
            r"tap 'logits' of teacher \('decode_head.convs'\) is not among.*logits='decode_head",
        ),
        (dict(checkpoint='a.pth'), TypeError, "unknown key 'checkpoint'"),
        (
            dict(verify=dict(model=SMALLER, allow_untrained=True)),
            ValueError,
            'stored for something else than verify: model.backbone.base_channels is 8 there and 4 '
            'here',
        ),
        (
            dict(verify=dict(**LIVE, precision='bf16')),
            ValueError,
            "options.precision is 'bf16' here and not there",
        ),
    ],
)
def test_bad_members(change: dict, kind: type[Exception], text: str, folder: Path) -> None:
    with pytest.raises(kind, match=text):
        build(stored(folder, **copy.deepcopy(change)))


def test_a_student_is_not_stored(folder: Path) -> None:
    with pytest.raises(TypeError, match="student 'student' got an unknown key 'kind'"):
        build(copy.deepcopy(LIVE), student=stored(folder))


def test_other_weights_than_verify(folder: Path, tmp_path: Path) -> None:
    model = MODELS.build(dict(copy.deepcopy(LIVE['model']), _scope_='mmseg'))
    torch.save(model.state_dict(), tmp_path / 'other.pth')
    verify = dict(model=copy.deepcopy(LIVE['model']), checkpoint=str(tmp_path / 'other.pth'))
    with pytest.raises(ValueError, match=r'was stored of other weights than those of verify'):
        build(stored(folder, verify=verify))


def test_inputs_of_another_size(folder: Path) -> None:
    student = dict(model=tiny.segmentor(4, num_classes=3, size=64))
    with pytest.raises(ValueError, match=r'stored for inputs of \(3, 32, 32\), this run has'):
        build(stored(folder), student=student)


def test_a_step_that_nobody_numbered(folder: Path) -> None:
    model = build(stored(folder))
    data = tiny.batch(2, 32, 3)
    with pytest.raises(RuntimeError, match=r'nothing tells which iteration this is.*mmkd train'):
        model.train_step(data, tiny.sgd(model))


def test_what_fits_beforehand_is_refused(folder: Path) -> None:
    run = build(stored(folder)).runs['teacher']
    with pytest.raises(ValueError, match='cannot be run on other images.*Mend: fit under the live'):
        run.watch(Batch(torch.zeros(1, 3, 32, 32)))
    with pytest.raises(ValueError, match='cannot be asked for its own loss'):
        run.loss_with('logits', Batch(torch.zeros(1, 3, 32, 32)), lambda x: x)


# ---------------------------------------------------------------------- noises


class Blur(GaussianInput):
    """A noise on the images of teachers."""

    role = 'teacher'


def test_noises_within_a_stored_teacher_are_refused(folder: Path) -> None:
    for noise, text in (
        (dict(type='TeacherDropout'), 'TeacherDropout acts inside the forward in which teacher'),
        (Blur(0.1), 'Blur acts on the images that teacher'),
    ):
        with pytest.raises(ValueError, match=f'{text}.*one draw would be kept.*Mend: the live'):
            build(stored(folder), noise=[noise])


def test_noises_of_students_and_of_taps_are_allowed(folder: Path) -> None:
    noises = [
        dict(type='GaussianInput', std=0.1),
        dict(type='LabelFlip', rate=0.1),
        dict(type='TargetNoise', std=0.1),
    ]
    run = build(stored(folder), noise=noises).runs['teacher']
    assert [type(noise).__name__ for noise in run.noises.each] == ['TargetNoise']
    assert all(isinstance(noise, Noise) for noise in run.noises.each)


# ---------------------------------------------------------------------- refused before a run


def begin(cfg: Any) -> None:
    runner = build_runner(prepare_config(cfg))
    runner.train()


SHORTER = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=99)


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'randomness.seed': 1}, 'seed is 0 there and 1 here'),
        ({'train_dataloader.batch_size': 3}, 'train_dataloader.batch_size is 2 there and 3 here'),
        (
            {'train_dataloader.num_batch_per_epoch': 2},
            'train_dataloader.num_batch_per_epoch is 2 here and not there',
        ),
        (
            {'train_dataloader.dataset.pipeline.3.prob': 0.25},
            r'train_dataloader.dataset.pipeline\[3\].prob is 0.5 there and 0.25 here',
        ),
        (
            {'train_dataloader.sampler.shuffle': False},
            'train_dataloader.sampler.shuffle is True there and False here',
        ),
        (
            {'model.student.model.data_preprocessor.mean': [1.0] * 3},
            r'data_preprocessor.mean is \[100.0, 100.0, 100.0\] there and \[1.0, 1.0, 1.0\] here',
        ),
        (
            {'train_cfg.max_iters': 6},
            r'holds 4 iterations, this run has 6. Mend: mmkd store .* goes on to 6; or '
            'train_cfg.max_iters=4',
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_other_runs(changes: dict, text: str, folder: Path) -> None:
    cfg = reading(folder, 'other', folder / 'out')
    cfg.merge_from_dict(changes)
    with pytest.raises(ValueError, match=text):
        begin(cfg)


@pytest.mark.parametrize(
    ('key', 'value', 'text'),
    [
        ('draws', 99, 'draws is 99 there and 1 here'),
        ('world_size', 2, 'world_size is 2 there and 1 here'),
        ('by_epoch', True, 'by_epoch is True there and False here'),
    ],
)
def test_other_facts(key: str, value: Any, text: str, folder: Path, tmp_path: Path) -> None:
    copy_of(folder / 'out', tmp_path / 'out')
    file = tmp_path / 'out' / 'manifest.json'
    content = json.loads(file.read_text())
    content['run'][key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f'stored for something else than this run: {text}. Mend'):
        begin(reading(folder, 'other', tmp_path / 'out'))


def copy_of(source: Path, target: Path) -> None:
    for file in source.rglob('*'):
        if file.is_file():
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(source)).write_bytes(file.read_bytes())


def test_data_that_are_no_function_of_the_iteration(folder: Path) -> None:
    cfg = reading(folder, 'other', folder / 'out')
    cfg.custom_hooks = [one for one in cfg.custom_hooks if 'ExactResume' not in one['type']]
    with pytest.raises(ValueError, match='without ExactResumeHook other images come'):
        begin(cfg)


def change(folder: Path, **fields: Any) -> None:
    """Change what was stored of every iteration."""
    for file in (folder / 'rank0').iterdir():
        content = torch.load(file, weights_only=True)
        for entry in content['entries']:
            entry.update({key: value(entry[key]) for key, value in fields.items()})
        torch.save(content, file)


@pytest.mark.parametrize(
    ('fields', 'text'),
    [
        (dict(names=lambda names: ['x.png', *names[1:]]), r'it is of .*png.*, stored was x.png'),
        (dict(look=lambda look: look + 1), 'its images have other numbers'),
        (dict(look=lambda look: look[:1]), 'it has 2 images, stored were 1'),
        (dict(names=lambda names: None), 'stored was images without names'),
    ],
)
def test_other_images(fields: dict, text: str, folder: Path, tmp_path: Path) -> None:
    copy_of(folder / 'out', tmp_path / 'out')
    change(tmp_path / 'out', **fields)
    with pytest.raises(ValueError, match=f'batch of iteration 0 is not the one that .*{text}'):
        begin(reading(folder, 'other', tmp_path / 'out'))


def test_images_that_a_hook_changes_later(folder: Path, tmp_path: Path) -> None:
    """On the CPU every batch is looked at, on a GPU one now and then: looking waits for it."""
    copy_of(folder / 'out', tmp_path / 'out')
    for file in (tmp_path / 'out/rank0').iterdir():
        content = torch.load(file, weights_only=True)
        content['entries'][2]['look'] += 1
        torch.save(content, file)
    with pytest.raises(ValueError, match='batch of iteration 2 is not .* other numbers'):
        begin(reading(folder, 'later', tmp_path / 'out'))
    teacher = build(stored(folder)).runs['teacher']
    teacher._reader = Reader([Shard(0, 23, Path()), Shard(23, 41, Path())], 'teacher', [])
    looks = dict(cpu=[], cuda=[])
    for teacher.iteration in range(41):
        for device, looked in looks.items():
            looked += [teacher.iteration] * teacher._looks(torch.device(device))
    assert looks == dict(cpu=[*range(41)], cuda=[0, 20, 23, 40])


# ---------------------------------------------------------------------- verify


def test_the_live_teacher_agrees_and_is_let_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        'mmkd.distiller.members.stored.print_log', lambda text, **kwargs: said.append(text)
    )
    cfg = reading(folder, 'verified', folder / 'out', verify=copy.deepcopy(LIVE), max_iters=2)
    runner = build_runner(prepare_config(cfg))
    run = runner.model.runs['teacher']
    assert isinstance(run, Stored)
    assert run._teacher is not None
    runner.train()
    assert run._teacher is None
    assert [text for text in said if 'as the live teacher on the first batch' in text] == [
        'mmkd: teacher: as the live teacher on the first batch (logits 0, feat 0 of its mean size)'
    ]


def test_the_live_teacher_differs(folder: Path, tmp_path: Path) -> None:
    copy_of(folder / 'out', tmp_path / 'out')

    def louder(taps: dict) -> dict:
        return {name: {tap: 1.1 * x for tap, x in one.items()} for name, one in taps.items()}

    change(tmp_path / 'out', taps=louder)
    with pytest.raises(ValueError, match=r"tap 'logits' of .* differ by 10 % of its mean size"):
        begin(reading(folder, 'other', tmp_path / 'out', verify=copy.deepcopy(LIVE)))
