"""Pickles that cost more than they weigh, that end badly, or that hold what no checkpoint holds."""

import random
import struct
from collections.abc import Iterator

from helpers.hostile.assembler import (
    ANY,
    EMPTY,
    FALSE,
    FLOAT,
    NONE,
    RECORDS,
    TRUE,
    Case,
    archive,
    build,
    call,
    checkpoint,
    get,
    keyed,
    listed,
    many,
    mapped,
    name,
    number,
    ordered,
    put,
    raw,
    real,
    storage,
    tensor,
    text,
    weights,
)

BIAS = tensor(storage('1', 4), (4,), (1,))


def _doubled(first: bytes, levels: int, pack: bytes) -> bytes:
    """A thing that holds the one before twice, ``levels`` deep: 2^levels leaves in a few bytes."""
    body = put(100, first)
    for level in range(101, 101 + levels):
        body += b'0' + put(level, b'(' + get(level - 1) * 2 + pack)
    return body


def _listed_twice(levels: int) -> bytes:
    body = put(100, b']')
    for level in range(101, 101 + levels):
        body += b'0' + put(level, b'](' + get(level - 1) * 2 + b'e')
    return body


def depth() -> Iterator[Case]:
    """Deep, doubled and recursive structures."""
    deep = 100_000
    for title, meta in {
        'lists': b']' * deep + b'a' * (deep - 1),
        'tuples': EMPTY + b'\x85' * deep,
        'dicts': (b'}' + text('x')) * deep + NONE + b's' * deep,
        'ordered': (name('collections', 'OrderedDict') + b')R' + text('x')) * 5000
        + NONE
        + b's' * 5000,
        'states': (name('collections', 'OrderedDict') + b')R}' + text('x')) * 5000
        + NONE
        + b'sb' * 5000,
        'marks': b'(' * deep,
        'marks_million': b'(' * 10**6,
        'calls': name('builtins', 'getattr') * 1000 + b')R' * 1000,
        'persistent_ids': b'(' * 1000 + NONE + b'tQ' * 1000,
        'sets': (name('builtins', 'set') + b'](') * 5000,
        'doubled_tuples': _doubled(EMPTY, 60, b't'),
        'doubled_lists': _listed_twice(60),
        'doubled_text': _doubled(text('x' * 1000), 60, b't'),
        'doubled_key': b'}' + _doubled(EMPTY, 27, b't') + NONE + b's',
        'doubled_key_twice': b'}' + (_doubled(EMPTY, 20, b't') + NONE + b's') * 2,
        'doubled_in_a_set': call(name('builtins', 'set'), listed(_doubled(EMPTY, 27, b't'))),
        'doubled_into_counter': call(
            name('collections', 'Counter'), listed(_doubled(EMPTY, 27, b't'))
        ),
        'deep_key': b'}' + EMPTY + b'\x85' * deep + NONE + b's',
        'list_in_itself': put(1, b']') + get(1) + b'a',
        'dict_in_itself': put(1, b'}') + text('x') + get(1) + b's',
        'tuple_in_itself': put(1, b']') + put(2, get(1) + b'\x85') + b'a' + get(2),
        'state_in_itself': put(1, ordered()) + mapped((text('x'), get(1))) + b'b',
        'dict_key_in_itself': put(1, b'}') + put(2, get(1) + b'\x85') + NONE + b's',
    }.items():
        yield Case(title, archive(checkpoint(meta)))
    for title, state in {
        'weights_in_themselves': put(1, b'}') + text('state_dict') + get(1) + b's',
        'weights_of_depth': (b'}' + text('state_dict')) * 1000 + weights() + b's' * 1000,
        'a_weight_in_itself': put(1, ordered()) + text('conv.bias') + get(1) + b's',
        'weights_doubled': _doubled(weights(), 40, b't'),
    }.items():
        yield Case(title, archive(checkpoint(state=state)))
    yield Case('whole_in_itself', archive(put(1, b'}') + text('state_dict') + get(1) + b's'))


