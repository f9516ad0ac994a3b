"""Tap paths: how a tensor inside a model is named."""

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_GRAMMAR = re.compile(
    r'(?P<path>\w[\w.]*)(?:#(?P<call>\d+|\*))?(?::(?P<side>input|output|query|key|scores))?'
    r'(?P<index>(?:\[-?\w+\])*)'
)
_EXAMPLES = (
    "'decode_head.conv_seg', 'decode_head.conv_seg:input', 'backbone[3]', 'head.conv#*', "
    "'attn:output[1]', 'attn:query'"
)


@dataclass(frozen=True)
class TapPath:
    """A parsed tap: ``module[#call][:input|:output|:query|:key|:scores][index]…``.

    ``:query`` and ``:key`` of an ``nn.MultiheadAttention``, or of the self-attention of a BERT-like
    model of Hugging Face, are what its heads compare, (N, heads, tokens, d): from them attention is
    found where a fused kernel hides it, or where all of it would not fit. Padding is not in them:
    losses take it as ``key_mask``. ``:scores`` of a head is the class map that its forward answers
    with, of queries assembled, see :func:`mmkd.tasks.queries.class_map`.

    >>> TapPath.parse('backbone[3]')
    TapPath(text='backbone[3]', module='backbone', call=None, side='output', index=(3,))
    >>> TapPath.parse('head.conv#1:input[x]').index
    ('x',)
    """

    text: str
    module: str
    call: str | None = None
    side: str = 'output'
    index: tuple[int | str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> 'TapPath':
        """Parse ``text``.

        Raises:
            ValueError: the text does not follow the grammar.
        """
        match = _GRAMMAR.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            listed = ". Modules of a list are 'decode_head.1.conv_seg'" if '].' in str(text) else ''
            raise ValueError(
                'a tap is module[#call][:input|:output|:query|:key|:scores][index], for instance '
                f'{_EXAMPLES}; got {text!r}{listed}'
            )
        keys = re.findall(r'\[(-?\w+)\]', match['index'])
        index = tuple(int(k) if re.fullmatch(r'-?\d+', k) else k for k in keys)
        return cls(text, match['path'], match['call'], match['side'] or 'output', index)

    def select(self, value: Any, where: str, child: str = '') -> Any:
        """Follow the index into a module's input or output; ``child`` may be what was meant."""
        for step, key in enumerate(self.index):
            if isinstance(value, Tensor):
                offered = f'{child!r} for a child module, ' if child else ''
                raise TypeError(
                    f'{where}: the {self.side} is a Tensor of shape {tuple(value.shape)}, and '
                    f"[{key}] would take a sample of the batch. Mend: {offered}'{self.module}' for "
                    'the whole tensor'
                )
            if isinstance(value, dict) and key not in value and str(key) in value:
                key = str(key)  # torchvision's backbones call their maps '0', '1', …
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError) as error:
                got = (
                    f' of {list(value)}'
                    if isinstance(value, dict)
                    else f' of {len(value)} items, [0] … [{len(value) - 1}]'
                    if hasattr(value, '__len__')
                    else ''
                )
                raise type(error)(
                    f'{where}: index {step} [{key}] is not in a {type(value).__name__}{got}. Mend: '
                    'an index that is there, in both members if both are read (FPN levels)'
                ) from None
        return value
