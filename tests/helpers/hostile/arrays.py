"""Forged numpy arrays, scalars and dtypes."""

from collections.abc import Iterator

from helpers.hostile.assembler import (
    ANY,
    EMPTY,
    FALSE,
    NONE,
    TRUE,
    Case,
    archive,
    build,
    call,
    checkpoint,
    keyed,
    listed,
    many,
    name,
    new,
    number,
    numbers,
    ordered,
    raw,
    real,
    storage,
    tensor,
    text,
    weights,
)

NDARRAY = name('numpy', 'ndarray')
RECONSTRUCT = name('numpy._core.multiarray', '_reconstruct')
OLD_RECONSTRUCT = name('numpy.core.multiarray', '_reconstruct')
SCALAR = name('numpy._core.multiarray', 'scalar')


def dtype(kind: str | bytes, order: str | bytes = '<', *state: bytes, copy: bytes = TRUE) -> bytes:
    """A dtype as numpy pickles it; ``state`` replaces what follows the byte order."""
    state = state or (NONE, NONE, NONE, number(-1), number(-1), number(0))
    made = call(name('numpy', 'dtype'), text(kind) if isinstance(kind, str) else kind, FALSE, copy)
    return build(made, many(number(3), text(order) if isinstance(order, str) else order, *state))


F4 = dtype('f4')
OBJECT = dtype('O8', '|', NONE, NONE, NONE, number(-1), number(-1), number(63))


def array(
    kind: bytes = F4,
    shape: bytes | tuple[int, ...] = (4,),
    content: bytes | None = None,
    order: bytes = FALSE,
    version: bytes = number(1),
    made: bytes | None = None,
) -> bytes:
    """An array as numpy pickles it."""
    made = call(RECONSTRUCT, NDARRAY, many(number(0)), raw(b'b')) if made is None else made
    shape = numbers(*shape) if isinstance(shape, tuple) else shape
    return build(
        made, many(version, shape, kind, order, raw(bytes(16)) if content is None else content)
    )


