"""Text classifiers of Hugging Face as members: sentences are one tensor of token ids, mask and segments."""

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor

from mmkd.models.classifiers.image_classifier import answer
from mmkd.registry import MODELS
from mmkd.utils.checkpoints import load_state_dict_file
from mmkd.utils.checks import check_count, nearest
from mmkd.utils.hugging_face import resolve_folder, transformers

_LAYER = re.compile(r'(.*\blayers?\.)(\d+)(\..*)')


@MODELS.register_module()
class TextDataPreprocessor(BaseDataPreprocessor):
    """Pad sentences to the longest of their batch and stack them.

    ``inputs`` becomes an integer tensor (N, 3, L): token ids, attention mask (1 where there is a
    token), segments.

    Args:
        pad_token: Id of padding.
        vocab_size: Ids that :meth:`generate` draws from.

    >>> data = dict(inputs=[torch.ones(3, 2, dtype=torch.long), torch.ones(3, 1, dtype=torch.long)])
    >>> TextDataPreprocessor(pad_token=9)(data)['inputs'].tolist()
    [[[1, 1], [1, 1], [1, 1]], [[1, 9], [1, 0], [1, 0]]]
    """

    def __init__(self, pad_token: int = 0, vocab_size: int = 100) -> None:
        super().__init__()
        self.pad_token, self.vocab_size = pad_token, vocab_size

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return the batch on the device of the model."""
        data = self.cast_data(data)
        sentences = data['inputs']
        length = max(x.shape[1] for x in sentences)
        data['inputs'] = torch.stack(
            [
                torch.cat(
                    [
                        F.pad(x[:1], (0, length - x.shape[1]), value=self.pad_token),
                        F.pad(x[1:], (0, length - x.shape[1])),
                    ]
                )
                for x in sentences
            ]
        )
        data.setdefault('data_samples', None)
        return data

    def refuse_other(self, other: Any, where: str) -> None:
        """Refuse a member whose token ids mean other words.

        Raises:
            ValueError: Another vocabulary or padding.
        """
        own, its = (
            (x.vocab_size, x.pad_token) if isinstance(x, TextDataPreprocessor) else None
            for x in (self, other)
        )
        if own != its:
            raise ValueError(
                f'{where} has another vocabulary and padding than the student: {its}, not {own}, '
                f'so token '
                'ids mean other words to it. Mend: models of one tokenizer'
            )

    def generate(self, number: int, generator: torch.Generator, length: int = 16) -> list[Tensor]:
        """Return sentences of random tokens (3, L), every second one shorter: what a probe or a benchmark runs."""
        made = []
        for i in range(number):
            ids = torch.randint(
                0, self.vocab_size, (length - (i % 2) * (length // 4),), generator=generator
            )
            made.append(torch.stack([ids, torch.ones_like(ids), torch.zeros_like(ids)]))
        return made


@MODELS.register_module()
class HFTextClassifier(BaseModel):
    """A Hugging Face encoder with a classification head, as mm models are called.

    The model is ``self.model``, an ``AutoModelForSequenceClassification``: taps are
    ``model.bert.encoder.layer.0`` (hidden states (N, L, D)),
    ``model.bert.encoder.layer.0.attention.self:query`` and ``:key`` (by head, before any dropout,
    whatever the kernel), ``model.classifier`` (logits). The attention mask is ``batch.tokens``.

    Args:
        config: Folder with ``config.json``, ``package::path``, or the config itself with its
            ``model_type``.
        num_classes: Number of classes C.
        options: Entries that replace those of ``config``, such as ``dict(num_hidden_layers=3)``, or
            ``attn_implementation``.
        pretrained: Weights that training starts from: a folder, ``package::path``, or a checkpoint
            of an HFTextClassifier, such as the teacher's. None: random.
        layers: Which layers of ``pretrained`` the model's own begin as, counted from 0; the paper's
            student of half the depth takes ``[1, 3, 5, …]``. None: the first ones.
        data_preprocessor: None pads with the config's ``pad_token_id``.
        init_cfg: mmengine's initialisation.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: A folder or a checkpoint is not there.
        ValueError: Layers that ``pretrained`` does not have, or another number of them than the
            model has; weights of another architecture, or an incomplete encoder.
        KeyError: An option that the config does not have, with its nearest match.
    """

    def __init__(
        self,
        config: str | dict,
        num_classes: int,
        options: dict | None = None,
        pretrained: str | None = None,
        layers: Sequence[int] | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        library = transformers('HFTextClassifier')
        check_count('num_classes', num_classes, 2)
        settings = self._read(library, config, dict(options or {}))
        settings.num_labels = num_classes
        super().__init__(
            data_preprocessor
            or dict(
                type='mmkd.TextDataPreprocessor',
                pad_token=settings.pad_token_id or 0,
                vocab_size=settings.vocab_size,
            ),
            init_cfg,
        )
        self.num_classes, self.pretrained, self.layers = num_classes, pretrained, layers
        depth = settings.num_hidden_layers
        if layers is not None and len(layers) != depth:
            raise ValueError(
                f'layers={list(layers)} are {len(layers)}, but the model has {depth} layers. '
                f'Mend: one '
                'for each layer, or options=dict(num_hidden_layers=…)'
            )
        self.model = library.AutoModelForSequenceClassification.from_config(settings)

    @staticmethod
    def _read(library: Any, config: str | dict, options: dict) -> Any:
        if isinstance(config, str):
            settings = library.AutoConfig.from_pretrained(
                resolve_folder(config), local_files_only=True
            )
        else:
            config = dict(config)
            if 'model_type' not in config:
                raise KeyError(
                    f'config needs a model_type, got {sorted(config)}. Mend: '
                    f"dict(model_type='bert', …)"
                )
            settings = library.AutoConfig.for_model(config.pop('model_type'))
            options = config | options
        if 'attn_implementation' in options:  # the config's own name of it is private
            options['_attn_implementation'] = options.pop('attn_implementation')
        for key, value in options.items():
            if not hasattr(settings, key):
                raise KeyError(
                    f'options name {key!r}, which the config of a {settings.model_type} does not '
                    f'have'
                    f'{nearest(key, settings.to_dict())}'
                )
            setattr(settings, key, value)
        return settings

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> Any:
        """Return logits (N, C), ``dict(loss_cls=cross-entropy)``, or the data samples with the prediction in them.

        Args:
            inputs: Token ids, mask and segments (N, 3, L).
            data_samples: With ``gt_label`` where ``mode='loss'``.
            mode: 'tensor', 'loss' or 'predict', as of :class:`mmkd.ImageClassifier`.
        """
        ids, mask, segments = inputs.unbind(1)
        given = dict(input_ids=ids, attention_mask=mask)
        if getattr(self.model.config, 'type_vocab_size', 0) > 1:
            given['token_type_ids'] = segments
        return answer(self.model(**given).logits, data_samples, mode)

    def init_weights(self) -> None:
        """Load ``pretrained``, layer by layer."""
        super().init_weights()
        if self.pretrained is None:
            return
        state, source = self._load(), f'pretrained={self.pretrained!r}'
        depth, own = (
            1 + max((int(m[2]) for m in map(_LAYER.fullmatch, keys) if m), default=-1)
            for keys in (state, self.model.state_dict())
        )
        if not depth or not own:
            which = source if not depth else f'a {type(self.model).__name__}'
            raise ValueError(
                f'{which} has no layers to begin as: no key like encoder.layer.0.…, but '
                f"{list(state)[:3]}. Mend: weights of a BERT-like encoder; of a Distiller's run "
                f'the '
                'exported student'
            )
        chosen = list(range(own)) if self.layers is None else list(self.layers)
        if not all(0 <= layer < depth for layer in chosen):
            raise ValueError(
                f'layers={chosen}, but {source} has the layers 0 … {depth - 1}. Mend: layers '
                f'inside this '
                'range, counted from 0'
            )
        wanted = {key: state.get(key) for key in self.model.state_dict()}
        for key in wanted:
            match = _LAYER.fullmatch(key)
            if match:
                wanted[key] = state.get(f'{match[1]}{chosen[int(match[2])]}{match[3]}')
        new = [key for key, value in wanted.items() if value is None]
        shapes = {key: tuple(value.shape) for key, value in self.model.state_dict().items()}
        other = [
            key
            for key, value in wanted.items()
            if value is not None and tuple(value.shape) != shapes[key]
        ]
        if other or [key for key in new if _LAYER.fullmatch(key)]:
            raise ValueError(
                f'{source} is another architecture: {(other or new)[:3]} do not fit. Mend: the '
                f'config '
                'that it was trained with'
            )
        self.model.load_state_dict(
            {key: value for key, value in wanted.items() if value is not None}, strict=False
        )
        print_log(
            f'mmkd: HFTextClassifier begins as layers {chosen} of {self.pretrained}'
            f'{"; new are " + ", ".join(new) if new else ""}',
            logger='current',
        )

    def _load(self) -> dict[str, Tensor]:
        assert self.pretrained is not None
        if self.pretrained.endswith('.pth'):
            state = load_state_dict_file(self.pretrained)
            return {key.removeprefix('model.'): value for key, value in state.items()}
        library = transformers('HFTextClassifier')
        library.logging.set_verbosity_error()
        folder = resolve_folder(self.pretrained)
        # Its encoder alone: a head that was trained for other classes is no start.
        base, found = library.AutoModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
        missing = set(found['missing_keys'])
        lost = sorted(key for key in missing if 'pooler' not in key)
        if lost:
            raise ValueError(
                f'pretrained={self.pretrained!r} lacks {len(lost)} weights of its encoder, such as '
                f'{lost[:3]}: they would be random. Mend: a folder as model.save_pretrained '
                f'writes it'
            )
        prefix = self.model.base_model_prefix
        return {
            f'{prefix}.{key}': value
            for key, value in base.state_dict().items()
            if key not in missing
        }
