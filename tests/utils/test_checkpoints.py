"""Checkpoints of every kind load, safely; what does not fit is listed."""

import hashlib
import http.client
import os
import re
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from helpers.tiny_run import Script, make_runner
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import initialize
from mmengine.runner import load_checkpoint
from mmengine.runner.runner import find_latest_checkpoint as find_latest
from torch import nn

from mmkd.utils.checkpoints import (
    latest_checkpoint,
    load_checkpoint_file,
    load_state_dict_file,
    load_strict,
    select_prefix,
)


def network(channels: int = 3, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, 4, 3), norm=nn.BatchNorm2d(4), head=nn.Conv2d(4, classes, 1)
        )
    )


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def assert_same(one: dict, other: dict) -> None:
    assert list(one) == list(other)
    for key, value in one.items():
        assert value.dtype == other[key].dtype, key
        assert torch.equal(value, other[key]), key


# --- what loads -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'pack',
    [
        lambda state: state,
        lambda state: {'state_dict': state, 'meta': {'epoch': 3}},
        lambda state: {'model': state, 'optimizer': {'lr': 0.1}},
        lambda state: OrderedDict((f'module.{key}', value) for key, value in state.items()),
        lambda state: {'state_dict': {f'module.{key}': value for key, value in state.items()}},
        lambda state: {'model': {key: value.numpy() for key, value in state.items()}},
    ],
)
@pytest.mark.parametrize('zipped', [True, False])
def test_kinds_of_files(pack: Any, zipped: bool, tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save(pack(state), tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    assert_same(load_state_dict_file(tmp_path / 'a.pth'), state)
    assert_same(load_state_dict_file(str(tmp_path / 'a.pth')), state)


def test_a_prefix_that_not_all_keys_share_stays(tmp_path: Path) -> None:
    state = {'module.a': torch.zeros(1), 'b': torch.ones(1)}
    assert_same(load_state_dict_file(save(state, tmp_path / 'a.pth')), state)


def test_checkpoint_of_a_real_run(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        dict(type='CheckpointHook', by_epoch=False, interval=3, save_best='mIoU'),
        val_interval=2,
        metric=Script([0.1, 0.2, 0.3]),
        param_scheduler=[
            dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=6, by_epoch=False)
        ],
    )
    runner.train()
    for name in ('iter_6.pth', 'best_mIoU_iter_6.pth'):
        assert_same(load_state_dict_file(tmp_path / name), runner.model.state_dict())
        content = load_checkpoint_file(tmp_path / name)
        assert (content['meta']['iter'], content['meta']['seed']) == (6, 0)
        assert content['message_hub']['runtime_info']['best_score'] == 0.3


def old_numpy(path: Path) -> Path:
    """Rewrite a file as numpy 1 would have written it: the module was called numpy.core."""
    with zipfile.ZipFile(path) as archive:
        parts = [(item, archive.read(item)) for item in archive.infolist()]
    old = path.with_name('old.pth')
    with zipfile.ZipFile(old, 'w') as archive:
        for item, content in parts:
            if item.filename.endswith('data.pkl'):
                assert b'numpy._core' in content
                content = content.replace(b'numpy._core', b'numpy.core')
            archive.writestr(item.filename, content)
    return old


def test_what_runs_keep_beside_the_weights(tmp_path: Path) -> None:
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    kinds = [np.float64(0.5), np.float32(0.5), np.int64(3), np.bool_(True), np.arange(3)]
    content = dict(
        state_dict={'w': torch.ones(2)},
        meta=dict(
            cfg=ConfigDict(a=1, b=[dict(c=2)]),
            path=Path('a/b'),
            kinds=kinds,
            palette=[(1, 2, 3)],
            history=buffer,
            window=slice(1, 2),
            names={'a'},
        ),
    )
    file = save(content, tmp_path / 'a.pth')
    for each in (file, old_numpy(file)):
        loaded = load_checkpoint_file(each)
        assert_same(load_state_dict_file(each), content['state_dict'])
        assert loaded['meta']['cfg'] == {'a': 1, 'b': [{'c': 2}]}
        assert loaded['meta']['kinds'][:4] == kinds[:4]
        assert loaded['meta']['kinds'][4].tolist() == [0, 1, 2]


def test_milestones_of_a_schedule_stay_a_counter(tmp_path: Path) -> None:
    found = load_checkpoint_file(save({'milestones': Counter([3, 5, 5])}, tmp_path / 'a.pth'))
    assert type(found['milestones']) is Counter
    assert list(found['milestones'].elements()) == [3, 5, 5]


def test_every_precision_loads_as_it_is(tmp_path: Path) -> None:
    state = {
        'half': torch.tensor([0.1]).half(),
        'brain': torch.tensor([0.1]).bfloat16(),
        'count': torch.tensor(3),
        'double': torch.tensor(0.1, dtype=torch.float64),
    }
    file = save(state, tmp_path / 'a.pth')
    assert_same(load_state_dict_file(file), state)


def test_module_versions_survive(tmp_path: Path) -> None:
    state = nn.ModuleDict({'module': network()}).state_dict()
    assert state._metadata['module.norm'] == {'version': 2}
    loaded = load_state_dict_file(save({'state_dict': state}, tmp_path / 'a.pth'))
    assert loaded._metadata['norm'] == {'version': 2}
    assert set(loaded._metadata) == {'', 'conv', 'norm', 'head'}
    part = select_prefix(network().state_dict(), 'norm')
    assert dict(part._metadata) == {'': {'version': 2}}


def test_teachers_and_published_weights_load(shared: Any) -> None:
    for name in (
        'camvid_teachers/effnet_lite2_deeplabv3plus_seed0.pth',
        'espnet/espnet_p_2_q_8_camvid.pth',
    ):
        state = load_state_dict_file(shared(f'weights/{name}'))
        assert len(state) > 100
        assert all(value.isfinite().all() for value in state.values())


# --- what does not --------------------------------------------------------------------------------


class Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def test_code_in_a_file_never_runs(tmp_path: Path) -> None:
    mark = tmp_path / 'ran'
    bad = {'state_dict': {'w': torch.zeros(1)}, 'meta': Evil(os.mkdir, str(mark))}
    with pytest.raises(
        TypeError,
        match=r'a\.pth needs posix\.mkdir, which mmkd does not know to be harmless.*'
        r"torch\.save\(torch\.load\(path, weights_only=False\)\['state_dict'\]",
    ):
        load_state_dict_file(save(bad, tmp_path / 'a.pth'))
    assert not mark.exists()


def test_getattr_is_for_log_histories_alone(tmp_path: Path) -> None:
    bad = {'state_dict': {'w': torch.zeros(1)}, 'meta': Evil(getattr, np.ndarray, 'tofile')}
    with pytest.raises(
        TypeError, match=r'a\.pth needs builtins\.getattr, which mmkd does not know to be harmless'
    ):
        load_checkpoint_file(save(bad, tmp_path / 'a.pth'))


@pytest.mark.parametrize('zipped', [True, False])
def test_weights_that_share_memory_go_on_sharing_it(zipped: bool, tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    state = {
        'whole': whole,
        'part': whole[2:8].view(2, 3).t(),
        'none': whole[:0],
        'number': torch.tensor(3),
    }
    torch.save(state, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    loaded = load_state_dict_file(tmp_path / 'a.pth')
    assert_same(loaded, state)
    assert loaded['part'].stride() == (1, 3)
    loaded['whole'][2] = -1.0
    assert loaded['part'][0, 0] == -1.0


@pytest.mark.parametrize(
    'dtype',
    [
        torch.bool,
        torch.uint8,
        torch.int16,
        torch.float64,
        torch.bfloat16,
        torch.complex64,
        torch.uint16,
        torch.float8_e4m3fn,
    ],
)
def test_every_type_of_number(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {'w': torch.tensor([0, 1, 1]).to(dtype)}
    loaded = load_state_dict_file(save(state, tmp_path / 'a.pth'))
    assert loaded['w'].dtype == dtype
    assert torch.equal(loaded['w'].view(torch.uint8), state['w'].view(torch.uint8))


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    file = save({'state_dict': {'w': torch.full((1000,), 0.01)}}, tmp_path / 'a.pth')
    content = bytearray(file.read_bytes())
    place = content.index(struct.pack('<f', 0.01) * 4) + 403
    content[place] ^= 64  # an exponent
    file.write_bytes(content)
    assert torch.load(file, weights_only=True)['state_dict']['w'].max() > 1e30, (
        'torch does not look'
    )
    with pytest.raises(RuntimeError, match=r'a\.pth .*Bad CRC-32'):
        load_state_dict_file(file)


@pytest.mark.bad_input
@pytest.mark.parametrize(('key', 'name'), [(0, '0'), (b'w', "b'w'")])
def test_weights_without_a_name(key: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(
        TypeError,
        match=rf'a\.pth holds no state dict: its keys are {name}, but weights go by names',
    ):
        load_state_dict_file(save({key: torch.zeros(1)}, tmp_path / 'a.pth'))


@pytest.mark.bad_input
def test_arrays_of_anything_but_numbers(tmp_path: Path) -> None:
    for array in (
        np.array([1, 'a'], dtype=object),
        np.array(['a']),
        np.array([(1, 2)], dtype='i4,i4'),
        np.array(['2020-01-01'], dtype='M8[D]'),
    ):
        with pytest.raises(
            RuntimeError, match=r"a\.pth .*an array of numpy is of the type '.*', which is no plain"
        ):
            load_state_dict_file(save({'w': array}, tmp_path / 'a.pth'))


def test_trust_lets_a_file_run_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmkd.utils.checkpoints._trusted', True)
    meta = Evil(os.mkdir, str(tmp_path / 'ran'))
    file = save({'state_dict': {'w': torch.zeros(1)}, 'meta': meta}, tmp_path / 'a.pth')
    assert_same(load_state_dict_file(file), {'w': torch.zeros(1)})
    assert (tmp_path / 'ran').is_dir()


def test_mmengine_reads_as_mmkd_does(tmp_path: Path) -> None:
    mark = tmp_path / 'ran'
    file = save(
        {'state_dict': network().state_dict(), 'meta': Evil(os.mkdir, str(mark))},
        tmp_path / 'a.pth',
    )
    pretrained = nn.Module()
    for load in (
        lambda: load_checkpoint(network(), str(file)),
        lambda: initialize(network(), dict(type='Pretrained', checkpoint=str(file))),
        lambda: initialize(
            pretrained, dict(type='Pretrained', checkpoint=str(file), prefix='conv')
        ),
    ):
        with pytest.raises(TypeError, match=r'a\.pth needs posix\.mkdir'):
            load()
    assert not mark.exists()


@pytest.mark.bad_input
def test_last_checkpoint_names_a_file_beside_it(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / 'iter_4.pth').touch()
    for text in ('iter_4.pth', '/moved/from/here/iter_4.pth', 'C:\\runs\\iter_4.pth\n'):
        (tmp_path / 'last_checkpoint').write_text(text)
        assert (
            latest_checkpoint(tmp_path)
            == find_latest(str(tmp_path))
            == str(tmp_path / 'iter_4.pth')
        )
    outside = tmp_path / 'other' / 'evil.pth'
    outside.parent.mkdir()
    outside.touch()
    for text in (
        str(outside),
        'other/evil.pth',
        'http://models.example/evil.pth',
        '..',
        '',
        'iter_4.pth/',
    ):
        (tmp_path / 'last_checkpoint').write_text(text)
        with pytest.raises(
            FileNotFoundError,
            match=r'last_checkpoint names .*checkpoints there: iter_4\.pth.*Mend: ',
        ):
            latest_checkpoint(tmp_path)


@pytest.mark.bad_input
def test_a_whole_model_is_refused_by_class(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r'needs torch\.nn\.modules\.conv\.Conv2d'):
        load_state_dict_file(save(nn.Conv2d(1, 1, 1), tmp_path / 'a.pth'))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([torch.zeros(1)], 'holds no state dict but list'),
        ({}, 'holds no state dict but dict'),
        (
            {'epoch': 3, 'net': {'w': torch.zeros(1)}},
            r'neither "state_dict" nor "model" is a key.*no tensors: epoch, net\. Write it with '
            r'torch\.save\(model',
        ),
    ],
)
def test_files_without_a_state_dict(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        load_state_dict_file(save(content, tmp_path / 'a.pth'))


@pytest.mark.bad_input
def test_missing_files_name_the_nearest(tmp_path: Path) -> None:
    for name in ('pspnet_r101.pth', 'notes.txt', 'pspnet_r18.pth'):
        (tmp_path / name).write_bytes(b'')
    with pytest.raises(
        FileNotFoundError,
        match=r"psp_r101\.pth does not exist; did you mean 'pspnet_r101\.pth'.*"
        r'files in .*: notes\.txt, pspnet_r101\.pth, pspnet_r18\.pth',
    ):
        load_state_dict_file(tmp_path / 'psp_r101.pth')
    with pytest.raises(FileNotFoundError, match=r'nor does its folder .*/nowhere'):
        load_state_dict_file(tmp_path / 'nowhere' / 'a.pth')
    with pytest.raises(FileNotFoundError, match=r'is a folder, not a file.*notes\.txt'):
        load_state_dict_file(tmp_path)
    with pytest.raises(FileNotFoundError, match='only files and http'):
        load_state_dict_file('open-mmlab://resnet50_v1c')


@pytest.mark.bad_input
@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('keep', [0, 10, 0.5, 0.97])
def test_truncated_files(zipped: bool, keep: float, tmp_path: Path) -> None:
    file = tmp_path / 'a.pth'
    torch.save(network().state_dict(), file, _use_new_zipfile_serialization=zipped)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(
        RuntimeError, match=rf'a\.pth \({file.stat().st_size} bytes\) is truncated or is no PyTorch'
    ):
        load_state_dict_file(file)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    'content', [b'version https://git-lfs.github.com/spec/v1\n', b'<!DOCTYPE html>', bytes(999)]
)
def test_files_that_are_something_else(content: bytes, tmp_path: Path) -> None:
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(
        RuntimeError, match='is truncated or is no PyTorch checkpoint; copy or download it again'
    ):
        load_state_dict_file(tmp_path / 'a.pth')


# --- URLs -----------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.hub; there is no network unless a test makes one."""

    def unreachable(url: str, file: str, **kwargs: Any) -> None:
        raise URLError('Name or service not known')

    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    monkeypatch.setattr(torch.hub, 'download_url_to_file', unreachable)
    return tmp_path / 'cache' / 'hub' / 'checkpoints'


@pytest.mark.bad_input
def test_url_is_downloaded_once_and_checked(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = network().state_dict()
    content = save(state, tmp_path / 'made.pth').read_bytes()
    name = f'net-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    asked = []

    def download(url: str, file: str, **kwargs: Any) -> None:
        asked.append(url)
        Path(file).write_bytes(content)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    for _ in range(2):
        assert_same(load_state_dict_file(f'https://models.example/v1/{name}?x=1'), state)
    assert asked == [f'https://models.example/v1/{name}?x=1']
    assert (hub / name).is_file()
    (hub / name).write_bytes(content + b'more')  # what is broken in the cache is fetched anew
    assert_same(load_state_dict_file(f'https://models.example/v1/{name}'), state)
    assert len(asked) == 2
    content += b'more'
    (hub / name).unlink()
    with pytest.raises(
        RuntimeError,
        match=rf'{name} has the SHA-256 \w{{8}}… and its name says .*was deleted again',
    ):
        load_state_dict_file(f'https://models.example/v1/{name}')
    assert not (hub / name).exists()
    content = content[:-4]
    # without digits in the name nothing is checked
    assert_same(load_state_dict_file('http://models.example/net.pth'), state)


@pytest.mark.bad_input
def test_no_network_says_which_file_to_put_where(hub: Path) -> None:
    with pytest.raises(
        ConnectionError,
        match=(
            r'cannot download https://models\.example/v1/net-0123abcd\.pth \(.*known.*\)\. Without '
            rf'a network: fetch it elsewhere and put it at {hub}/net-0123abcd\.pth, or give the '
            r'local path'
        ),
    ):
        load_state_dict_file('https://models.example/v1/net-0123abcd.pth')
    state = network().state_dict()
    url = 'https://models.example/plain.pth'
    with pytest.raises(ConnectionError, match=r'put it at (.*plain\.pth), or') as error:
        load_state_dict_file(url)
    save(state, Path(re.search(r'put it at (.*plain\.pth), or', str(error.value))[1]))
    assert_same(load_state_dict_file(url), state)


def test_files_of_one_name_and_two_urls_are_two(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {
        f'https://models.example/member_{k}/iter_9-20230220.pth': network().state_dict()
        for k in (0, 1)
    }
    monkeypatch.setattr(
        torch.hub, 'download_url_to_file', lambda url, file, **_: save(states[url[:-2]], Path(file))
    )
    for token in range(2):
        for url, state in states.items():  # and a date is no hash
            assert_same(load_state_dict_file(f'{url}?{token}'), state)
    assert len(list(hub.iterdir())) == 2, 'a token makes no other file'


def test_urls_that_name_a_file_by_their_query_are_two(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {f'https://models.example/download?id={k}': network().state_dict() for k in (1, 2)}
    monkeypatch.setattr(
        torch.hub, 'download_url_to_file', lambda url, file, **_: save(states[url], Path(file))
    )
    for url, state in [*states.items()] * 2:
        assert_same(load_state_dict_file(url), state)
    assert len(list(hub.iterdir())) == 2


@pytest.mark.bad_input
@pytest.mark.parametrize(
    'first', [lambda whole: whole[: len(whole) // 2], lambda whole: b'<!DOCTYPE html>']
)
def test_a_broken_download_is_not_kept(
    first: Any, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = network().state_dict()
    content = save(state, tmp_path / 'made.pth').read_bytes()
    answers = [first(content), content]

    def download(url: str, file: str, **kwargs: Any) -> None:
        Path(file).write_bytes(answers.pop(0))

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    with pytest.raises(
        RuntimeError, match=r'net\.pth .*is truncated or is no .*came from .*deleted again'
    ):
        load_state_dict_file('https://models.example/net.pth')
    assert not list(hub.iterdir())
    assert_same(load_state_dict_file('https://models.example/net.pth'), state)


@pytest.mark.bad_input
def test_a_connection_that_breaks(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise http.client.IncompleteRead(b'x', 9)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', broken)
    with pytest.raises(
        ConnectionError, match=r'cannot download https://models\.example/a\.pth \(IncompleteRead'
    ):
        load_state_dict_file('https://models.example/a.pth')


# --- select_prefix, load_strict -------------------------------------------------------------------


@pytest.mark.bad_input
def test_select_prefix_takes_the_first_that_matches() -> None:
    state = {
        'students.a.w': torch.tensor(1.0),
        'students.ab.w': torch.tensor(2.0),
        'objectives.x': torch.tensor(3.0),
    }
    assert select_prefix(state, 'students.a') == {'w': torch.tensor(1.0)}  # not students.ab
    assert select_prefix(state, ['students.none.', 'students.ab.']) == {'w': torch.tensor(2.0)}
    with pytest.raises(
        KeyError,
        match=r"begins with 'students\.b\.' or 'student\.'; did you mean .*students\.ab\..*"
        r'the 3 keys begin with: objectives\.x\., students\.a\., students\.ab\.',
    ):
        select_prefix(state, ['students.b', 'student'])


def test_strict_load_fills_every_weight() -> None:
    torch.manual_seed(0)
    source, target = network(), network()
    load_strict(target, source.state_dict(), 'teacher')
    assert_same(target.state_dict(), source.state_dict())
    old = {
        key: value
        for key, value in source.state_dict().items()
        if not key.endswith('num_batches_tracked')
    }
    other = network()
    load_strict(other, old, 'teacher')  # torch before 0.4.1 wrote none
    assert torch.equal(other.head.weight, source.head.weight)


@pytest.mark.bad_input
def test_one_error_lists_everything() -> None:
    state = network(channels=4, classes=7).state_dict()
    state['extra.weight'] = state.pop('conv.bias')
    with pytest.raises(RuntimeError) as info:
        load_strict(network(), state, "teacher 'teacher' from best.pth")
    assert str(info.value) == (
        "teacher 'teacher' from best.pth does not fit Sequential (9 entries):\n  1 missing: "
        'conv.bias\n  1 unexpected: extra.weight\n  3 of another shape: conv.weight (4, 4, 3, 3), '
        'the model has (4, 3, 3, 3), head.weight (7, 4, 1, 1), the model has (5, 4, 1, 1), '
        'head.bias (7,), the model has (5,)\n  Mend: is this the checkpoint of another '
        'architecture, or of another number of classes?'
    )


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('key', 'spoil', 'message'),
    [
        (
            'conv.weight',
            lambda x: x * float('nan'),
            'teacher has weights that are NaN or Inf: conv.weight. Mend: a checkp',
        ),
        ('head.bias', lambda x: x / 0, 'NaN or Inf: head.bias. Mend'),
        (
            'conv.weight',
            lambda x: (x.double() + 1) * 1e60,
            'NaN or Inf: conv.weight.*of float64, weights that float32 can',
        ),
        ('norm.running_mean', lambda x: x * float('nan'), 'NaN or Inf: norm.running_mean'),
        (
            'norm.running_var',
            lambda x: -x,
            'teacher has negative running variances, .*: norm.running_var. Mend: a check',
        ),
    ],
)
def test_weights_that_compute_nothing_but_nan(key: str, spoil: Any, message: str) -> None:
    state = network().state_dict()
    with pytest.raises(FloatingPointError, match=message):
        load_strict(network(), {**state, key: spoil(state[key])}, 'teacher')


def test_a_buffer_may_hold_inf_and_what_is_not_saved_anything() -> None:
    def masked() -> nn.Module:
        module = network()
        module.register_buffer('mask', torch.full((2, 2), float('-inf')).triu(1))
        module.register_buffer('unsaved', torch.full((1,), float('nan')), persistent=False)
        return module

    target = masked()
    load_strict(target, masked().state_dict(), 'teacher')
    assert target.mask.isinf().sum() == 1


@pytest.mark.bad_input
@pytest.mark.parametrize('dtype', [torch.complex64, torch.int8, torch.bool])
def test_numbers_of_another_kind_are_refused_before_anything_is_loaded(dtype: torch.dtype) -> None:
    target, state = network(), network().state_dict()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    state['conv.bias'], state['head.weight'] = (
        state[key].to(dtype) for key in ('conv.bias', 'head.weight')
    )
    name = str(dtype)[6:]
    with pytest.raises(
        TypeError,
        match=rf'^teacher holds another kind of numbers than Sequential: conv.bias {name}, '
        rf'the model has float32, head.weight {name}, the model has float32. Mend: '
        r'save real weights, model.float\(\).state_dict',
    ):
        load_strict(target, state, 'teacher')
    assert_same(target.state_dict(), before)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_cast_as_they_are_copied(dtype: torch.dtype) -> None:
    state, target = network().state_dict(), network()
    given = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()
    }
    load_strict(target, given, 'teacher')
    assert target.conv.weight.dtype == torch.float32
    assert torch.equal(target.conv.weight, given['conv.weight'].float())


@pytest.mark.bad_input
def test_shapes_are_compared_before_anything_is_converted() -> None:
    """Dense, this tensor of two bytes would take 2 TB."""
    state = network().state_dict()
    state['conv.weight'] = torch.zeros(1, dtype=torch.bfloat16).expand(10**6, 10**6)
    with pytest.raises(
        RuntimeError, match=r'1 of another shape: conv.weight \(1000000, 1000000\), the model has'
    ):
        load_strict(network(), state, 'teacher')


@pytest.mark.bad_input
def test_long_lists_are_cut_at_ten() -> None:
    state = {
        **network().state_dict(),
        **{f'extra.{number}': torch.zeros(1) for number in range(25)},
    }
    with pytest.raises(RuntimeError, match=r'25 unexpected: extra\.0, .*extra\.9, … \(15 more\)'):
        load_strict(network(), state, 'teacher')


@pytest.mark.bad_input
def test_a_prefix_that_explains_it_is_named() -> None:
    state = {f'students.big.{key}': value for key, value in network().state_dict().items()}
    with pytest.raises(
        RuntimeError, match=r"Mend: these weights lie under 'students\.big\.': take select_prefix"
    ):
        load_strict(network(), state, 'teacher')