def _arrays() -> dict[str, bytes]:
    fields = ordered((text('x'), many(F4, number(0))))
    record = dtype('V4', '|', NONE, many(text('x')), fields, number(4), number(1), number(16))
    far_fields = ordered((text('x'), many(F4, number(4096))))
    far = dtype('V4', '|', NONE, many(text('x')), far_fields, number(4), number(1), number(16))
    objects = dtype(
        'V8',
        '|',
        NONE,
        many(text('x')),
        ordered((text('x'), many(OBJECT, number(0)))),
        number(8),
        number(1),
        number(0),
    )
    sub = dtype('V16', '|', many(F4, many(number(4))), NONE, NONE, number(16), number(1), number(0))
    giant_sub = dtype(
        'V4', '|', many(F4, many(number(2**28))), NONE, NONE, number(4), number(1), number(0)
    )
    date = dtype(
        'M8',
        '<',
        NONE,
        NONE,
        NONE,
        number(-1),
        number(-1),
        number(0),
        many(ordered(), many(raw(b'D'), number(1), number(1), number(1))),
    )
    return {
        'objects': array(OBJECT, (1,), listed(text('x'))),
        'objects_from_bytes': array(OBJECT, (1,), raw(b'AAAAAAAA')),
        'objects_with_a_short_list': array(OBJECT, (1000,), listed()),
        'objects_with_a_long_list': array(OBJECT, (1,), listed(*[NONE] * 99)),
        'objects_with_a_tuple': array(OBJECT, (4,), many(NONE, NONE)),
        'objects_with_none': array(OBJECT, (4,), NONE),
        'objects_by_code': array(call(name('numpy', 'dtype'), text('O')), (1,), raw(b'AAAAAAAA')),
        'objects_without_their_flags': array(dtype('O8', '|'), (1,), raw(b'AAAAAAAA')),
        'numbers_from_a_list': array(F4, (4,), listed(NONE, NONE)),
        'numbers_from_text': array(F4, (4,), text('x' * 16)),
        'numbers_from_none': array(F4, (4,), NONE),
        'numbers_with_object_flags': array(
            dtype('f8', '<', NONE, NONE, NONE, number(-1), number(-1), number(63)),
            (2,),
            raw(b'A' * 16),
        ),
        'record': array(record),
        'record_beyond_its_size': array(far),
        'record_of_objects': array(objects, (2,)),
        'subarray': array(sub, (1,)),
        'subarray_giant': array(giant_sub),
        'dates': array(date, (2,)),
        'dates_bare': array(dtype('M8[ns]'), (2,)),
        'differences': array(dtype('m8[s]'), (2,)),
        'void': array(dtype('V4', '|')),
        'bytes': array(dtype('S4', '|', NONE, NONE, NONE, number(4), number(1), number(0))),
        'unicode_beyond': array(
            dtype('U1', '<', NONE, NONE, NONE, number(2**30), number(4), number(8)), (1,)
        ),
        'unicode_invalid': array(
            dtype('U4', '<', NONE, NONE, NONE, number(16), number(4), number(8)),
            (1,),
            raw(b'\xff' * 16),
        ),
        'strings_of_numpy_2': array(call(name('numpy.dtypes', 'StringDType')), (1,)),
        'size_in_the_state': array(
            dtype('f4', '<', NONE, NONE, NONE, number(2**20), number(4), number(0)), (4,)
        ),
        'alignment_in_the_state': array(
            dtype('f4', '<', NONE, NONE, NONE, number(-1), number(0), number(0)), (4,)
        ),
        'dtype_state_short': array(
            build(call(name('numpy', 'dtype'), text('f4'), FALSE, TRUE), many(number(3)))
        ),
        'dtype_state_version': array(
            build(
                call(name('numpy', 'dtype'), text('f4'), FALSE, TRUE), many(number(99), *[NONE] * 7)
            )
        ),
        'dtype_byte_order': array(dtype('f4', '?')),
        'dtype_byte_order_long': array(dtype('f4', '<<<<')),
        'dtype_byte_order_number': array(dtype('f4', number(3))),
        'dtype_by_list': array(call(name('numpy', 'dtype'), listed(many(text('x'), text('O'))))),
        'dtype_by_a_comma_bomb': array(
            call(name('numpy', 'dtype'), text(','.join(['f4'] * 20_000)))
        ),
        'dtype_by_a_nested_bomb': array(
            call(name('numpy', 'dtype'), text('(2147483647,2147483647)f8'))
        ),
        'dtype_of_a_giant': array(call(name('numpy', 'dtype'), text('V2147483647')), (1,)),
        'dtype_by_a_class': array(
            call(name('numpy', 'dtype'), name('helpers.hostile.canary', 'Canary'))
        ),
        'dtype_by_text': array(text('f4')),
        'dtype_none': array(NONE),
        'dtype_of_torch': array(name('torch', 'float32')),
        'too_few_bytes': array(F4, (4,), raw(bytes(15))),
        'no_bytes': array(F4, (4,), raw(b'')),
        'too_many_bytes': array(F4, (4,), raw(bytes(64))),
        'shape_huge': array(F4, (2**28,)),
        'shape_negative': array(F4, (-1,)),
        'shape_two_negatives': array(F4, (-2, -2)),
        'shape_overflows': array(F4, (2**62, 2**62)),
        'shape_overflows_to_16': array(F4, (2**32, 2**32, 4)),
        'shape_beyond_64_bits': array(F4, (2**70,)),
        'shape_zero_and_huge': array(F4, (0, 2**62), raw(b'')),
        'shape_of_65': array(F4, (1,) * 65),
        'shape_none': array(F4, NONE),
        'shape_number': array(F4, number(4)),
        'shape_reals': array(F4, many(real(4.0))),
        'shape_nested': array(F4, many(many(number(4)))),
        'shape_list': array(F4, listed(number(4))),
        'order_number': array(order=number(9)),
        'version_huge': array(version=number(2**40)),
        'version_none': array(version=NONE),
        'state_short': build(
            call(RECONSTRUCT, NDARRAY, many(number(0)), raw(b'b')), many(number(1))
        ),
        'state_none': build(call(RECONSTRUCT, NDARRAY, many(number(0)), raw(b'b')), NONE),
        'state_twice': build(array(), many(number(1), numbers(2**20), F4, FALSE, raw(bytes(16)))),
        'without_state': call(RECONSTRUCT, NDARRAY, many(number(2**27)), raw(b'd')),
        'reconstruct_objects': call(RECONSTRUCT, NDARRAY, many(number(4)), raw(b'O')),
        'reconstruct_a_list': call(
            RECONSTRUCT, name('builtins', 'list'), many(number(0)), raw(b'b')
        ),
        'reconstruct_a_tensor': call(
            OLD_RECONSTRUCT, name('torch', 'Tensor'), many(number(0)), raw(b'b')
        ),
        'reconstruct_a_dtype': call(
            OLD_RECONSTRUCT, name('numpy', 'dtype'), many(number(0)), raw(b'b')
        ),
        'reconstruct_a_canary': call(
            RECONSTRUCT, name('helpers.hostile.canary', 'Canary'), EMPTY, raw(b'b')
        ),
        'reconstruct_memmap': call(
            RECONSTRUCT, name('numpy', 'memmap'), many(number(0)), raw(b'b')
        ),
        'reconstruct_without_arguments': call(RECONSTRUCT),
        'constructor': call(NDARRAY, many(number(2**27))),
        'constructor_objects': call(NDARRAY, many(number(1)), OBJECT, raw(b'AAAAAAAA')),
        'constructor_strides': call(
            NDARRAY, many(number(2**27)), F4, raw(bytes(16)), number(0), many(number(0))
        ),
        'constructor_offset': call(NDARRAY, many(number(4)), F4, raw(bytes(16)), number(-64)),
        'constructor_new': new(NDARRAY, many(number(1)), OBJECT, raw(b'AAAAAAAA')),
        'scalar_objects': call(SCALAR, OBJECT, raw(b'AAAAAAAA')),
        'scalar_object_of_none': call(SCALAR, OBJECT, NONE),
        'scalar_short': call(SCALAR, F4, raw(b'\x00')),
        'scalar_long': call(SCALAR, F4, raw(bytes(99))),
        'scalar_without_bytes': call(SCALAR, dtype('f8')),
        'scalar_none': call(SCALAR, F4, NONE),
        'scalar_text': call(SCALAR, F4, text('abcd')),
        'scalar_of_text': call(SCALAR, text('f4'), raw(bytes(4))),
        'scalar_record': call(SCALAR, record, raw(bytes(4))),
        'scalar_void': call(SCALAR, dtype('V99', '|'), raw(b'')),
        'scalar_date': call(SCALAR, date, raw(bytes(8))),
        'scalar_without_arguments': call(SCALAR),
        'scalar_new': new(name('numpy', 'float64'), number(1)),
        'core_frombuffer': call(
            name('numpy.core.numeric', '_frombuffer'),
            raw(bytes(16)),
            F4,
            many(number(4)),
            text('C'),
        ),
        'masked': call(
            name('numpy.ma.core', '_mareconstruct'), NDARRAY, NDARRAY, many(number(0)), raw(b'b')
        ),
        'random_state': call(name('numpy.random._pickle', '__randomstate_ctor'), text('MT19937')),
    }


