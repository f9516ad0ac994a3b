"""Forged tensors: strides, storages, kinds and the states of objects."""

from collections.abc import Iterator

import torch
from helpers.hostile.assembler import (
    ANY,
    BRAIN,
    EMPTY,
    FALSE,
    FLOAT,
    HONEST,
    LONG,
    NONE,
    RECORDS,
    TRUE,
    Case,
    archive,
    build,
    call,
    changed,
    checkpoint,
    entries,
    get,
    keyed,
    listed,
    many,
    mapped,
    name,
    new,
    number,
    numbers,
    ordered,
    put,
    raw,
    real,
    storage,
    tensor,
    text,
    weights,
    zip_bytes,
)

TENSOR, PARAMETER = name('torch', 'Tensor'), name('torch.nn.parameter', 'Parameter')
BIAS = tensor(storage('1', 4), (4,), (1,))


def _rebuild(function: str, *args: bytes) -> bytes:
    return call(name('torch._utils', function), *args)


def _weight(value: bytes) -> bytes:
    return archive(checkpoint(state=weights(conv_bias=value)))


def strides() -> Iterator[Case]:
    """Views that show more than their storage holds, or hold more than it shows."""
    brain, plain = storage('3', 20, BRAIN), storage('1', 4)
    for title, value in {
        'zero_brain_of_a_gigabyte': tensor(brain, (2**28,), (0,)),
        'zero_brain_of_four_gigabytes': tensor(brain, (2**15, 2**16), (0, 0)),
        'zero_float': tensor(plain, (2**28,), (0,)),
        'zero_of_an_exabyte': tensor(plain, (2**58,), (0,)),
        'zero_in_one_of_two': tensor(plain, (2**26, 4), (0, 1)),
        'zero_and_small': tensor(plain, (64,), (0,)),
        'overlapping': tensor(plain, (2, 3), (1, 1)),
        'overlapping_much': tensor(storage('0', 108), (2**20, 100), (0, 1)),
        'negative_stride': tensor(plain, (4,), (-1,), 3),
        'negative_offset': tensor(plain, (4,), (1,), -1),
        'far_negative_offset': tensor(plain, (4,), (1,), -(2**40)),
        'offset_beyond': tensor(plain, (4,), (1,), 1),
        'offset_far_beyond': tensor(plain, (4,), (1,), 2**40),
        'offset_overflows': tensor(plain, (4,), (1,), 2**62),
        'offset_beyond_64_bits': tensor(plain, (4,), (1,), 2**70),
        'storage_too_small': tensor(plain, (5,), (1,)),
        'grows_to_a_gigabyte': tensor(plain, (2**28,), (1,)),
        'grows_to_a_terabyte': tensor(plain, (2**38,), (1,)),
        'stride_beyond': tensor(plain, (4,), (2,)),
        'stride_far_beyond': tensor(plain, (2,), (2**40,)),
        'stride_overflows': tensor(plain, (3,), (2**62,)),
        'stride_missing': tensor(plain, (2, 2), (1,)),
        'negative_size': tensor(plain, (-4,), (1,)),
        'sizes_overflow': tensor(plain, (2**32, 2**32), (0, 0)),
        'sizes_overflow_to_4': tensor(plain, (2**62, 4, 4), (1, 1, 1)),
        'empty_and_huge': tensor(plain, (0, 2**62), (1, 1)),
        'of_70_dimensions': tensor(plain, (1,) * 70, (1,) * 70),
        'of_ten_thousand_dimensions': tensor(plain, (1,) * 10_000, (1,) * 10_000),
        'sizes_real': _rebuild(
            '_rebuild_tensor_v2', plain, number(0), many(real(4.0)), numbers(1), FALSE, ordered()
        ),
        'sizes_none': _rebuild(
            '_rebuild_tensor_v2', plain, number(0), NONE, NONE, FALSE, ordered()
        ),
        'sizes_text': _rebuild(
            '_rebuild_tensor_v2', plain, number(0), text('4'), text('1'), FALSE, ordered()
        ),
        'sizes_a_tensor': _rebuild(
            '_rebuild_tensor_v2', plain, number(0), BIAS, numbers(1), FALSE, ordered()
        ),
        'size_of_5000_digits': tensor(plain, (10**5000,), (1,)),
        'without_strides': _rebuild('_rebuild_tensor_v2', plain, number(0), numbers(4)),
        'version_1_zero': _rebuild('_rebuild_tensor', brain, number(0), numbers(2**28), numbers(0)),
        'version_3_zero': _rebuild(
            '_rebuild_tensor_v3',
            brain,
            number(0),
            numbers(2**28),
            numbers(0),
            FALSE,
            ordered(),
            name('torch', 'bfloat16'),
        ),
        'version_3_other_type': _rebuild(
            '_rebuild_tensor_v3',
            plain,
            number(0),
            numbers(4),
            numbers(1),
            FALSE,
            ordered(),
            name('torch', 'float64'),
        ),
        'parameter_zero': _rebuild(
            '_rebuild_parameter', tensor(brain, (2**28,), (0,)), TRUE, ordered()
        ),
        'set_by_build': build(call(TENSOR), many(brain, number(0), numbers(2**28), numbers(0))),
        'set_beyond_by_build': build(call(TENSOR), many(plain, number(0), numbers(64), numbers(1))),
    }.items():
        legal = title in ('empty_and_huge', 'of_70_dimensions', 'of_ten_thousand_dimensions')
        yield Case(title, _weight(value), accept=ANY if legal else None)
        if title.startswith(
            ('zero_brain_of_a', 'zero_float', 'overlapping_much', 'grows', 'offset_beyond')
        ):
            yield Case(f'{title}_in_meta', archive(checkpoint(value)))
    wide = tensor(brain, (2**22,), (0,))  # 16 MB each as float32
    many_wide = ordered(*((text(f'k{index}'), wide) for index in range(40)))
    yield Case('zero_in_forty_weights', archive(checkpoint(state=many_wide)))


