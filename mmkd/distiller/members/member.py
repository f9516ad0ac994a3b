"""Members: the description of a student or a teacher, and how it becomes a model."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS as ROOT_MODELS
from torch import nn

from mmkd.compat import require_library
from mmkd.distiller.members.blame import retold
from mmkd.distiller.members.class_names import class_names
from mmkd.distiller.members.reading import (
    as_dict,
    network_of,
    read_member_config,
    scope_of,
)
from mmkd.distiller.taps.points import Found, own_points
from mmkd.utils.checkpoints import load_state_dict_file, load_strict, select_member
from mmkd.utils.checks import check_choice, check_dict, check_keys
from mmkd.utils.explain import explain

COMMON_KEYS = (
    *('cfg', 'model', 'checkpoint', 'taps', 'points', 'cfg_options', 'scope'),
    'classes',
)
STUDENT_KEYS = ('allow_untrained', 'channels_last')
TEACHER_KEYS = ('precision', 'fuse_bn', 'compile', 'input_size')
SWITCHES = ('allow_untrained', 'channels_last', 'fuse_bn')
PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass
class Member:
    """One member as its config describes it; at work it is a Student or a Teacher.

    Args:
        name: The name that references use.
        role: ``'student'`` or ``'teacher'``.
        model: Config of the model, or a model that was built already.
        cfg: The whole config that the model came from, when there is one.
        scope: The registry scope that its types belong to.
        checkpoint: Path or URL of its weights.
        taps: Its own taps.
        points: Point -> taps, where tracing would find others or none.
        options: The remaining options (precision, channels_last, …).
        classes: Names of the classes that it knows, where it or its data set says them.
    """

    name: str
    role: str
    model: Any
    cfg: Config | None = None
    scope: str = 'mmseg'
    checkpoint: str | None = None
    taps: dict[str, str] = field(default_factory=dict)
    points: Found = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def __deepcopy__(self, memo: dict) -> 'Member':
        """Return itself: nothing changes it, and EMA must not copy the teacher that it may hold."""
        return self

    @property
    def where(self) -> str:
        """How errors call this member."""
        return self.role if self.name == self.role else f'{self.role} {self.name!r}'

    @classmethod
    def parse(cls, name: str, role: str, value: Any) -> 'Member':
        """Read ``dict(cfg=…|model=…, …)``, a config path, a Config, a model dict or a model.

        Raises:
            TypeError: Unknown keys, with the nearest match, or a value of another kind.
            ValueError: Neither or both of ``cfg`` and ``model``; a teacher without weights.
            FileNotFoundError: The config or the checkpoint is not there.
        """
        value = network_of(as_dict(value, f'{role} {name!r}'), f'{role} {name!r}')
        for key in value:
            check_member_key(name, role, key)
        member = cls.read(name, role, value)
        member.refuse_untrained()
        return member

    @classmethod
    def read(cls, name: str, role: str, value: dict) -> 'Member':
        """Read ``dict(cfg=…|model=…, …)`` of known keys; whether it has weights is not asked."""
        where = f'{role} {name!r}'
        _check_values(value, where)
        cfg = read_member_config(value, where)
        model = value['model'] if cfg is None else cfg.model
        options = {key: value[key] for key in (*STUDENT_KEYS, *TEACHER_KEYS) if key in value}
        member = cls(
            name,
            role,
            model,
            cfg,
            scope=scope_of(value, cfg, model),
            checkpoint=value.get('checkpoint'),
            taps=dict(value.get('taps') or {}),
            points=own_points(value.get('points'), where),
            options=options,
        )
        member.classes = class_names(value.get('classes'), cfg, member.scope, member.where)
        _check_options(options, member.where)
        return member

    def refuse_untrained(self) -> None:
        """Refuse a teacher without weights, unless that is meant.

        Raises:
            ValueError: It has neither a checkpoint nor ``allow_untrained=True``, and its model
                does not say that it brings its own.
        """
        meant = self.options.get('allow_untrained') or isinstance(self.model, nn.Module)
        meant = meant or self.brings_weights
        if self.role == 'teacher' and self.checkpoint is None and not meant:
            raise ValueError(
                f'{self.where} has no checkpoint: an untrained teacher teaches noise. Mend: '
                "checkpoint='….pth', or allow_untrained=True where that is meant (a test, a "
                'benchmark)'
            )

    @property
    def brings_weights(self) -> bool:
        """Whether the class of its model says that ``init_weights`` loads all of its weights.

        It says so by a classmethod ``brings_weights(config)``, as a backbone without a head does.
        """
        if not isinstance(self.model, Mapping):
            return False
        kind = self.model.get('type')
        with ROOT_MODELS.switch_scope_and_registry(self.scope) as models:
            found = models.get(kind) if isinstance(kind, str) else kind
        says: Any = getattr(found, 'brings_weights', None)
        return says is not None and bool(says(self.model))

    @property
    def loads_its_own(self) -> bool:
        """Whether it is a teacher that begins with weights of its own, and no checkpoint's."""
        meant = not self.options.get('allow_untrained')
        return self.role == 'teacher' and self.checkpoint is None and meant and self.brings_weights

    def build(self) -> nn.Module:
        """Build the model in the member's own scope, and give it the weights of its checkpoint."""
        model = self.make()
        self.load(model)
        return model

    def make(self) -> nn.Module:
        """Build the model in the member's own scope, without the weights of its checkpoint."""
        if isinstance(self.model, nn.Module):
            return self.model
        require_library(self.scope, self.model.get('type'), self.where)
        try:
            return ROOT_MODELS.build({**copy.deepcopy(self.model), '_scope_': self.scope})
        except Exception as error:
            raise retold(error, f'{self.where}: {explain(error)}') from error

    def load(self, model: nn.Module) -> None:
        """Load the checkpoint strictly, if there is one; else what a teacher brings itself."""
        if self.checkpoint is None:
            if self.loads_its_own:
                cast(BaseModel, model).init_weights()
            return
        state = load_state_dict_file(self.checkpoint)
        load_strict(model, select_member(state, self.name), f'{self.where} from {self.checkpoint}')