def _length(opcode: bytes, code: str, length: int, content: bytes = b'x') -> bytes:
    return opcode + struct.pack(code, length) + content


def lengths() -> Iterator[Case]:
    """Giant memo indexes, length prefixes, frames and numbers."""
    for title, meta in {
        'memo_index_31': put(2**31, NONE),
        'memo_index_32': put(2**32 - 1, NONE),
        'memo_index_30': put(2**30, NONE),
        'memo_index_27': put(2**27, NONE),
        'memo_text_index': NONE + b'p99999999999\n',
        'memo_negative': NONE + b'p-1\n',
        'memo_unknown': get(77),
        'memo_unknown_short': b'h\x4d',
        'memo_before_anything': b'r' + struct.pack('<I', 0),
        'memoize_much': NONE + b'\x94' * 10**6,
        'text_4g': _length(b'X', '<I', 2**32 - 1),
        'text_8': _length(b'\x8d', '<Q', 2**40),
        'text_8_63': _length(b'\x8d', '<Q', 2**63),
        'text_8_64': _length(b'\x8d', '<Q', 2**64 - 1),
        'bytes_4g': _length(b'B', '<I', 2**32 - 1),
        'bytes_8': _length(b'\x8e', '<Q', 2**40),
        'bytes_8_64': _length(b'\x8e', '<Q', 2**64 - 1),
        'byte_array_8': _length(b'\x96', '<Q', 2**32),
        'byte_array_8_40': _length(b'\x96', '<Q', 2**40),
        'string_2g': _length(b'T', '<i', 2**31 - 1),
        'string_negative': _length(b'T', '<i', -1),
        'string_short_cut': b'U\xffx',
        'long_4': _length(b'\x8b', '<i', 2**31 - 1),
        'long_4_negative': _length(b'\x8b', '<i', -1),
        'frame_huge': _length(b'\x95', '<Q', 2**63),
        'frame_short': _length(b'\x95', '<Q', 3, NONE * 9),
        'long_of_a_megabyte': number(1 << 8_000_000),
        'digits': b'I' + b'9' * 100_000 + b'\n',
        'digits_long': b'L' + b'9' * 100_000 + b'L\n',
        'real_in_text': b'F1e999\n',
        'real_no_number': b'Fx\n',
        'integer_no_number': b'Ix\n',
        'unicode_line': b'V' + b'x' * 100_000,
        'unicode_bad': b'V\\ud800\\uffffffff\n',
        'text_surrogates': text('\ud800' * 1000),
        'text_not_utf8': _length(b'X', '<I', 2, b'\xff\xfe'),
        'encode_zlib': call(name('_codecs', 'encode'), raw(b'x'), text('zlib')),
        'encode_unknown': call(name('_codecs', 'encode'), text('x'), text('hostile_ran')),
        'encode_long_name': call(name('_codecs', 'encode'), text('x'), text('a' * 100_000)),
        'encode_idna': call(
            name('_codecs', 'encode'), text('a' * 100_000 + '\u0660'), text('idna')
        ),
        'encode_punycode': call(
            name('_codecs', 'encode'),
            text(''.join(map(chr, range(0x4E00, 0x9000)))),
            text('punycode'),
        ),
        'encode_one_argument': call(name('_codecs', 'encode'), NONE),
        'byte_array_of_numbers': call(name('builtins', 'bytearray'), number(2**29)),
        'byte_array_negative': call(name('builtins', 'bytearray'), number(-1)),
        'set_of_text': call(name('builtins', 'set'), number(3)),
        'complex_of_text': call(name('builtins', 'complex'), text('9' * 100_000)),
        'counter_of_a_long_text': call(name('collections', 'Counter'), text('xyz' * 100_000)),
        'size_of_a_byte_array': call(
            name('torch', 'Size'), call(name('builtins', 'bytearray'), number(2**27))
        ),
        'tensor_of_a_byte_array': call(
            name('torch', 'FloatTensor'), call(name('builtins', 'bytearray'), number(2**26))
        ),
    }.items():
        yield Case(title, archive(checkpoint(meta)))