def storages() -> Iterator[Case]:
    """Persistent ids that lie about their record."""

    def weight(*args: bytes | str | int) -> bytes:
        return _weight(tensor(storage(*args), (4,), (1,)))

    for numel in (5, 3, 0, -1, -4, 2**28, 2**31, 2**40, 2**61, 2**62, 2**63, 2**70):
        yield Case(f'numel_{numel}', weight('1', numel))
    yield Case('numel_real', weight('1', real(4.0)))
    yield Case('numel_none', weight('1', NONE))
    yield Case('numel_text', weight('1', text('4')))
    yield Case('numel_text_long', weight('1', text('4' * 100_000)))
    yield Case('numel_true', weight('1', TRUE))
    for kind in (
        'DoubleStorage',
        'HalfStorage',
        'BoolStorage',
        'NoSuchStorage',
        'UntypedStorage',
        'TypedStorage',
        'ComplexFloatStorage',
        'QInt8Storage',
        'QUInt4x2Storage',
        'FloatTensor',
        'Tensor',
    ):
        yield Case(f'kind_{kind}', weight('1', 4, kind))
    yield Case('kind_of_cuda', weight('1', 4, name('torch.cuda', 'FloatStorage')))
    yield Case('kind_of_the_system', weight('1', 4, name('os', 'Storage')))
    for title, kind in dict(
        text=text('FloatStorage'), none=NONE, dtype=name('torch', 'float32'), a_tensor=BIAS
    ).items():
        yield Case(f'kind_is_{title}', weight('1', 4, kind))
    for key in (
        '9',
        '',
        '../1',
        '/etc/passwd',
        '1/',
        '../data.pkl',
        '../version',
        '1\x00',
        '\uff10',
        'a' * 70_000,
        '1\n2',
    ):
        yield Case(f'key_{key[:12].encode().hex()}', weight(key, 4))
    for title, key in dict(
        number=number(1), none=NONE, tuple=many(text('1')), list=listed(text('1'))
    ).items():
        yield Case(f'key_is_{title}', weight(key, 4))
    for location in (
        'cuda:0',
        'meta',
        'cuda:99',
        'hpu',
        'mps',
        'xla',
        'nowhere',
        'cpu:9',
        '',
        'privateuseone:0',
    ):
        yield Case(f'location_{location}', weight('1', 4, FLOAT, location))
    for title, location in dict(none=NONE, number=number(0), list=listed()).items():
        yield Case(f'location_is_{title}', weight('1', 4, FLOAT, location))
    pid = (text('storage'), name('torch', FLOAT), text('1'), text('cpu'), number(4))
    for title, odd in dict(
        empty=EMPTY,
        short=many(*pid[:3]),
        long=many(*pid, NONE, NONE),
        number=number(1),
        text=text('storage'),
        none=NONE,
        list=listed(*pid),
        other_word=many(text('module'), *pid[1:]),
        nested=many(many(*pid), *pid[1:]),
        word_as_bytes=many(raw(b'storage'), *pid[1:]),
        bad_bytes=many(raw(b'\xff'), *pid[1:]),
    ).items():
        yield Case(f'id_{title}', _weight(tensor(odd + b'Q', (4,), (1,))))
    yield Case('no_storage', _weight(tensor(NONE, (4,), (1,))))
    yield Case('storage_is_a_tensor', _weight(tensor(BIAS, (4,), (1,))))
    yield Case('storage_alone_as_weight', _weight(storage('1', 4)))
    twice = weights(conv_bias=tensor(storage('2', 2, FLOAT), (2,), (1,)))
    yield Case('one_key_two_types', archive(checkpoint(state=twice)))
    grown = weights(norm_num_batches_tracked=tensor(storage('1', 4000), (4000,), (1,)))
    yield Case('one_key_two_sizes', archive(checkpoint(state=grown)))
    first = keyed(meta=tensor(storage('0', 13, LONG), (13,), (1,)), state_dict=weights())
    yield Case('one_key_two_types_in_meta', archive(first))
    for key in RECORDS:
        yield Case(
            f'record_{key}_missing',
            archive(checkpoint(), {k: v for k, v in RECORDS.items() if k != key}),
        )
        yield Case(f'record_{key}_short', archive(checkpoint(), RECORDS | {key: RECORDS[key][:-1]}))
        yield Case(f'record_{key}_empty', archive(checkpoint(), RECORDS | {key: b''}))
    yield Case(
        'big_endian',
        zip_bytes(changed(entries(checkpoint()), 'byteorder', data=b'big')),
        accept=ANY,
    )
    yield Case(
        'byteorder_unknown', zip_bytes(changed(entries(checkpoint()), 'byteorder', data=b'middle'))
    )
    yield Case(
        'byteorder_no_text',
        zip_bytes(changed(entries(checkpoint()), 'byteorder', data=b'\xff' * 9)),
    )


