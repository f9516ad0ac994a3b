"""Read files in forked children; say which did harm, and what was unclear, slow or greedy."""

import faulthandler
import gc
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from helpers.hostile import canary
from helpers.hostile.assembler import ANY, HONEST, MODULE, TOKEN, Case
from helpers.hostile.harmless import saved
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn

import mmkd.utils.checkpoints

Readers = tuple[Callable[[Path], Any], Callable[[Path], Any]]
Limits = tuple[int, int] | None
SECONDS = 1.0  # of CPU, for one file
FLOOR = 4 * 2**20  # bytes; pages of code that are first touched
VIRTUAL = 256 * 2**20  # bytes that may be asked for and not used
PATIENCE = 20.0  # seconds until a child is ended
ROOM = 6 * 2**30  # bytes a child may have on top of what it starts with: the machine must live
COUNTED = ('harmful', 'unclear', 'slow', 'greedy')
_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    torch.Size,
    torch.dtype,
    torch.device,
    torch.layout,
    slice,
)
_CLASSES = (
    OrderedDict,
    Counter,
    Tensor,
    nn.Parameter,
    torch.Size,
    HistoryBuffer,
    ConfigDict,
    np.ndarray,
    np.dtype,
)
_WATCHED = (
    'os.',
    'subprocess.',
    'shutil.',
    'socket.',
    'urllib.',
    'webbrowser.',
    'ctypes.',
    'pty.',
    'ftplib.',
    'smtplib.',
    'sqlite3.',
    'builtins.',
    'code.',
    'function.',
    'sys.set',
    'signal.',
    'pdb.',
    'logging.',
    'winreg.',
    'msvcrt.',
)
_UNWATCHED = (
    'os.listdir',
    'os.scandir',
    'os.walk',
    'builtins.id',
    'os.mkdir',
    'os.rmdir',
    'os.remove',
    'shutil.rmtree',
)  # of a temporary folder; else their paths tell


# --- what a read did ------------------------------------------------------------------------------


