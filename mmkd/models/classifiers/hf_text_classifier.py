"""Text classifiers of Hugging Face as members; their inputs are one tensor a batch."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor

from mmkd.models.classifiers.image_classifier import answer
from mmkd.registry import MODELS
from mmkd.utils.checkpoints import load_state_dict_file
from mmkd.utils.checks import check_count
from mmkd.utils.hugging_face import read_settings, resolve_folder, transformers

_LAYER = re.compile(r'(.*\blayers?\.)(\d+)(\..*)')


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
        settings = read_settings(library, config, dict(options or {}), 'bert')
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
                f'layers={list(layers)} are {len(layers)}, but the model has {depth} layers. Mend: '
                'one for each layer, or options=dict(num_hidden_layers=…)'
            )
        self.model = library.AutoModelForSequenceClassification.from_config(settings)

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> Any:
        """Return logits (N, C), ``dict(loss_cls=cross-entropy)``, or data samples with predictions.

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
        state = self._load()
        chosen, begun = self._chosen_layers(state), {}
        for key in self.model.state_dict():
            match = _LAYER.fullmatch(key)
            source = f'{match[1]}{chosen[int(match[2])]}{match[3]}' if match else key
            if source in state:
                begun[key] = state[source]
        new = self._check_architecture(begun)
        self.model.load_state_dict(begun, strict=False)
        print_log(
            f'mmkd: HFTextClassifier begins as layers {chosen} of {self.pretrained}'
            f'{"; new are " + ", ".join(new) if new else ""}',
            logger='current',
        )

    def _chosen_layers(self, state: dict[str, Tensor]) -> list[int]:
        """Return which layer of the weights each of the model's own begins as."""
        source = f'pretrained={self.pretrained!r}'
        depth, own = _count_layers(state), _count_layers(self.model.state_dict())
        if not depth or not own:
            which = source if not depth else f'a {type(self.model).__name__}'
            raise ValueError(
                f'{which} has no layers to begin as: no key like encoder.layer.0.…, but '
                f"{list(state)[:3]}. Mend: weights of a BERT-like encoder; of a Distiller's run "
                'the exported student'
            )
        chosen = list(range(own)) if self.layers is None else list(self.layers)
        if not all(0 <= layer < depth for layer in chosen):
            raise ValueError(
                f'layers={chosen}, but {source} has the layers 0 … {depth - 1}. Mend: layers '
                'inside this range, counted from 0'
            )
        return chosen

    def _check_architecture(self, begun: dict[str, Tensor]) -> list[str]:
        """Refuse weights that do not fit or lack some of a layer; return the names that are new."""
        own = self.model.state_dict()
        new = [key for key in own if key not in begun]
        other = [key for key, value in begun.items() if value.shape != own[key].shape]
        if other or any(_LAYER.fullmatch(key) for key in new):
            raise ValueError(
                f'pretrained={self.pretrained!r} is another architecture: {(other or new)[:3]} do '
                'not fit. Mend: the config that it was trained with'
            )
        return new

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
                f'{lost[:3]}: they would be random. Mend: a folder as model.save_pretrained writes '
                'it'
            )
        prefix = self.model.base_model_prefix
        return {
            f'{prefix}.{key}': value
            for key, value in base.state_dict().items()
            if key not in missing
        }


def _count_layers(keys: Iterable[str]) -> int:
    """Return how many layers weights of these names have.

    >>> _count_layers(['encoder.layer.0.weight', 'encoder.layer.3.weight', 'pooler.weight'])
    4
    """
    matches = [_LAYER.fullmatch(key) for key in keys]
    return 1 + max((int(match[2]) for match in matches if match), default=-1)