def _again(first: bytes, call_it: bytes, times: int) -> bytes:
    """One thing of the memo, given to the same call many times."""
    return put(9, first) + b'0](' + call_it * times + b'e'


def amplified() -> Iterator[Case]:
    """A few bytes that are copied, joined, hashed or looked at again and again."""
    mega, many_nones, plain = text('x' * 2**20), b'](' + NONE * 100_000 + b'e', get(9)
    pairs = mapped(*((number(index), NONE) for index in range(10_000)))
    f4 = call(name('numpy', 'dtype'), text('u1'), FALSE, TRUE)
    collections, pathlib = name('collections', 'OrderedDict'), name('pathlib', 'PosixPath')
    doubled = put(100, mega)
    for level in range(101, 110):
        doubled += b'0' + put(level, call(pathlib, get(level - 1), get(level - 1)))
    shared = put(
        8, many(storage('1', 4), number(0), many(number(4)), many(number(1)), FALSE, ordered())
    )
    one_tensor = get(7) + get(8) + b'R'
    tensors = put(7, name('torch._utils', '_rebuild_tensor_v2')) + b'0' + shared + b'0'
    long_key = put(9, number(1 << 8_000_000)) + b'0}'
    for title, meta in {
        'bytes_of_one_text': _again(
            mega, call(name('_codecs', 'encode'), plain, text('latin1')), 300
        ),
        'copies_of_a_byte_array': _again(
            b'\x96' + struct.pack('<Q', 2**20) + bytes(2**20),
            call(name('builtins', 'bytearray'), plain),
            300,
        ),
        'bytes_of_a_byte_array': _again(
            b'\x96' + struct.pack('<Q', 2**20) + bytes(2**20),
            call(name('builtins', 'bytes'), plain),
            300,
        ),
        'copies_of_a_list': _again(many_nones, call(name('builtins', 'list'), plain), 400),
        'tuples_of_a_list': _again(many_nones, call(name('builtins', 'tuple'), plain), 400),
        'sets_of_a_list': _again(
            listed(*map(number, range(20_000))), call(name('builtins', 'set'), plain), 300
        ),
        'copies_of_a_dict': _again(pairs, call(collections, plain), 300),
        'counters_of_a_text': _again(mega, call(name('collections', 'Counter'), plain), 300),
        'arrays_of_one_text': _again(
            raw(bytes(2**20)),
            call(
                name('numpy.core.numeric', '_frombuffer'), plain, f4, many(number(2**20)), text('C')
            ),
            300,
        ),
        'sizes_of_a_list': _again(
            b'](' + number(1) * 100_000 + b'e', call(name('torch', 'Size'), plain), 400
        ),
        'path_doubled': doubled,
        'path_of_much': put(9, mega) + b'0' + call(pathlib, *[plain] * 400),
        'tensors_of_one_storage': tensors + b'](' + one_tensor * 100_000 + b'e',
        'empty_dicts_a_million': b'](' + b'}' * 10**6 + b'e',
        'empty_lists_a_million': b'](' + b']' * 10**6 + b'e',
        'empty_sets_a_million': b'](' + b'\x8f' * 10**6 + b'e',
        'names_many': b'](' + name('torch', 'Size') * 100_000 + b'e',
        'long_key_again_and_again': long_key + (get(9) + NONE + b's') * 20_000,
        'long_key_in_a_set': long_key[:-1] + b'\x8f(' + get(9) * 20_000 + b'\x90',
        'key_of_16_long_numbers': put(9, many(*[put(8, number(1 << 1_000_000)), *[get(8)] * 15]))
        + b'0}'
        + (get(9) + NONE + b's') * 10_000,
    }.items():
        yield Case(title, archive(checkpoint(meta)))
    flags = put(9, storage('5', 2**20, 'BoolStorage')) + b'0'
    views = [(text(f'k{index}'), tensor(get(9), (1,), (1,), index)) for index in range(300)]
    yield Case(
        'flags_looked_at_again',
        archive(flags + checkpoint(state=mapped(*views)), RECORDS | {'5': bytes(2**20)}),
        accept=ANY,
    )


