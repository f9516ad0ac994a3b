"""Members: how a student or a teacher is written in a config, and how it becomes a model."""

import copy
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope, Registry
from torch import Tensor, nn

from mmkd.compat import require_library
from mmkd.utils.checkpoints import load_state_dict_file, load_strict, select_prefix
from mmkd.utils.checks import check_choice, check_dict, check_keys, nearest
from mmkd.utils.config_file import read_config

COMMON_KEYS = (
    'cfg',
    'model',
    'checkpoint',
    'taps',
    'cfg_options',
    'scope',
    'allow_untrained',
    'channels_last',
)
TEACHER_KEYS = ('precision', 'fuse_bn', 'compile', 'input_size')
SWITCHES = ('allow_untrained', 'channels_last', 'fuse_bn')
TASK_SCOPES = (
    'mmseg',
    'mmdet',
    'mmpretrain',
)  # whose default_scope a member written inline belongs to
PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass
class Member:
    """One member as its config describes it (the model itself lives in the Distiller).

    Args:
        name: The name that references use.
        role: ``'student'`` or ``'teacher'``.
        model: Config of the model, or a model that was built already.
        cfg: The whole config that the model came from, when there is one.
        scope: The registry scope that its types belong to.
        checkpoint: Path or URL of its weights.
        taps: Its own taps.
        options: The remaining options (precision, channels_last, …).
    """

    name: str
    role: str
    model: Any
    cfg: Config | None = None
    scope: str = 'mmseg'
    checkpoint: str | None = None
    taps: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict) -> 'Member':
        """Return itself: a description is never changed, and one may hold a built teacher, which EMA must not copy."""
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
        value = as_dict(value, f'{role} {name!r}')
        allowed = COMMON_KEYS + (TEACHER_KEYS if role == 'teacher' else ())
        if role == 'student':
            for key in [key for key in TEACHER_KEYS if key in value]:
                raise TypeError(
                    f"student {name!r}: {key!r} is an option of teachers. Mend: a student's "
                    f'precision is '
                    "its optim_wrapper's (AmpOptimWrapper, mmkd.Bf16OptimWrapper, or --amp), its "
                    'input '
                    "size the pipeline's and data_preprocessor's"
                )
        check_keys(value, allowed, f'{role} {name!r}')
        if ('cfg' in value) == ('model' in value):
            raise ValueError(
                f"{role} {name!r} needs exactly one of 'cfg' (a path, pkg::path or Config) and "
                f"'model' "
                f'(a model dict), got {sorted(value)}'
            )
        check_dict(
            f'taps of {role} {name!r}',
            value.get('taps'),
            "taps=dict(logits='decode_head.conv_seg')",
        )
        check_dict(
            f'cfg_options of {role} {name!r}',
            value.get('cfg_options'),
            "{'model.backbone.depth': 18}",
        )
        _check_types(value, f'{role} {name!r}')
        cfg = _read_config(value, f'{role} {name!r}')
        model = value['model'] if cfg is None else cfg.model
        member = cls(
            name,
            role,
            model,
            cfg,
            _scope(value, cfg, model),
            value.get('checkpoint'),
            dict(value.get('taps') or {}),
            {
                k: value[k]
                for k in ('allow_untrained', 'channels_last', *TEACHER_KEYS)
                if k in value
            },
        )
        member._check_options()
        return member

    def _check_options(self) -> None:
        check_choice(
            f'precision of {self.where}', self.options.get('precision', 'fp32'), PRECISIONS
        )
        size = self.options.get('input_size') or (1, 1)
        if (
            not isinstance(size, list | tuple)
            or len(size) != 2
            or not all(isinstance(n, int) and n > 0 for n in size)
        ):
            raise ValueError(
                f'input_size of {self.where} must be (height, width), two ints above 0, got '
                f'{size!r}'
            )
        if not isinstance(self.options.get('compile', False), bool | dict):
            raise TypeError(
                f"compile of {self.where} must be True, False or a dict of torch.compile's "
                f'arguments, got '
                f'{self.options["compile"]!r}'
            )
        if (
            self.role == 'teacher'
            and self.checkpoint is None
            and not self.options.get('allow_untrained')
            and not isinstance(self.model, nn.Module)
        ):
            raise ValueError(
                f'{self.where} has no checkpoint: an untrained teacher teaches noise. Mend: '
                "checkpoint='….pth', or allow_untrained=True where that is meant (a test, a "
                'benchmark)'
            )

    def build(self) -> nn.Module:
        """Build the model in the member's own scope; a teacher or a student with a checkpoint gets its weights."""
        model = self.model
        if not isinstance(model, nn.Module):
            require_library(self.scope, model.get('type'), self.where)
            model = ROOT_MODELS.build({**copy.deepcopy(model), '_scope_': self.scope})
        self.load(model)
        return model

    def load(self, model: nn.Module) -> None:
        """Load the checkpoint strictly, if there is one."""
        if self.checkpoint is None:
            return
        state = load_state_dict_file(self.checkpoint)
        own = ('students.', 'objectives.')
        if any(key.startswith(own) for key in state):
            state = select_prefix(state, [f'students.{self.name}.', 'students.student.'])
        load_strict(model, state, f'{self.where} from {self.checkpoint}')

    @property
    def ignore_index(self) -> int:
        """The label that the member's head ignores (255 where it says nothing)."""
        built = not isinstance(self.model, dict)
        head = getattr(self.model, 'decode_head', None) if built else self.model.get('decode_head')
        if isinstance(head, list | tuple) or head is None:
            return 255
        return (
            head.get('ignore_index', 255)
            if isinstance(head, dict)
            else getattr(head, 'ignore_index', 255)
        )