def _kinds() -> dict[str, bytes]:
    strided, layout = name('torch', 'strided'), name('torch.serialization', '_get_layout')
    f32, cpu = name('torch', 'float32'), text('cpu')
    eights = storage('1', 16, 'QInt8Storage')
    affine = (name('torch', 'per_tensor_affine'), real(0.1), number(0))
    index = tensor(storage('2', 1, LONG), (1, 1), (1, 1))
    one = tensor(storage('1', 4), (1,), (1,))

    def quantised(size: bytes, stride: bytes, *params: bytes) -> bytes:
        return _rebuild(
            '_rebuild_qtensor', eights, number(0), size, stride, many(*params), FALSE, ordered()
        )

    def sparse(kind: str, *data: bytes) -> bytes:
        return _rebuild('_rebuild_sparse_tensor', call(layout, text(f'torch.{kind}')), many(*data))

    return {
        'quantised': quantised(numbers(16), numbers(1), *affine),
        'quantised_giant': quantised(numbers(2**30), numbers(0), *affine),
        'quantised_beyond': quantised(numbers(64), numbers(1), *affine),
        'quantised_per_channel': quantised(
            numbers(4, 4), numbers(4, 1), name('torch', 'per_channel_affine'), BIAS, BIAS, number(0)
        ),
        'quantised_axis_beyond': quantised(
            numbers(4, 4),
            numbers(4, 1),
            name('torch', 'per_channel_affine'),
            BIAS,
            BIAS,
            number(99),
        ),
        'quantised_scheme_unknown': quantised(numbers(16), numbers(1), NONE),
        'sparse': sparse('sparse_coo', index, one, many(number(9))),
        'sparse_index_beyond': sparse('sparse_coo', index, one, many(number(2))),
        'sparse_giant': sparse('sparse_coo', index, one, many(number(2**40))),
        'sparse_claims_coalesced': sparse('sparse_coo', index, one, many(number(2)), TRUE),
        'sparse_rows': sparse('sparse_csr', index, index, one, numbers(2, 2)),
        'sparse_rows_giant': sparse('sparse_csr', index, index, one, numbers(2**31, 2**31)),
        'sparse_layout_unknown': sparse('mkldnn', index, one, many(number(2))),
        'sparse_layout_is_code': sparse('os.system', index, one, many(number(2))),
        'sparse_legacy_class': call(
            name('torch.sparse', 'FloatTensor'), index, one, many(number(9))
        ),
        'nested': _rebuild(
            '_rebuild_nested_tensor',
            BIAS,
            tensor(storage('2', 1, LONG), (1, 1), (1, 1)),
            tensor(storage('2', 1, LONG), (1, 1), (1, 1)),
            tensor(storage('2', 1, LONG), (1,), (1,)),
        ),
        'meta': _rebuild('_rebuild_meta_tensor_no_storage', f32, numbers(4), numbers(1), FALSE),
        'meta_giant': _rebuild(
            '_rebuild_meta_tensor_no_storage', f32, numbers(2**50), numbers(1), FALSE
        ),
        'moved_to_meta': _rebuild(
            '_rebuild_device_tensor_from_cpu_tensor', BIAS, f32, text('meta'), FALSE
        ),
        'moved_and_made_dense': _rebuild(
            '_rebuild_device_tensor_from_cpu_tensor',
            tensor(storage('3', 20, BRAIN), (2**28,), (0,)),
            f32,
            cpu,
            FALSE,
        ),
        'wrapper': _rebuild(
            '_rebuild_wrapper_subclass',
            TENSOR,
            f32,
            numbers(4),
            numbers(1),
            number(0),
            strided,
            cpu,
            FALSE,
        ),
        'complex': tensor(storage('1', 2, 'ComplexFloatStorage'), (2,), (1,)),
        'negative_bit': tensor(storage('1', 4), (4,), (1,), 0, FALSE, None, keyed(neg=TRUE)),
        'conjugate_bit': tensor(storage('1', 4), (4,), (1,), 0, FALSE, None, keyed(conj=TRUE)),
        'metadata_unknown': tensor(
            storage('1', 4), (4,), (1,), 0, FALSE, None, keyed(os=text('system'))
        ),
        'metadata_number': tensor(storage('1', 4), (4,), (1,), 0, FALSE, None, number(3)),
        'grad_of_integers': tensor(storage('2', 1, LONG), (), (), 0, TRUE),
        'grad_is_text': tensor(storage('1', 4), (4,), (1,), 0, text('x')),
        'hooks_none': tensor(storage('1', 4), (4,), (1,), 0, TRUE, NONE),
        'hooks_number': tensor(storage('1', 4), (4,), (1,), 0, TRUE, number(3)),
        'hooks_of_known_functions': tensor(
            storage('1', 4),
            (4,),
            (1,),
            0,
            TRUE,
            ordered((number(0), name('torch._utils', '_rebuild_tensor_v2'))),
        ),
        'giant_by_class': call(name('torch', 'FloatTensor'), number(2**28)),
        'giant_byte_array': call(name('builtins', 'bytearray'), number(2**28)),
        'giant_by_new': new(name('torch', 'FloatTensor'), number(2**28)),
        'giant_storage': call(name('torch', 'UntypedStorage'), number(2**28)),
        'giant_storage_by_new': new(name('torch.storage', 'UntypedStorage'), number(2**28)),
        'parameter_of_nothing': call(PARAMETER, NONE),
        'parameter_of_text': new(PARAMETER, text('x')),
        'uninitialised': call(TENSOR, number(2**16)),
        'size_is_a_weight': call(name('torch', 'Size'), numbers(4)),
        'device_is_a_weight': call(name('torch', 'device'), text('cpu')),
        'dtype_is_a_weight': f32,
        'a_device_that_is_none': call(name('torch', 'device'), text('nowhere:-7')),
        'device_of_the_disk': _rebuild(
            '_rebuild_device_tensor_from_cpu_tensor', BIAS, f32, text('/dev/sda'), FALSE
        ),
        'arguments_missing': _rebuild('_rebuild_tensor_v2'),
        'arguments_too_many': _rebuild('_rebuild_tensor_v2', *[NONE] * 99),
        'arguments_of_bytes': _rebuild('_rebuild_tensor_v2', raw(b'x')),
    }