def stacks() -> Iterator[Case]:
    """Opcodes that meet a stack they do not expect, and pickles without an end."""
    for title, meta in {
        'pop_nothing': b'0' * 9,
        'pop_mark_without_mark': b'1',
        'tuple_without_mark': b't',
        'stop_early': b'.',
        'list_without_mark': b'e',
        'dict_without_mark': b'u',
        'dict_of_three': b'(' + NONE * 3 + b'd',
        'items_of_three': b'}(' + NONE * 3 + b'u',
        'append_to_nothing': b'a',
        'build_nothing': b'b',
        'reduce_nothing': b'R',
        'reduce_without_tuple': name('collections', 'OrderedDict') + NONE + b'R',
        'newobj_without_tuple': name('collections', 'OrderedDict') + NONE + b'\x81',
        'newobj_of_a_function': name('torch._utils', '_rebuild_tensor_v2') + b')\x81',
        'newobj_of_none': NONE + b')\x81',
        'append_to_text': text('x') + NONE + b'a',
        'append_to_tuple': EMPTY + NONE + b'a',
        'items_into_text': text('x') + NONE * 2 + b's',
        'items_into_a_tensor': BIAS + number(0) + real(9.0) + b's',
        'appends_to_a_tensor': BIAS + b'(' + NONE + b'e',
        'build_none': NONE * 2 + b'b',
        'duplicate_nothing': b'2',
        'duplicate_a_million': EMPTY + b'2' * 10**6,
        'nones_a_million': b'](' + NONE * 10**6 + b'e',
        'one_list_appended_to_itself': put(1, b']') + (b'(' + get(1) * 1000 + b'e'),
        'unknown_opcode': b'\xff',
        'zero_opcode': b'\x00',
        'protocol_in_the_middle': b'\x80\x02' + NONE,
        'protocol_250': b'\x80\xfa' + NONE,
        'key_is_a_list': mapped((listed(), NONE)),
        'key_is_a_dict': mapped((mapped(), NONE)),
        'key_is_an_ordered_dict': mapped((ordered(), NONE)),
    }.items():
        yield Case(title, archive(checkpoint(meta)))
    for title, body in {
        'nothing': b'',
        'none': NONE,
        'number': number(3),
        'text': text('x' * 10**6),
        'list': b']',
        'tensor': BIAS,
        'rubbish': bytes(random.Random(0).choices(range(256), k=5000)),
        'an_error_of_many_lines': text('x\ny\nz') + b'Q',
        'stack_of_two': checkpoint() + NONE,
    }.items():
        yield Case(f'whole_{title}', archive(body))
    for title, protocol in dict(zero=0, three=3, five=5, nine=9, last=255).items():
        yield Case(f'protocol_{title}', archive(checkpoint(b'\x96'), protocol=protocol))