def _check_types(value: dict, where: str) -> None:
    """Refuse a checkpoint that is no path, and a switch that is neither on nor off: any text would be on."""
    path = value.get('checkpoint')
    if path is not None and (not isinstance(path, str | Path) or not str(path).strip()):
        raise TypeError(
            f'checkpoint of {where} must be a path or URL, got {path!r}. Mend: '
            f"checkpoint='….pth'; of "
            'several, teachers=dict(a=…, b=…)'
        )
    for key in SWITCHES:
        if not isinstance(value.get(key, False), bool):
            raise TypeError(f'{key} of {where} must be True or False, got {value[key]!r}')


def name_members(role: str, one: Any, many: dict[str, Any] | None) -> dict[str, Any]:
    """Return name -> value of ``student=`` or ``students=`` (``teacher=`` or ``teachers=``).

    Raises:
        ValueError: Both are given, or there is no student.
    """
    check_dict(f'{role}s', many, f'{role}s=dict(a=dict(cfg=…), b=dict(cfg=…)), each under a name')
    if one is not None and many is not None:
        raise ValueError(f'give {role}= (one member) or {role}s= (named members), not both')
    named = {role: one} if one is not None else dict(many or {})
    if role == 'student' and not named:
        raise ValueError('a Distiller needs student= or students=')
    return named


def as_dict(value: Any, where: str) -> dict:
    """Return any way to write a member as ``dict(cfg=…, …)`` or ``dict(model=…, …)``.

    Raises:
        TypeError: The value is none of them.
    """
    if isinstance(value, Config | str | Path):
        return dict(cfg=value)
    if isinstance(value, nn.Module):
        return dict(model=value)
    if isinstance(value, dict):
        return dict(model=value) if 'type' in value else dict(value)
    raise TypeError(
        f'{where} must be dict(cfg=…) or dict(model=…), a config path, a Config or a model, '
        f'got {type(value).__name__}'
    )