def forged_arrays() -> Iterator[Case]:
    """Each forged array beside honest weights."""
    for title, value in _arrays().items():
        yield Case(title, archive(checkpoint(value)))


def arrays_as_weights() -> Iterator[Case]:
    """Some of them in place of a weight."""
    arrays = _arrays()
    for title in (
        'objects',
        'objects_from_bytes',
        'objects_with_a_short_list',
        'record',
        'dates',
        'void',
        'too_few_bytes',
        'too_many_bytes',
        'shape_huge',
        'without_state',
        'constructor_strides',
        'scalar_objects',
        'dtype_of_a_giant',
        'subarray_giant',
        'unicode_invalid',
        'reconstruct_objects',
        'state_twice',
    ):
        yield Case(title, archive(checkpoint(state=weights(conv_bias=arrays[title]))))


def numbers_as_weights() -> Iterator[Case]:
    """Honest arrays of kinds that torch may not know: as they are, or refused by name."""
    for kind in (
        'f2',
        'f4',
        'f8',
        'i1',
        'i2',
        'i8',
        'u1',
        'u2',
        'u4',
        'u8',
        'c8',
        'c16',
        'b1',
        'f16',
    ):
        for order in '<>':
            title = f'{kind}_{"little" if order == "<" else "big"}'
            size = 16 // int(kind[1:])
            value = array(dtype(kind, order), (size,))
            yield Case(title, archive(checkpoint(state=weights(conv_bias=value))), accept=ANY)
    for title, value in {
        'scalar': call(SCALAR, F4, raw(bytes(4))),
        'zero_dimensions': array(F4, (), raw(bytes(4))),
        'nothing': array(F4, (0,), raw(b'')),
        'fortran': array(F4, (2, 2), order=TRUE),
    }.items():
        yield Case(title, archive(checkpoint(state=weights(conv_bias=value))), accept=ANY)


def shared_dtypes() -> Iterator[Case]:
    """A dtype of numpy's own, not a copy, is given another byte order: for the whole process."""
    for title, made in {
        'byte_order': dtype('f4', '>', copy=FALSE),
        'not_copied': dtype('f8', '>', copy=FALSE),
        'size': dtype('f8', '<', NONE, NONE, NONE, number(4), number(4), number(0), copy=FALSE),
        'flags': dtype('i8', '<', NONE, NONE, NONE, number(-1), number(-1), number(63), copy=FALSE),
        'fields': dtype(
            'f8',
            '<',
            NONE,
            many(text('x')),
            ordered((text('x'), many(F4, number(0)))),
            number(8),
            number(8),
            number(16),
            copy=FALSE,
        ),
        'metadata': dtype(
            'f4',
            '<',
            NONE,
            NONE,
            NONE,
            number(-1),
            number(-1),
            number(0),
            keyed(x=NONE),
            copy=FALSE,
        ),
        'class_of_it': build(
            call(name('numpy.dtypes', 'Float64DType')),
            many(number(3), text('>'), NONE, NONE, NONE, number(-1), number(-1), number(0)),
        ),
        'of_the_scalar': build(
            call(name('numpy', 'float64'), real(1.0)), many(number(3), text('>'), NONE)
        ),
    }.items():
        yield Case(
            title, archive(checkpoint(listed(made, array(made), call(SCALAR, made, raw(bytes(8))))))
        )
        yield Case(f'{title}_alone', archive(checkpoint(made)))
    view = call(
        name('torch._utils', '_rebuild_device_tensor_from_numpy'),
        array(F4, (2**28,)),
        name('torch', 'float32'),
        text('cpu'),
        FALSE,
    )
    yield Case('tensor_of_a_forged_array', archive(checkpoint(view)))
    yield Case(
        'array_of_a_tensor',
        archive(
            checkpoint(
                build(
                    call(RECONSTRUCT, NDARRAY, many(number(0)), raw(b'b')),
                    many(number(1), numbers(4), F4, FALSE, tensor(storage('1', 4), (4,), (1,))),
                )
            )
        ),
    )