def keys() -> Iterator[Case]:
    """Keys and values that no state dict has."""
    first = {
        'number': number(1),
        'negative': number(-1),
        'bytes': raw(b'conv.bias'),
        'byte_text': b'U\x04conv',
        'none': NONE,
        'true': TRUE,
        'nan': real(float('nan')),
        'real': real(1.5),
        'tensor': BIAS,
        'tuple': many(text('a'), text('b')),
        'empty_tuple': EMPTY,
        'long': number(10**5000),
        'dtype': name('torch', 'float32'),
        'class': name('torch', 'Tensor'),
        'complex': call(name('builtins', 'complex'), real(1.0), real(2.0)),
        'deep_tuple': EMPTY + b'\x85' * 50_000,
        'text_of_two_lines': text('a\nb'),
        'text_with_escapes': text('\x1b[2J\r'),
        'text_with_other_line_ends': text('a\u2028b\u2029c\x85d\x0be\x0cf\x1cg'),
        'text_with_surrogates': text('\ud800'),
        'text_backwards': text('\u202egnorw'),
        'text_null': text('a\x00b'),
        'text_of_a_megabyte': text('k' * 2**20),
        'text_empty': text(''),
        'text_format': text('{0}%s%(x)s{self}'),
    }
    for title, key in first.items():
        yield Case(
            f'key_{title}',
            archive(checkpoint(state=ordered((text('w'), BIAS), (key, BIAS)))),
            accept=ANY if 'text' in title else None,
        )
        if title.startswith('text'):
            yield Case(
                f'no_tensor_at_{title}',
                archive(checkpoint(state=ordered((text('w'), BIAS), (key, NONE)))),
            )
            yield Case(
                f'class_for_{title}',
                archive(checkpoint(state=ordered((key, name('os', 'system'))))),
            )
    values = {
        'none': NONE,
        'number': number(3),
        'real': real(1.0),
        'text': text('x'),
        'list': listed(real(1.0)),
        'tuple': EMPTY,
        'dict': b'}',
        'ordered': ordered(),
        'bytes': raw(b'x'),
        'true': TRUE,
        'size': call(name('torch', 'Size'), many(number(4))),
        'set': call(name('builtins', 'set')),
        'byte_array': call(name('builtins', 'bytearray'), raw(b'x')),
        'path': call(name('pathlib', 'PosixPath')),
        'history': call(name('mmengine.logging.history_buffer', 'HistoryBuffer')),
        'storage': storage('1', 4),
        'class': name('torch', 'Tensor'),
        'long': number(10**5000),
    }
    for title, value in values.items():
        yield Case(f'value_{title}', archive(checkpoint(state=weights(conv_bias=value))))
        yield Case(f'weights_are_{title}', archive(keyed(state_dict=value, meta=b'}')))
        yield Case(f'model_is_{title}', archive(keyed(model=value)))
    yield Case(
        'thousand_values_of_text',
        archive(
            checkpoint(
                state=ordered(*((text(f'k{index}' * 50), text('x')) for index in range(1000)))
            )
        ),
    )
    yield Case('weights_twice', archive(keyed(state_dict=weights(conv_bias=NONE), model=weights())))
    modulus = 2**61 - 1  # whole numbers have their value modulo this for a hash
    same = [(number(modulus * index), NONE) for index in range(1, 20_000)]
    yield Case('keys_of_one_hash', archive(checkpoint(mapped(*same))))
    weighty = [(key, BIAS) for key, _ in same[:3000]]
    yield Case('keys_of_one_hash_in_the_weights', archive(checkpoint(state=mapped(*weighty))))
    yield Case(
        'set_of_one_hash',
        archive(checkpoint(call(name('builtins', 'set'), listed(*(key for key, _ in same))))),
    )
    yield Case(
        'key_false_and_zero', archive(checkpoint(state=ordered((FALSE, BIAS), (number(0), BIAS))))
    )
    yield Case(
        'extra_weight',
        archive(
            checkpoint(
                state=ordered(
                    (text('w'), BIAS), (text('w.'), tensor(storage('9', 4, FLOAT), (4,), (1,)))
                )
            )
        ),
    )
    yield Case('no_weights', archive(checkpoint(state=ordered())))
    yield Case(
        'weights_removed', archive(checkpoint(state=build(weights(), keyed(_metadata=NONE))), {})
    )
    yield Case('state_dict_is_a_key_of_bytes', archive(mapped((raw(b'state_dict'), weights()))))
    assert len(RECORDS) == 4
