"""Files that must load: what honest programs write, and what only looks dangerous."""

import io
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from helpers.hostile.assembler import (
    HONEST,
    MODULE,
    NONE,
    RECORDS,
    TOKEN,
    Case,
    Entry,
    archive,
    build,
    checkpoint,
    entries,
    finish,
    keyed,
    listed,
    mapped,
    ordered,
    put,
    raw,
    storage,
    tensor,
    text,
    weights,
    zip_bytes,
)
from helpers.hostile.legacy import legacy, old_weights
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from torch import nn


def saved(content: Any, zipped: bool = True) -> bytes:
    """What torch.save writes."""
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def _contents() -> dict[str, Any]:
    state = OrderedDict(HONEST)
    state._metadata = OrderedDict({'': {'version': 1}, 'norm': {'version': 2}})  # type: ignore[attr-defined]
    return {
        'bare': HONEST,
        'state_dict': {'state_dict': HONEST, 'meta': {'epoch': 3}},
        'model': {'model': HONEST},
        'prefixed': {f'module.{key}': value for key, value in HONEST.items()},
        'with_versions': state,
        'log_history': {
            'state_dict': HONEST,
            'message_hub': {'log': HistoryBuffer([1.0, 2.0], [1, 1])},
        },
        'config': {'state_dict': HONEST, 'meta': {'cfg': ConfigDict(a=1, b=[ConfigDict(c=2)])}},
        'numbers_of_numpy': {
            'state_dict': HONEST,
            'meta': [np.float64(0.5), np.int64(3), np.bool_(True), np.arange(9)],
        },
        'optimizer': {
            'state_dict': HONEST,
            'optimizer': {
                'state': {0: {'step': torch.tensor(3.0)}},
                'param_groups': [
                    {'lr': 0.1, 'betas': (0.9, 0.999), 'params': [0, 1], 'foreach': None}
                ],
            },
        },
        'source_as_text': {
            'state_dict': HONEST,
            'meta': {
                'cfg': f"import os\nos.system('touch {TOKEN}')\n",
                'config': f'__import__("{MODULE}")',
            },
        },
        'things_of_torch': {
            'state_dict': HONEST,
            'meta': [torch.float16, torch.Size((1, 2)), torch.device('cpu')],
        },
        'sets_and_bytes': {
            'state_dict': HONEST,
            'meta': [{1, 2}, b'x', bytearray(b'y'), 1j, 2**80, -1, float('nan')],
        },
        'odd_keys_beside': {
            'state_dict': HONEST,
            'meta': {1: 'a', None: 'b', (1, 2): 'c', b'x': 'd', 1.5: 'e'},
        },
        'long_texts': {
            'state_dict': HONEST,
            'meta': {'log': 'x' * 10**6, 'lines': 'a\nb\u2028c\ud800'},
        },
        'nested_modestly': {'state_dict': HONEST, 'meta': _nest(12)},
    }


def _nest(levels: int) -> list:
    out: list = []
    for _ in range(levels):
        out = [out, {'x': out}]
    return out


def _states() -> dict[str, dict]:
    base = torch.arange(24.0).view(4, 6)
    tied = torch.ones(3)
    return {
        'many_types': {
            str(kind): torch.ones(3, dtype=kind)
            for kind in (
                torch.float16,
                torch.bfloat16,
                torch.float32,
                torch.float64,
                torch.int8,
                torch.uint8,
                torch.int16,
                torch.int32,
                torch.int64,
                torch.bool,
            )
        },
        'views': {
            'transposed': base.t(),
            'rows': base[1:3],
            'column': base[:, 2],
            'every_second': base[:, ::2],
        },
        'tied': {'a': tied, 'b': tied},
        'empty_and_single': {'none': torch.zeros(0, 3), 'one': torch.tensor(1.0)},
        'many_weights': {
            f'layer{index}.weight': torch.full((2,), float(index)) for index in range(500)
        },
        'parameters': {'w': nn.Parameter(torch.ones(2))},
        'other_scripts': {'\u5377\u79ef.weight': torch.ones(2)},
    }


def harmless() -> Iterator[Case]:
    """Each must load and give exactly its weights."""
    for title, content in _contents().items():
        yield Case(title, saved(content))
        if title in (
            'bare',
            'state_dict',
            'prefixed',
            'with_versions',
            'log_history',
            'numbers_of_numpy',
        ):
            yield Case(f'{title}_old', saved(content, zipped=False))
    for title, state in _states().items():
        yield Case(title, saved(state), accept=state)
        yield Case(f'{title}_old', saved(state, zipped=False), accept=state)
    yield Case(
        'arrays',
        saved({key: value.numpy() for key, value in HONEST.items() if 'head' not in key}),
        accept={key: value for key, value in HONEST.items() if 'head' not in key},
    )
    yield Case('assembled', archive(checkpoint()))
    yield Case('assembled_old', legacy(finish(checkpoint(state=old_weights())), RECORDS))
    yield Case('name_of_code_as_text', archive(checkpoint(text('cos\nsystem\n'))))
    yield Case('pickle_as_bytes', archive(checkpoint(raw(b"cos\nsystem\n(S'true'\ntR."))))
    yield Case(
        'record_that_nobody_asks_for',
        zip_bytes([*entries(checkpoint()), Entry('archive/data/9', b'x')]),
    )
    yield Case('memo_index_of_a_million', archive(checkpoint(put(10**6, NONE))))
    yield Case(
        'state_of_an_ordered_dict', archive(checkpoint(build(ordered(), keyed(note=text('x')))))
    )
    yield Case(
        'one_storage_for_two',
        archive(checkpoint(tensor(storage('1', 4), (2,), (2,), 1), weights())),
    )
    yield Case('other_folder_name', zip_bytes(entries(checkpoint(), folder='iter_9')))
    yield Case('list_beside', archive(checkpoint(listed(mapped(), NONE))))