def _read_config(value: dict, where: str) -> Config | None:
    source, options = value.get('cfg'), value.get('cfg_options')
    if source is None and isinstance(value['model'], dict):
        source = dict(model=value['model'])
    if source is None:
        if options:
            raise ValueError(
                f'{where}: cfg_options change a config, but the model is built already'
            )
        return None
    if isinstance(source, str | Path):
        cfg = _config_from_path(str(source), where)
    else:
        cfg = Config(
            copy.deepcopy(
                source._cfg_dict.to_dict() if isinstance(source, Config) else dict(source)
            )
        )
    if 'model' not in cfg:
        raise ValueError(
            f"{where}: the config has no 'model' (it has {sorted(cfg.keys())[:8]}). Mend: "
            'dict(model=dict(...)) for a bare model dict'
        )
    for key, new in (options or {}).items():
        _check_option(cfg, key, new, where)
    cfg.merge_from_dict(dict(options or {}))
    if cfg.get('data_preprocessor') is not None and isinstance(cfg.model, dict):
        # mmengine's Runner hands it to the model too; mmpretrain's configs have it nowhere else
        cfg.model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return cfg


def _config_from_path(path: str, where: str) -> Config:
    try:
        return read_config(path)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f'{where}: {error}') from error


def _check_option(cfg: Config, key: str, new: Any, where: str) -> None:
    """Refuse an option that would add a key: mmengine adds it, and nothing reads it."""
    if isinstance(new, dict) and not {'_delete_', 'type'} & set(new):
        for inner, value in new.items():
            _check_option(cfg, f'{key}.{inner}', value, where)
        return
    node: Any = cfg._cfg_dict
    done = ''
    for part in key.split('.'):
        keys = (
            [str(i) for i in range(len(node))]
            if isinstance(node, list | tuple)
            else list(node)
            if isinstance(node, dict)
            else []
        )
        if part not in keys:
            raise KeyError(
                f"{where}: cfg_options['{key}'] changes nothing: "
                f'{done.rstrip(".") or "the config"} has no '
                f'{part!r}{nearest(part, keys)}. Options are relative to the whole config, for '
                f'instance '
                "'model.backbone.depth'"
            )
        node = node[int(part)] if isinstance(node, list | tuple) else node[part]
        done += part + '.'


def _scope(value: dict, cfg: Config | None, model: Any) -> str:
    kind = model.get('type') if isinstance(model, dict) else None
    prefix = kind.split('.')[0] if isinstance(kind, str) and '.' in kind else None
    running = DefaultScope.get_current_instance()
    around = (
        running.scope_name if running is not None and running.scope_name in TASK_SCOPES else 'mmseg'
    )
    return (
        (cfg.get('default_scope') if cfg is not None else None)
        or value.get('scope')
        or prefix
        or around
    )


def plain_model_cfg(member: Member) -> ConfigDict:
    """Return the member's model config without downloads: an exported one has its weights beside it.

    Raises:
        TypeError: The member was given as a built model.
    """
    if isinstance(member.model, nn.Module):
        raise TypeError(
            f'{member.where} was given as a built model, so no config can be written for it. '
            f'Mend: give '
            "its config: dict(cfg='….py') or dict(model=dict(...))"
        )
    model = ConfigDict(copy.deepcopy(member.model))
    with ROOT_MODELS.switch_scope_and_registry(member.scope) as registry:
        _without_downloads(model, registry)
    return model


def _without_downloads(node: Any, registry: Registry) -> None:
    """Switch off ``pretrained`` and ``init_cfg`` of type Pretrained, at any depth."""
    if isinstance(node, list | tuple):
        for value in node:
            _without_downloads(value, registry)
    if not isinstance(node, dict):
        return
    if node.get('pretrained'):
        node['pretrained'] = False if node['pretrained'] is True else None
    if 'type' in node and 'pretrained' not in node and _loads_by_default(node['type'], registry):
        node['pretrained'] = False
    given = node.get('init_cfg')
    if isinstance(given, list | tuple):
        node['init_cfg'] = [one for one in given if not _is_pretrained(one)] or None
    elif _is_pretrained(given):
        node['init_cfg'] = None
    for value in node.values():
        _without_downloads(value, registry)


def _is_pretrained(init_cfg: Any) -> bool:
    kind = init_cfg.get('type') if isinstance(init_cfg, dict) else None
    return str(getattr(kind, '__name__', kind)).startswith('Pretrained')