class Watch:
    """Notes what Python reports of processes, files, code and the net, and forbids it."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        """Look at one audit event."""
        if not self.on or not _suspicious(event, args):
            return
        self.on = False
        self.seen.append(f'{event}{args!r:.80}')
        self.on = True
        raise RuntimeError('forbidden by the test')


def _suspicious(event: str, args: tuple) -> bool:
    words = [
        arg.decode('latin1') if isinstance(arg, bytes) else arg
        for arg in args
        if isinstance(arg, str | bytes)
    ]
    if event != 'pickle.find_class' and any(TOKEN in word or MODULE in word for word in words):
        return True
    if event == 'open':
        return isinstance(args[1], str) and any(letter in args[1] for letter in 'wax+')
    if event == 'exec':
        return any(TOKEN in str(constant) for constant in args[0].co_consts)
    return event.startswith(_WATCHED) and event not in _UNWATCHED


def _world() -> dict[str, Any]:
    """What a read must leave as it was."""
    own = [value for value in vars(mmkd.utils.checkpoints).values() if isinstance(value, type)]
    classes = {
        f'{cls.__module__}.{cls.__name__}.{key}': id(value)
        for cls in (*_CLASSES, *own)
        for key, value in vars(cls).items()
        if key not in ('__doc__', '__abstractmethods__', '_abc_impl')
    }
    dtypes = {
        kind: (
            np.dtype(kind).str,
            np.dtype(kind).itemsize,
            np.dtype(kind).flags,
            np.dtype(kind).names,
            np.dtype(kind).alignment,
            str(np.dtype(kind).metadata),
        )
        for kind in ('f2', 'f4', 'f8', 'i8', 'u1', '?')
    }
    return (
        classes
        | {f'dtype {kind}': value for kind, value in dtypes.items()}
        | {
            'cwd': os.getcwd(),
            'environment': dict(os.environ),
            'path': list(sys.path),
            'recursion': sys.getrecursionlimit(),
            'default type': str(torch.get_default_dtype()),
            'threads': torch.get_num_threads(),
            'grad': torch.is_grad_enabled(),
            'allowed names': len(torch.serialization.get_safe_globals()),
            'warnings': len(warnings.filters),
            'seed': torch.random.get_rng_state().sum().item(),
            'hooks': (sys.gettrace(), sys.getprofile()),
            'module': MODULE in sys.modules,
            'collector': gc.isenabled(),
            'signal': str(signal.getsignal(signal.SIGINT)),
            'sparse': len(torch._utils._sparse_tensors_to_validate),
            'log methods': dict(HistoryBuffer._statistics_methods),
        }
    )


def _faults_of_tensor(value: Tensor, room: int) -> Iterator[str]:
    if (
        type(value) not in (Tensor, nn.Parameter)
        or value.layout != torch.strided
        or value.is_quantized
    ):
        yield f'is a {type(value).__name__}, {value.layout}, {value.dtype}'
        return
    if value.device.type != 'cpu':
        yield f'lies on {value.device}'
        return
    size, held = value.numel() * value.element_size(), value.untyped_storage().nbytes()
    if value.numel() and (value.storage_offset() + 1) * value.element_size() > held:
        yield 'begins beyond its storage'
    elif size > held or size > room:
        yield f'shows {size} bytes and has {held}'
    if value._backward_hooks or vars(value).keys() - {'_backward_hooks'}:
        yield f'has hooks or attributes: {sorted(vars(value))[:5]}'


def _faults_of_array(value: Any, room: int) -> Iterator[str]:
    if value.dtype.kind not in 'biufcSU' or value.dtype.hasobject or value.nbytes > room:
        yield f'is an array of {value.dtype} with {value.nbytes} bytes'
    elif value.size:
        value.tobytes()  # every byte is there, or the process is not


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return [*dict.keys(value), *dict.values(value), getattr(value, '__dict__', {})]
    return list(value)


def faults_of(content: Any, room: int) -> list[str]:
    """Return what lies in ``content`` that is not plain data.

    Args:
        content: anything that a file gave.
        room: how many bytes one tensor or array may hold.
    """
    found, todo, seen = [], [content], set()
    while todo and len(seen) < 2 * 10**6:
        value = todo.pop()
        if type(value) in _PLAIN or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            found += _faults_of_tensor(value, room)
        elif isinstance(value, np.ndarray | np.generic):
            found += _faults_of_array(value, room)
        elif isinstance(value, np.dtype):
            found += ['holds a dtype of objects'] if value.hasobject else []
        elif isinstance(value, torch.TypedStorage | torch.UntypedStorage):
            found += [f'holds a storage of {value.nbytes()} bytes'] if value.nbytes() > room else []
        elif type(value) in (dict, OrderedDict, Counter, ConfigDict, list, tuple, set, frozenset):
            todo += _children(value)
        elif isinstance(value, HistoryBuffer | PurePath) or type(value).__module__.startswith(
            'mmkd.'
        ):
            todo.append(getattr(value, '__dict__', None))
        elif not (
            isinstance(value, type)
            and value.__module__.split('.')[0] in ('mmkd', 'torch', 'numpy', 'collections')
        ):
            found.append(f'holds a {type(value).__module__}.{type(value).__name__}')
    return found


def _faults_of_weights(given: Any, case: Case, room: int) -> list[str]:
    """What is wrong with weights that came back."""
    if case.refuse:
        return ['was not refused']
    found = faults_of(given, room)
    if found or case.accept is ANY:
        return found
    wanted = HONEST if case.accept is None else case.accept
    if type(given) not in (dict, OrderedDict) or list(given) != list(wanted):
        return ['gave other weights']
    different = [
        key
        for key, value in wanted.items()
        if not isinstance(given[key], Tensor)
        or given[key].shape != value.shape
        or given[key].dtype != value.dtype
        or not torch.equal(given[key].resolve_neg(), value)
    ]
    versions = getattr(given, '_metadata', None)
    if versions is not None and not all(
        isinstance(key, str) and isinstance(value, Mapping) for key, value in dict(versions).items()
    ):
        return ['gave module versions that are none']
    return [f'gave another {different[0]}'] if different else []


def _faults_of_error(error: BaseException, file: Path) -> list[str]:
    """What is wrong with a refusal."""
    message = str(error)
    found = []
    if not isinstance(error, TypeError | RuntimeError | ValueError) or isinstance(
        error, UnicodeError
    ):
        found.append(f'raised {type(error).__name__}')
    if file.name not in message:
        found.append('the error does not name the file')
    if len(message.splitlines()) != 1 or not message.isprintable():
        found.append('the error is not one printable line')
    if len(message) > 2000:
        found.append(f'the error has {len(message)} letters')
    return [f'{each}: {message[:100]!r}' for each in found]


# --- one child, one file --------------------------------------------------------------------------


def _memory() -> dict[str, int]:
    lines = Path('/proc/self/status').read_text().splitlines()
    return {
        line.split(':')[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith('Vm')
    }


def _judged(
    read: Callable[[Path], Any], case: Case, file: Path, weights: bool, report: dict, watch: Watch
) -> tuple[int, int]:
    """Read once; return how much memory that took, real and virtual."""
    Path('/proc/self/clear_refs').write_text('5')  # the peak begins anew
    before, start = _memory(), time.process_time()
    content = error = None
    watch.on = True
    try:
        content = read(file)
    except BaseException as raised:  # noqa: B036  SystemExit is harm too
        error = raised
    watch.on = False
    seconds, after = time.process_time() - start, _memory()
    if seconds > SECONDS:
        report['slow'].append(f'{seconds:.1f} s')
    if isinstance(error, KeyboardInterrupt | SystemExit):
        report['harmful'].append(f'raised {type(error).__name__}')
    elif error is not None:
        report['unclear'] += _faults_of_error(error, file)
        report['errors'] = [*report.get('errors', []), str(error)[:300]]
    else:
        room = 2 * file.stat().st_size + FLOOR
        found = _faults_of_weights(content, case, room) if weights else faults_of(content, room)
        report['harmful'] += [
            f'{"weights" if weights else "content"}: {each}' for each in found[:3]
        ]
    report['loaded'].append(error is None)
    return after['VmHWM'] - before['VmRSS'], after['VmPeak'] - before['VmPeak']


def _settle(folder: Path) -> int:
    """Make the child a place where nothing matters; return the file that its output goes to."""
    os.chdir(folder / 'inside')
    sys.path.insert(0, str(folder / 'modules'))
    output = os.open(folder / 'output', os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stdout, sys.stderr = os.fdopen(1, 'w', 1), os.fdopen(2, 'w')  # pytest's go elsewhere
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faulthandler.disable()
    torch.set_num_threads(1)  # the parent's other threads do not exist here
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_memory()['VmSize'] + ROOM, resource.RLIM_INFINITY))
    return output


def _attack(cases: list[Case], readers: Readers, folder: Path, limits: Limits) -> Iterator[dict]:
    """In the child: read each file twice, then an honest one; stop at the first harm."""
    output, honest = _settle(folder), folder / 'honest.pth'
    for read in readers:  # pages of code that every read touches are not the file's
        read(honest)
    watch, before = Watch(), _world()
    for case in cases:
        report: dict[str, list] = {kind: [] for kind in (*COUNTED, 'loaded', 'memory')}
        file = folder / f'{case.name}.pth'
        file.write_bytes(case.data)
        watch.seen.clear()
        canary.CALLED.clear()
        for read, weights in zip(readers, (False, True), strict=True):
            used = _judged(read, case, file, weights, report, watch)
            report['memory'].append(used)
            if limits and (used[0] > limits[0] or used[1] > limits[1]):
                report['greedy'].append(f'{used[0] >> 20} MB, asked for {used[1] >> 20} MB')
        after, left = _world(), os.listdir(folder / 'inside')
        report['harmful'] += [f'did {each}' for each in watch.seen] + [
            f'called {each}' for each in canary.CALLED
        ]
        report['harmful'] += [f'changed {key}' for key in after if before.get(key) != after[key]][
            :5
        ]
        report['harmful'] += [f'left {each}' for each in left]
        report['harmful'] += ['printed'] if TOKEN.encode() in os.pread(output, 10**6, 0) else []
        report['harmful'] += [
            f'an honest file afterwards: {each}'
            for each in _faults_of_weights(readers[1](honest), Case('honest', b''), 2**30)
        ]
        file.unlink()
        yield report
        if report['harmful'] or report['greedy']:
            return  # the next one starts in a child that nothing happened to


def _child(cases: list[Case], readers: Readers, folder: Path, limits: Limits) -> list[dict]:
    """Fork and attack until something happens; return a report of each file that was read."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read_end)
        try:
            for report in _attack(cases, readers, folder, limits):
                os.write(write_end, json.dumps(report).encode() + b'\n')
        except BaseException as error:  # noqa: B036  the parent must hear of it
            harm = dict(harmful=[f'broke the process: {type(error).__name__}: {error}'[:300]])
            os.write(write_end, json.dumps(harm).encode() + b'\n')
        os._exit(0)
    os.close(write_end)
    said, late = b'', False
    while True:
        ready, _, _ = select.select([read_end], [], [], PATIENCE)
        part = os.read(read_end, 2**16) if ready else b''
        said += part
        if not part:
            late = not ready
            break
    os.close(read_end)
    if late:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    reports = [json.loads(line) for line in said.splitlines()]
    if late:
        reports.append(dict(slow=[f'no end after {PATIENCE:.0f} s']))
    elif code or not reports:
        how = signal.Signals(-code).name if code < 0 else f'exit {code}'
        reports.append(dict(harmful=[f'ended the process: {how}']))
    return reports