def kinds() -> Iterator[Case]:
    """Tensors that are no plain weights, in place of one and beside them."""
    for title, value in _kinds().items():
        accept = ANY if title == 'parameter_of_nothing' else None
        if title == 'complex':
            accept = HONEST | {'conv.bias': HONEST['conv.bias'].view(torch.complex64)}
        if title == 'negative_bit':
            accept = HONEST | {'conv.bias': -HONEST['conv.bias']}
        yield Case(title, _weight(value), accept=accept)
        if 'giant' in title or title.startswith(('sparse', 'moved', 'grad', 'hooks', 'nested')):
            yield Case(f'{title}_in_meta', archive(checkpoint(value)))


def _poisons() -> dict[str, bytes]:
    canary = name('helpers.hostile.canary', 'Canary')
    return {
        'class': keyed(__class__=canary),
        'dict': keyed(__dict__=keyed(x=NONE)),
        'setstate': keyed(__setstate__=canary),
        'reduce': keyed(__reduce_ex__=canary, __reduce__=canary),
        'slots': many(NONE, keyed(__class__=canary, float=canary)),
        'getattr': keyed(__getattr__=canary),
        'none': NONE,
        'number': number(3),
        'text': text('x'),
        'keys_are_numbers': mapped((number(1), NONE)),
        'methods': keyed(
            **dict.fromkeys(
                (
                    'items',
                    'keys',
                    'values',
                    'get',
                    'copy',
                    'float',
                    'shape',
                    'dtype',
                    'numel',
                    'numpy',
                    'size',
                    'is_sparse',
                    '__len__',
                    '__iter__',
                    'data',
                    'detach',
                    'untyped_storage',
                    'storage',
                    'clone',
                    'startswith',
                    'tolist',
                    'update',
                    'max_length',
                ),
                number(3),
            )
        ),
    }


