"""Attention of several libraries: what its heads compare, and what they attend to."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

Take = Callable[[Any], None]  # what is done with a tensor that was seen

# Self-attention of Hugging Face that is softmax(q·kᵀ/√d) and nothing else: no rotary or relative
# positions.
_PLAIN = (
    'Bert',
    'Roberta',
    'XLMRoberta',
    'Electra',
    'Albert',
    'RemBert',
    'Camembert',
    'ViT',
    'DeiT',
)
# The same of modules with one linear layer ``qkv``; others of that build add biases of positions.
_PLAIN_QKV = (
    'mmpretrain.models.utils.attention.MultiheadAttention',
    'timm.layers.attention.Attention',
    'timm.models.vision_transformer.Attention',
)


class Reader(Protocol):
    """How queries and keys of one kind of attention are read, (N, heads, tokens, d)."""

    def reads(self, module: nn.Module) -> bool:
        """Return whether a module is such attention."""

    def is_plain(self, module: nn.Module) -> bool:
        """Return whether it is known to attend by its queries and keys alone."""

    def hook(self, module: nn.Module, side: str, take: Take, where: str) -> list[Any]:
        """Hook what makes its queries or keys; return the handles."""


class HuggingFaceReader:
    """Self-attention of BERT-like models of Hugging Face: linear layers ``query`` and ``key``."""

    def reads(self, module: nn.Module) -> bool:
        """Return whether a module is such attention."""
        return is_hugging_face(module)

    def is_plain(self, module: nn.Module) -> bool:
        """Return whether it is known to attend by its queries and keys alone."""
        return type(module).__name__.startswith(_PLAIN)

    def hook(self, module: nn.Module, side: str, take: Take, where: str) -> list[Any]:
        """Hook the linear layer; refuse attention that compares more than queries and keys.

        Raises:
            TypeError: It is not known to attend by its queries and keys alone.
        """
        if not self.is_plain(module):
            raise TypeError(
                f'{where}: a {type(module).__name__} is not known to attend by its queries and '
                'keys alone (rotary or relative positions come on top); known are '
                f"{', '.join(_PLAIN)}. Mend: ':output[1]' with attn_implementation='eager' and "
                'attention dropout 0'
            )
        heads = (int(module.num_attention_heads), -1)  # type: ignore[arg-type]
        layer = getattr(module, side)
        return [
            layer.register_forward_hook(
                lambda _, args, output: take(output.unflatten(-1, heads).transpose(1, 2))
            )
        ]


class MultiheadReader:
    """``nn.MultiheadAttention``, whose projections are made again from what it is given."""

    def reads(self, module: nn.Module) -> bool:
        """Return whether a module is such attention, without bias_kv and zero attention."""
        attends = isinstance(module, nn.MultiheadAttention)
        return attends and module.bias_k is None and not module.add_zero_attn

    def is_plain(self, module: nn.Module) -> bool:
        """Return True."""
        return True

    def hook(self, module: nn.Module, side: str, take: Take, where: str) -> list[Any]:
        """Hook its call, whose arguments are projected."""

        def take_heads(_: nn.Module, args: tuple, kwargs: dict) -> None:
            given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            if given.get('attn_mask') is not None:
                raise ValueError(
                    f'{where}: this attention has an attn_mask, so its rows are not those of its '
                    "queries and keys. Mend: ':output[1]' with dropout 0"
                )
            take(_project(module, side, given[side]))

        return [module.register_forward_pre_hook(take_heads, with_kwargs=True)]


class QKVReader:
    """Self-attention of mmpretrain's and timm's ViT: one linear layer ``qkv`` for all three."""

    def reads(self, module: nn.Module) -> bool:
        """Return whether a module is such attention."""
        return isinstance(getattr(module, 'qkv', None), nn.Linear) and hasattr(module, 'num_heads')

    def is_plain(self, module: nn.Module) -> bool:
        """Return whether it is known to attend by its queries and keys alone."""
        kind = type(module)
        return f'{kind.__module__}.{kind.__qualname__}' in _PLAIN_QKV

    def hook(self, module: nn.Module, side: str, take: Take, where: str) -> list[Any]:
        """Hook that layer, or the norm that queries or keys pass after it.

        Raises:
            TypeError: It is not known to attend by its queries and keys alone.
        """
        kind = type(module)
        if not self.is_plain(module):
            raise TypeError(
                f'{where}: a {kind.__module__}.{kind.__qualname__} is not known to attend by its '
                f'queries and keys alone (biases of positions come on top); known are '
                f"{', '.join(_PLAIN_QKV)}. Mend: hidden states (':output' of a block), with a "
                'loss of features'
            )

        def refuse_mask(_: nn.Module, args: tuple, kwargs: dict) -> None:
            masks = inspect.signature(module.forward).bind(*args, **kwargs).arguments
            if masks.get('attn_mask') is not None or masks.get('is_causal'):
                raise ValueError(
                    f'{where}: this attention has an attn_mask, so its rows are not those of its '
                    'queries and keys. Mend: hidden states, with a loss of features'
                )

        part = ('query', 'key').index(side)
        norm = getattr(module, f'{side[0]}_norm', None)
        if norm is not None:  # it gets and returns (N, heads, tokens, d)
            handle = norm.register_forward_hook(lambda _, args, output: take(output))
        else:
            shape = (3, int(module.num_heads), -1)  # type: ignore[arg-type]
            handle = module.qkv.register_forward_hook(  # type: ignore[union-attr]
                lambda _, args, output: take(
                    output.unflatten(-1, shape)[..., part, :, :].transpose(1, 2)
                )
            )
        return [module.register_forward_pre_hook(refuse_mask, with_kwargs=True), handle]


READERS: tuple[Reader, ...] = (HuggingFaceReader(), MultiheadReader(), QKVReader())


def reader_of(module: nn.Module, where: str) -> Reader:
    """Return what reads the queries and keys of a module.

    Raises:
        TypeError: It has no heads.
    """
    for reader in READERS:
        if reader.reads(module):
            return reader
    raise TypeError(
        f'{where}: a {type(module).__name__} has no heads to read: queries and keys are those of '
        'nn.MultiheadAttention, without bias_kv and zero attention, and of self-attention of '
        'Hugging Face and of the ViTs of mmpretrain and timm. Mend: tap the linear layers that '
        'make them'
    )


def is_attention(module: nn.Module) -> bool:
    """Return whether a module attends by queries and keys."""
    return any(reader.reads(module) for reader in READERS)


def gives_heads(module: nn.Module) -> bool:
    """Return whether the queries and keys of a module can be read."""
    return any(reader.reads(module) and reader.is_plain(module) for reader in READERS)


def gives_probabilities(module: nn.Module) -> bool:
    """Return whether a module can be made to return what it attends to."""
    return isinstance(module, nn.MultiheadAttention) or is_hugging_face(module)


def hook_probabilities(module: nn.Module, where: str) -> list[Any]:
    """Let attention return its probabilities (N, heads, Q, K) as ``[1]``; return the handles.

    Raises:
        ValueError: Dropout changes them in training.
    """
    if not gives_probabilities(module):
        return []
    attends = isinstance(module, nn.MultiheadAttention)
    if _drops(module):
        raise ValueError(
            f'{where}: in training these are probabilities after dropout of {_drops(module)}, '
            "which do not sum to 1. Mend: ':query' and ':key' with reads=dict(student_key=…, "
            'teacher_key=…), or no dropout of attention'
        )
    return [module.register_forward_pre_hook(_give_heads, with_kwargs=True)] if attends else []


def is_hugging_face(module: nn.Module) -> bool:
    """Return whether a module is self-attention as Hugging Face writes it."""
    parts = [getattr(module, name, None) for name in ('query', 'key')]
    return all(isinstance(part, nn.Linear) for part in parts) and hasattr(
        module, 'num_attention_heads'
    )


def _give_heads(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Make ``nn.MultiheadAttention`` return its attention by head; by itself it averages."""
    late = dict(
        zip(
            ('need_weights', 'attn_mask', 'average_attn_weights', 'is_causal'),
            args[4:],
            strict=False,
        )
    )
    return args[:4], {**kwargs, **late, 'need_weights': True, 'average_attn_weights': False}


def _drops(module: nn.Module) -> float:
    """Return the dropout of attention while a module trains, 0 where it has none."""
    for name in ('dropout', 'attention_dropout', 'dropout_prob'):
        found = getattr(module, name, 0.0)
        rate = found.p if isinstance(found, nn.Dropout) else found
        if module.training and isinstance(rate, int | float) and rate:
            return float(rate)
    return 0.0


def _project(module: nn.Module, side: str, x: Tensor) -> Tensor:
    """Return the queries or keys of ``nn.MultiheadAttention`` by head, (N, heads, tokens, d)."""
    part = ('query', 'key').index(side)
    if module._qkv_same_embed_dim:
        weight = module.in_proj_weight.chunk(3)[part]  # type: ignore[operator]
    else:
        weight = getattr(module, f'{side[0]}_proj_weight')
    bias = None if module.in_proj_bias is None else module.in_proj_bias.chunk(3)[part]  # type: ignore[operator]
    x = nn.functional.linear(x if module.batch_first else x.transpose(0, 1), weight, bias)
    return x.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