_MEASURED: dict[Readers, Limits] = {}


def _limits(readers: Readers, folder: Path) -> Limits:
    """Twice what an honest file of 16 megabytes takes, real and virtual; measured once.

    Where the process has memory to spare, reading it takes none that could be measured: it counts
    as its size then.
    """
    if readers in _MEASURED:
        return _MEASURED[readers]
    state = {f'layer{index}.weight': torch.full((2**18,), float(index)) for index in range(16)}
    size = 16 * 2**20
    (report,) = _child(
        [Case('large', saved({'state_dict': state}), accept=state)], readers, folder, None
    )
    assert not any(report.get(kind) for kind in COUNTED), report
    _MEASURED[readers] = (
        2 * max(size, *(real for real, _ in report['memory'])) + FLOOR,
        2 * max(size, *(virtual for _, virtual in report['memory'])) + VIRTUAL,
    )
    return _MEASURED[readers]


def _place(folder: Path) -> None:
    """Lay out what the children need."""
    (folder / 'inside').mkdir()
    (folder / 'modules').mkdir()
    (folder / 'modules' / f'{MODULE}.py').write_text(f"print('{TOKEN}')\nx = print\n")
    (folder / 'honest.pth').write_bytes(saved({'state_dict': HONEST}))


def attack(cases: Iterable[Case], readers: Readers | None = None, load: bool = False) -> dict:
    """Read every file, each in a child of its own.

    Args:
        cases: the files.
        readers: of everything in a file, and of the weights alone; mmkd's unless given.
        load: each must load, a refusal is counted as harm.

    Returns:
        ``files``: their number. ``harmful``: what ran or changed something, ended the process,
        or gave wrong weights. ``unclear``: refused by an error that is not one line with the
        file's name. ``slow``, ``greedy``. Each a list of texts that begin with the file's name.
    """
    readers = readers or (
        mmkd.utils.checkpoints.load_checkpoint_file,
        mmkd.utils.checkpoints.load_state_dict_file,
    )
    result: dict[str, Any] = dict(files=0, **{kind: [] for kind in COUNTED})
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page
    with tempfile.TemporaryDirectory() as name:
        _place(Path(name))
        limits, todo = _limits(readers, Path(name)), list(cases)
        while todo:
            reports = _child(todo, readers, Path(name), limits)
            for case, report in zip(todo, reports, strict=False):
                _count(case, report, load, result)
            todo = todo[len(reports) :]
            for left in (Path(name) / 'inside').iterdir():
                left.unlink() if left.is_file() or left.is_symlink() else left.rmdir()
    return result


def _count(case: Case, report: dict, load: bool, result: dict) -> None:
    result['files'] += 1
    if load and not all(report.get('loaded', [False])):
        report.setdefault('harmful', []).append(f'did not load: {report.get("errors")}')
    for kind in COUNTED:
        if report.get(kind):
            result[kind].append(f'{case.name}: {"; ".join(dict.fromkeys(report[kind]))}'[:400])
