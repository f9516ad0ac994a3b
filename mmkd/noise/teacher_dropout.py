"""Fickle Teacher: the teacher's dropout stays on while it supervises."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from mmcv.cnn.bricks.drop import DropPath
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from mmkd.noise.base import Host, Noise
from mmkd.registry import MODELS


@MODELS.register_module()
class TeacherDropout(Noise):
    r"""Keep the dropout of teachers on while they supervise, with a new mask in every step.

    Paper: Arani, Sarfraz, Zonooz, Noise as a Resource for Learning in Knowledge Distillation, WACV
    2021, arXiv 1910.05057, Fickle Teacher. The teacher is one that was trained with dropout.

    Inside ``with TeacherDropout()(model):`` the model is in eval mode but for torch's dropout
    modules (Dropout, Dropout1d … 3d, AlphaDropout, FeatureAlphaDropout and what derives from them)
    and mmcv's DropPath; gradients are off; afterwards, also after an error, every mode is as it
    was. BatchNorm therefore neither uses nor updates batch statistics. Dropout that is no module of
    its own (inside torch's MultiheadAttention) stays off.

    Args:
        members: Teachers that are fickle; None: all.

    Raises:
        ValueError: The teacher has no dropout above 0, or none that reaches a tap that an objective
            reads.

    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4, eps=0)).eval()
    >>> _ = model.requires_grad_(False)
    >>> with TeacherDropout()(model):
    ...     model(torch.ones(1, 4)), model[0].training, model[1].training
    (tensor([[0., 0., 2., 0.]]), True, False)
    >>> model(torch.ones(1, 4))
    tensor([[1., 1., 1., 1.]])
    """

    role = 'teacher'

    def __call__(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return the context in which the dropout of ``model`` is on."""
        return _awake(model, _dropouts(model, type(model).__name__))

    def bind(self, host: Host) -> None:
        """Refuse a teacher without dropout before training starts."""
        _dropouts(host.model, host.where)

    def around_forward(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return the context in which the teacher supervises."""
        return self(model)

    def check(self, model: nn.Module, watch: Callable[[], dict[str, Any]], where: str) -> None:
        """Refuse a teacher whose dropout reaches no tap: one behind the last of them, say."""
        quiet = watch()
        dropouts = _dropouts(model, where)
        with self(model), _rates(dropouts, 0.999):
            noisy = watch()
        if all(_equal(quiet[tap], noisy[tap]) for tap in quiet):
            names = ', '.join(
                [name for name, module in model.named_modules() if module in dropouts][:5]
            )
            raise ValueError(
                f'TeacherDropout: the dropout of {where} ({names}) reaches none of the taps that '
                f'objectives read ({", ".join(quiet)}), so it cannot be fickle. Mend: dropout in '
                'front of a tap, such as dropout_ratio of the decode head in front of its logits'
            )


@contextmanager
def _awake(model: nn.Module, dropouts: list[nn.Module]) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        for module in dropouts:
            module.training = True  # not train(): an override may do more than that
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _rates(dropouts: list[nn.Module], rate: float) -> Iterator[None]:
    """Set another rate inside."""
    names = ['p' if isinstance(module, _DropoutNd) else 'drop_prob' for module in dropouts]
    before = [getattr(module, name) for module, name in zip(dropouts, names, strict=True)]
    try:
        for module, name in zip(dropouts, names, strict=True):
            setattr(module, name, rate)
        yield
    finally:
        for module, name, value in zip(dropouts, names, before, strict=True):
            setattr(module, name, value)


def _equal(one: Any, other: Any) -> bool:
    pairs = zip(*([x] if isinstance(x, Tensor) else x for x in (one, other)), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _dropouts(model: nn.Module, where: str) -> list[nn.Module]:
    """Return the dropout modules that drop anything."""
    rates = {
        module: module.p if isinstance(module, _DropoutNd) else module.drop_prob
        for module in model.modules()
        if isinstance(module, _DropoutNd | DropPath)
    }
    found = [module for module, rate in rates.items() if rate]
    if not found:
        has = f'{len(rates)} dropout modules, all of rate 0' if rates else 'no dropout module'
        raise ValueError(
            f'TeacherDropout: {where} has {has}, so it cannot be fickle. Mend: a teacher that was '
            'trained with dropout, such as backbone=dict(dropout=0.4) of a WideResNet or '
            'dropout_ratio=0.1 of a decode head'
        )
    return found