def check_member_key(name: str, role: str, key: str) -> None:
    """Refuse a key that no member of this role has.

    Raises:
        TypeError: Says the nearest match, or that it is an option of teachers.
    """
    if role == 'student' and key in TEACHER_KEYS:
        raise TypeError(
            f"student {name!r}: {key!r} is an option of teachers. Mend: a student's precision is "
            "its optim_wrapper's (AmpOptimWrapper, mmkd.Bf16OptimWrapper, or --amp), its input "
            "size the pipeline's and data_preprocessor's"
        )
    allowed = (*COMMON_KEYS, *STUDENT_KEYS, *(TEACHER_KEYS if role == 'teacher' else ()))
    check_keys([key], allowed, f'{role} {name!r}')


def _check_values(value: dict, where: str) -> None:
    """Refuse values of another kind: any text would be a checkpoint, or switch something on."""
    if ('cfg' in value) == ('model' in value):
        raise ValueError(
            f"{where} needs exactly one of 'cfg' (a path, pkg::path or Config) and 'model' (a "
            f'model dict), got {sorted(value)}'
        )
    check_dict(f'taps of {where}', value.get('taps'), "taps=dict(logits='decode_head.conv_seg')")
    check_dict(f'points of {where}', value.get('points'), "points=dict(logits='head.classifier')")
    check_dict(f'cfg_options of {where}', value.get('cfg_options'), "{'model.backbone.depth': 18}")
    path = value.get('checkpoint')
    if path is not None and (not isinstance(path, str | Path) or not str(path).strip()):
        raise TypeError(
            f"checkpoint of {where} must be a path or URL, got {path!r}. Mend: checkpoint='….pth'; "
            'of several, teachers=dict(a=…, b=…)'
        )
    for key in SWITCHES:
        if not isinstance(value.get(key, False), bool):
            raise TypeError(f'{key} of {where} must be True or False, got {value[key]!r}')


def _check_options(options: dict[str, Any], where: str) -> None:
    check_choice(f'precision of {where}', options.get('precision', 'fp32'), PRECISIONS)
    size = options.get('input_size') or (1, 1)
    pair = isinstance(size, list | tuple) and len(size) == 2
    if not pair or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(
            f'input_size of {where} must be (height, width), two ints above 0, got {size!r}'
        )
    if not isinstance(options.get('compile', False), bool | dict):
        raise TypeError(
            f"compile of {where} must be True, False or a dict of torch.compile's arguments, got "
            f'{options["compile"]!r}'
        )
