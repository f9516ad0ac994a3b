"""Vision models of Hugging Face as backbones: patch tokens as maps, without CLS and registers."""

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd.losses.checks import shape_of
from mmkd.registry import MODELS
from mmkd.utils.hugging_face import (
    pretrained_folder,
    read_settings,
    resolve_folder,
    transformers,
)

# Parameters that stand for a token before those of the patches.
_PREFIX = ('cls_token', 'class_embedding', 'distillation_token', 'register_tokens')
# Their maps have the channels last; a neck answers with channels first.
_NECKS = ('sam_vision_model', 'sam_hq_vision_model')
_CHANNELS_LAST = ('hiera', 'sam2_vision_model', 'sam2_hiera_det_model', *_NECKS)
_FIXED = ('aimv2_vision_model', *_NECKS)  # of one size of images
_DIVISORS = {'sam2_vision_model': 32, 'sam2_hiera_det_model': 32}  # windows of 8 at stride 4

Statistics = tuple[list[float], list[float]]


@MODELS.register_module()
class HFVisionBackbone(BaseModule):
    """Any vision model of Hugging Face as a backbone: images → a tuple of maps (N, C, h, w).

    The model is ``self.model``, as transformers' ``AutoModel`` builds it: DINOv2 with and without
    registers, DINOv3, the image side of CLIP and SigLIP, SAM's encoder, ViT, BEiT, Swin, Hiera,
    ConvNeXt, ResNet, SegFormer … A map is one of the library's ``hidden_states`` (of
    ``reshaped_hidden_states``, where it gives these), and the last one is ``last_hidden_state``,
    after the last norm. Tokens (N, L, D) lie in rows of patches; what comes before them, CLS,
    distillation and register tokens, is left out, and a model with other tokens is refused.

    Images of any size: they are resized (bilinear) to the nearest multiple of ``size_divisor``, so
    that each map covers the whole image, and position embeddings are interpolated. Models of one
    size, such as SAM's encoder, see the image at that size. Nothing is padded: a map over padding
    would lie elsewhere than the student's.

    Images are RGB, normalised by ``mean`` and ``std``: :class:`mmkd.FeatureModel` makes its data
    preprocessor of them, so that a teacher sees what it was trained on whatever the student sees.

    Args:
        config: Folder with ``config.json``, ``package::path``, or the config itself with its
            ``model_type``; None takes that of ``pretrained``. Of models of images and text it is
            the image side.
        pretrained: Folder with weights, as ``model.save_pretrained`` writes it, or
            ``package::path``; ``init_weights`` loads them, and nothing is downloaded. None: random.
        out_indices: Which maps to return: 0 the first one of the library (of most models the
            embeddings of patches), −1 the last.
        options: Entries that replace those of the config, or ``attn_implementation``.
        frozen: Whether it stays as it is: no gradient, always in eval mode.
        size_divisor: Of the images' height and width. None: what the model needs, the patch of a
            ViT; 1 where it takes any size.
        input_size: Height and width to which images are resized instead. None: theirs, and of
            models of one size the config's.
        mean: Of the pixels, RGB, in units of 0…1; None: that of ``preprocessor_config.json``
            beside the config or the weights.
        std: The standard deviation.
        init_cfg: mmengine's initialisation, not together with ``pretrained``.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: A folder is not there.
        KeyError: An option that the config does not have, with its nearest match.
        TypeError: Neither config nor weights; a model that takes more than images.
        ValueError: Maps that the model does not have, tokens that do not lie in rows, a size that
            it does not take; ``pretrained`` together with ``init_cfg``.

    >>> small = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=32)
    >>> net = HFVisionBackbone(dict(model_type='dinov2', patch_size=8, **small))
    >>> import torch
    >>> [tuple(map.shape) for map in net(torch.zeros(1, 3, 50, 70))]  # resized to 48 × 72
    [(1, 8, 6, 9)]
    """

    def __init__(
        self,
        config: str | dict | None = None,
        pretrained: str | None = None,
        out_indices: Sequence[int] = (-1,),
        options: dict | None = None,
        frozen: bool = False,
        size_divisor: int | None = None,
        input_size: Sequence[int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        library = transformers('HFVisionBackbone')
        if config is None and pretrained is None:
            raise TypeError(
                'HFVisionBackbone needs config= or pretrained=. Mend: a folder with config.json, '
                "or dict(model_type='dinov2', …)"
            )
        if pretrained is not None and init_cfg is not None:
            raise ValueError('pretrained= and init_cfg exclude each other: set one of them')
        super().__init__(init_cfg)
        folders = [path for path in (config, pretrained) if isinstance(path, str)]
        settings = read_settings(library, config or folders[0], dict(options or {}), 'dinov2')
        self.settings = getattr(settings, 'vision_config', settings)
        self.pretrained, self.frozen = pretrained, frozen
        self.out_indices = tuple(out_indices)
        self.mean, self.std = _statistics(folders, mean, std)
        self.model = library.AutoModel.from_config(self.settings)
        self._takes = set(inspect.signature(self.model.forward).parameters)
        _refuse_others(self.model)
        own = _DIVISORS.get(self.kind) or _divisor(self.settings)
        self.size_divisor = _pair('size_divisor', own if size_divisor is None else size_divisor)
        fixed = getattr(self.settings, 'image_size', None) if self.kind in _FIXED else None
        size = fixed if input_size is None else input_size
        self.input_size = None if size is None else _pair('input_size', size)
        self.prefix = sum(_count(name, p) for name, p in self.model.named_parameters())
        self._freeze()

    @classmethod
    def without_pretrained(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings that build the same model where its folder of weights is not there.

        Args:
            settings: Arguments, ``pretrained`` among them.
        """
        library = transformers('HFVisionBackbone')
        config, pretrained = settings.get('config'), settings.get('pretrained')
        folders = [path for path in (config, pretrained) if isinstance(path, str)]
        config = config or folders[0]
        if isinstance(config, str):
            config = read_settings(library, config, {}, 'dinov2').to_dict()
        mean, std = _statistics(folders, settings.get('mean'), settings.get('std'))
        return {**settings, 'config': config, 'pretrained': None, 'mean': mean, 'std': std}

    @property
    def kind(self) -> str:
        """What the library calls the type of the model."""
        return self.settings.model_type

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps (N, C, h, w) of ``out_indices``."""
        given: dict[str, Any] = dict(output_hidden_states=True)
        if 'interpolate_pos_encoding' in self._takes:
            given['interpolate_pos_encoding'] = True
        images = self._resize(images)
        try:
            output = self.model(pixel_values=images, **given)
        except (ValueError, RuntimeError) as error:
            if type(error) not in (ValueError, RuntimeError):  # a device without memory
                raise
            own = getattr(self.settings, 'image_size', None)
            raise type(error)(
                f'{type(self.model).__name__} on images {shape_of(images)}: {error}. Mend: where '
                f'it does not take this size, input_size= (its config says {own}) or size_divisor='
            ) from error
        states = self._states(output)
        size = (int(images.shape[2]), int(images.shape[3]))
        return tuple(self._map(states, index, size) for index in self.out_indices)

    def _resize(self, images: Tensor) -> Tensor:
        size = self.input_size or tuple(
            max(1, round(n / d)) * d
            for n, d in zip(images.shape[2:], self.size_divisor, strict=True)
        )
        if tuple(images.shape[2:]) == size:
            return images
        return F.interpolate(images, size=size, mode='bilinear', align_corners=False)

    def _states(self, output: Any) -> list[Tensor]:
        """Return what the library gives: states after each block or stage, the last one normed."""
        if 'ids_restore' in output:
            raise ValueError(
                f'{type(self.model).__name__} drops and shuffles tokens. Mend: its encoder as a '
                "ViT, config=dict(model_type='vit', …)"
            )
        states = list(output.get('reshaped_hidden_states') or output.get('hidden_states') or ())
        states = [*states[:-1], self._last(output.last_hidden_state, states)]
        for index in self.out_indices:
            if not -len(states) <= index < len(states):
                raise ValueError(
                    f'out_indices={self.out_indices}: a {type(self.model).__name__} gives '
                    f'{len(states)} maps, 0 … {len(states) - 1}. Mend: indices inside this range, '
                    '−1 for the last'
                )
        return states

    def _last(self, last: Tensor, states: list[Tensor]) -> Tensor:
        """Return the last state; tokens of a model of stages as its maps lie."""
        if last.dim() != 3 or not states or states[-1].dim() != 4:
            return last
        like = states[-1]
        if self.kind in _CHANNELS_LAST:
            return last.reshape(like.shape)
        # DINOv3's ConvNeXt puts the mean of the map before it
        rows = last[:, last.shape[1] - like[0, 0].numel() :]
        return rows.transpose(1, 2).reshape(like.shape)

    def _map(self, states: list[Tensor], index: int, size: tuple[int, int]) -> Tensor:
        state = states[index]
        if state.dim() == 3:
            return self._rows(state, size)
        neck = index % len(states) == len(states) - 1 and self.kind in _NECKS
        if self.kind in _CHANNELS_LAST and not neck:
            state = state.permute(0, 3, 1, 2)
        height, width = state.shape[2:]
        # a stride of s leaves ⌊·⌋ or ⌈·⌉ of a size
        if abs(height * size[1] - width * size[0]) > max(size) + height * width:
            raise ValueError(
                f'{type(self.model).__name__} gives {shape_of(state)} of images of {size}, which '
                'is no map (N, C, h, w) of them. Mend: another index in out_indices'
            )
        return state.contiguous()

    def _rows(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Return tokens (N, L, D) as a map, without those before the patches."""
        patch = _pair('patch_size', getattr(self.settings, 'patch_size', None) or 1)
        height, width = size[0] // patch[0], size[1] // patch[1]
        if tokens.shape[1] != self.prefix + height * width:
            raise ValueError(
                f'{type(self.model).__name__} gives {tokens.shape[1]} tokens of images of {size}, '
                f'but {height} × {width} patches of {patch} and {self.prefix} tokens before them '
                'were expected: they lie in no rows. Mend: another model, or another index in '
                'out_indices'
            )
        rows = tokens[:, self.prefix :].transpose(1, 2)
        return rows.reshape(len(tokens), -1, height, width)

    def init_weights(self) -> None:
        """Load ``pretrained``, or initialise by ``init_cfg``; else the library's own remains."""
        if self.pretrained is None:
            super().init_weights()
            return
        kind, library = type(self.model), transformers('HFVisionBackbone')
        loaded = pretrained_folder(library, kind, self.pretrained, self.settings)
        self.model.load_state_dict(loaded.state_dict())
        self._is_init = True

    def train(self, mode: bool = True) -> 'HFVisionBackbone':
        """Switch the mode; what is frozen stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen:
            self.model.requires_grad_(False)
            self.model.eval()


def _statistics(
    folders: list[str], mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[list[float] | None, list[float] | None]:
    """Return mean and std of pixels in 0…1; None where nothing says them."""
    if (mean is None) != (std is None):
        raise ValueError(
            f'mean and std belong together, got mean={mean}, std={std}. Mend: both, or none for '
            'those of preprocessor_config.json'
        )
    if mean is not None and std is not None:
        return list(mean), list(std)
    for folder in folders:
        file = Path(resolve_folder(folder), 'preprocessor_config.json')
        if file.is_file():
            return _of_file(json.loads(file.read_text(encoding='utf-8')))
    return None, None


def _of_file(found: dict[str, Any]) -> Statistics:
    """Return mean and std that a preprocessor's file says, as of pixels in 0…1.

    >>> _of_file(dict(image_mean=[.5] * 3, image_std=[.25] * 3, do_normalize=False))
    ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    """
    mean, std = [0.0] * 3, [1.0] * 3
    if found.get('do_normalize', True):
        mean, std = found.get('image_mean', mean), found.get('image_std', std)
    # pixels · factor is what mean and std are of
    factor = 255 * (found.get('rescale_factor', 1 / 255) if found.get('do_rescale', True) else 1)
    return [m / factor for m in mean], [s / factor for s in std]


def _refuse_others(model: nn.Module) -> None:
    """Refuse models of something else than images, or of more."""
    parameters = inspect.signature(model.forward).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind != p.VAR_KEYWORD]
    names = {p.name for p in parameters}
    if 'pixel_values' not in names or set(required) - {'pixel_values'}:
        raise TypeError(
            f'a {type(model).__name__} needs {required or sorted(names)[:4]}, not images alone. '
            'Mend: a vision model whose forward takes pixel_values, such as dinov2, '
            'clip_vision_model or siglip_vision_model'
        )


def _divisor(settings: Any) -> Any:
    """Return of what height and width must be a multiple."""
    if hasattr(settings, 'query_stride'):  # Hiera pools queries at the end of its stages
        stride, query = _pair('', settings.patch_stride), _pair('', settings.query_stride)
        pools = settings.num_query_pool
        return [s * q**pools for s, q in zip(stride, query, strict=True)]
    stages = hasattr(settings, 'depths')  # of stages: it pads by itself
    return 1 if stages else getattr(settings, 'patch_size', None) or 1


def _pair(name: str, value: Any) -> tuple[int, int]:
    """Return a number or two as two.

    >>> _pair('patch_size', 16)
    (16, 16)
    """
    both = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(both) != 2 or not all(isinstance(n, int) and n > 0 for n in both):
        raise ValueError(
            f'{name} must be a whole number above 0, or (height, width) of such, got {value!r}'
        )
    return both


def _count(name: str, parameter: Tensor) -> int:
    """Return how many tokens before the patches a parameter stands for.

    >>> import torch
    >>> _count('embeddings.register_tokens', torch.zeros(1, 4, 8))
    4
    """
    where, _, own = name.rpartition('.')
    if own not in _PREFIX or not where.endswith('embeddings'):  # a pooling head may have one too
        return 0
    return 1 if parameter.dim() == 1 else int(parameter.shape[-2])
