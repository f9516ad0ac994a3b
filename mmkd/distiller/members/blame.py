"""Errors of a member's own forward, told with the member they belong to."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

_WHEN: ContextVar[str] = ContextVar('when', default='')
_NO_LABELS = re.compile(r"Sample' object has no attribute '_?(gt_\w+)'")
_ONE_VALUE = 'Expected more than 1 value per channel'  # torch's, of a norm in train mode


@contextmanager
def during(when: str) -> Iterator[None]:
    """Let every error that :func:`blaming` tells inside the block say when it happened."""
    token = _WHEN.set(f', {when}')
    try:
        yield
    finally:
        _WHEN.reset(token)


@contextmanager
def blaming(where: str, model: nn.Module, mode: str, inputs: Tensor) -> Iterator[None]:
    """Tell an error of a member's forward with the member, its head, the mode, the inputs' shape.

    Args:
        where: How errors call the member.
        model: The model.
        mode: Of its forward.
        inputs: What it got.

    Raises:
        Exception: What was raised inside, of the same type where that can be made of a text, else
            RuntimeError.

    >>> import torch
    >>> with blaming('teacher', nn.ReLU(), 'tensor', torch.zeros(1, 3)):
    ...     raise ValueError('too small')
    Traceback (most recent call last):
    ValueError: teacher (ReLU), mode='tensor', inputs (1, 3): too small
    """
    try:
        yield
    except Exception as error:
        if str(error).startswith('tap '):  # they fire inside a forward, and name the member
            raise
        mend = ''
        if _ONE_VALUE in str(error):
            mend = (
                '. Mend: BatchNorm in training needs two values a channel, so two images or more a '
                'device: train_dataloader=dict(batch_size=2, drop_last=True); the last batch of an '
                'epoch may be smaller'
            )
        missing = _NO_LABELS.search(str(error)) if isinstance(error, AttributeError) else None
        if missing:
            error = ValueError(f'the samples have no {missing[1]}, which its loss reads')
            mend = (
                ". Mend: a pipeline that loads it, such as dict(type='LoadAnnotations') before it "
                'is packed'
            )
        text = (
            f'{where} ({_kind(model)}), mode={mode!r}, inputs {tuple(inputs.shape)}{_WHEN.get()}: '
            f'{error}{mend}'
        )
        raise retold(error, text) from error


def _kind(model: Any) -> str:
    """Return the classes of a model and of its last head."""
    for owner in (model, getattr(model, 'roi_head', None)):
        for name in ('decode_head', 'bbox_head', 'head'):
            head = getattr(owner, name, None)
            if isinstance(head, nn.Module):
                last = head[-1] if isinstance(head, nn.ModuleList) and len(head) else head
                return f'{type(model).__name__} with {type(last).__name__}'
    return type(model).__name__


def retold(error: Exception, text: str) -> Exception:
    """Return an error of the same type that says another text; RuntimeError where none can."""
    try:
        told = type(error)(text)
    except Exception:  # a constructor of any signature
        return RuntimeError(text)
    return told if told.args[:1] == (text,) else RuntimeError(text)