def _loads_by_default(kind: Any, registry: Registry) -> bool:
    """Return whether a class loads weights unless it is told not to, as mmseg's TIMMBackbone does."""
    try:
        found = registry.get(kind) if isinstance(kind, str) else kind
        parameters = inspect.signature(found).parameters
    except Exception:  # a library that is not here or does not import; a type of another registry
        return False
    return 'pretrained' in parameters and parameters['pretrained'].default is True


class Renormalise:
    """Turn images normalised for one data preprocessor into those that another expects.

    A teacher trained with another mean, standard deviation or channel order sees
    ``(x·std + mean − mean_t)/std_t``; padded positions are set to the target's padding value again.

    >>> from mmengine.model import ImgDataPreprocessor
    >>> a, b = ImgDataPreprocessor(mean=[0.], std=[2.]), ImgDataPreprocessor(mean=[1.], std=[1.])
    >>> Renormalise(a, b)(torch.ones(1, 1, 1, 1)).item()
    1.0

    Args:
        source: The preprocessor that made the inputs.
        target: The preprocessor of the member that will see them.
    """

    def __init__(self, source: nn.Module, target: nn.Module) -> None:
        self.flip = flips_channels(source) != flips_channels(target)
        self.pad_value = _pad_value(target)
        mean, std = pixel_statistics(source)
        mean_t, std_t = pixel_statistics(target)
        if self.flip:
            mean, std = mean.flip(0), std.flip(0)
        self.scale, self.shift = std / std_t, (mean - mean_t) / std_t
        self.changes = (
            self.flip
            or self.pad_value != _pad_value(source)
            or not (
                torch.allclose(self.scale, torch.ones(1))
                and torch.allclose(self.shift, torch.zeros(1))
            )
        )

    def __call__(self, inputs: Tensor, data_samples: list | None = None) -> Tensor:
        """Return the inputs (N, C, H, W) as the target expects them."""
        if not self.changes:
            return inputs
        x = inputs.flip(1) if self.flip else inputs
        x = x * self.scale.to(x) + self.shift.to(x)
        for i, sample in enumerate(data_samples or []):
            h, w = sample.metainfo.get('img_shape', x.shape[2:])[:2]
            x[i, :, h:], x[i, :, :, w:] = self.pad_value, self.pad_value
        return x


def flips_channels(preprocessor: nn.Module) -> bool:
    """Return whether a data preprocessor turns BGR into RGB, or RGB into BGR.

    mmengine and what derives from it say ``_channel_conversion``, mmpretrain ``to_rgb``,
    mmsegmentation until 1.2 ``channel_conversion``.

    >>> from mmengine.model import ImgDataPreprocessor
    >>> flips_channels(ImgDataPreprocessor(bgr_to_rgb=True)), flips_channels(ImgDataPreprocessor())
    (True, False)
    """
    names = '_channel_conversion', 'channel_conversion', 'to_rgb'
    return any(getattr(preprocessor, name, False) for name in names)


def pixel_statistics(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (C, 1, 1) by which a data preprocessor normalises; 0 and 1 where it does not.

    >>> from mmengine.model import ImgDataPreprocessor
    >>> [x.shape for x in pixel_statistics(ImgDataPreprocessor(mean=[1.] * 3, std=[2.] * 3))]
    [torch.Size([3, 1, 1]), torch.Size([3, 1, 1])]

    Raises:
        ValueError: A standard deviation is not above 0: every pixel would be NaN or Inf.
    """
    if getattr(preprocessor, '_enable_normalize', False):
        mean, std = (
            preprocessor.get_buffer('mean').float().cpu(),
            preprocessor.get_buffer('std').float().cpu(),
        )
        if not (std > 0).all():
            raise ValueError(
                f'std of a data_preprocessor must be above 0, got {std.flatten().tolist()}. Mend: '
                f'the '
                "spread of the images' channels, such as [58.395, 57.12, 57.375]"
            )
        return mean, std
    return torch.zeros(1, 1, 1), torch.ones(1, 1, 1)


def _pad_value(preprocessor: nn.Module) -> float:
    return float(
        getattr(preprocessor, 'pad_val', None) or getattr(preprocessor, 'pad_value', None) or 0
    )