def poisons() -> Iterator[Case]:
    """BUILD that puts attributes of the file's choice on known objects and classes."""
    made = {
        'tensor': BIAS,
        'parameter': _rebuild('_rebuild_parameter', BIAS, TRUE, ordered()),
        'ordered_dict': ordered(),
        'counter': call(name('collections', 'Counter')),
        'config_dict': new(name('mmengine.config.config', 'ConfigDict')),
        'history': new(name('mmengine.logging.history_buffer', 'HistoryBuffer')),
        'path': call(name('pathlib', 'PosixPath'), text('x')),
        'size': call(name('torch', 'Size'), numbers(1)),
        'dtype': call(name('numpy', 'dtype'), text('f4')),
        'set': call(name('builtins', 'set')),
    }
    classes = {
        'history_class': name('mmengine.logging.history_buffer', 'HistoryBuffer'),
        'path_class': name('pathlib', 'PosixPath'),
        'getattr': name('builtins', 'getattr'),
        'tensor_class': TENSOR,
        'ordered_dict_class': name('collections', 'OrderedDict'),
        'array_class': name('numpy', 'ndarray'),
        'rebuild': name('torch._utils', '_rebuild_tensor_v2'),
        'torch_dtype': name('torch', 'float32'),
        'storage_class': name('torch', FLOAT),
    }
    for title, state in _poisons().items():
        for thing, value in (made | classes).items():
            if thing in classes and title not in ('setstate', 'slots', 'methods'):
                continue
            yield Case(f'{thing}_{title}', archive(checkpoint(build(value, state))))
        yield Case(f'weights_{title}', archive(checkpoint(state=build(weights(), state))))
        yield Case(f'weight_{title}', _weight(build(BIAS, state)))
        rebuilt = call(
            name('torch._tensor', '_rebuild_from_type_v2'),
            name('torch._utils', '_rebuild_tensor_v2'),
            TENSOR,
            many(storage('1', 4), number(0), numbers(4), numbers(1), FALSE, ordered()),
            state,
        )
        yield Case(f'subclass_{title}', _weight(rebuilt))
        stated = _rebuild('_rebuild_parameter_with_state', BIAS, TRUE, ordered(), state)
        yield Case(f'stated_{title}', _weight(stated))
    shared = (
        put(7, BIAS)
        + b'0'
        + weights(
            conv_bias=build(get(7), many(storage('0', 108), number(0), numbers(4), numbers(1)))
        )
    )
    yield Case('weight_set_to_another', archive(checkpoint(state=shared)))
    for title, value in dict(
        metadata_number=number(3),
        metadata_list=listed(NONE),
        metadata_text=text('x'),
        metadata_of_numbers=mapped((number(1), NONE)),
        metadata_of_bytes=mapped((raw(b'x'), NONE)),
        metadata_tensor=BIAS,
    ).items():
        state = build(weights('module.'), keyed(_metadata=value))
        yield Case(title, archive(checkpoint(state=state)))
