"""Classification of sentences: the inputs are token ids, an attention mask and segments."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmkd.registry import TASKS
from mmkd.structures.batch import Batch
from mmkd.tasks.base import first_number
from mmkd.tasks.classification import Classification

LENGTH = 16  # tokens of a generated sentence


def tokens(batch: Batch) -> Tensor:
    """Return True where a sentence has a token, (N, L).

    >>> tokens(Batch(torch.tensor([[[5, 7, 0], [1, 1, 0], [0, 0, 0]]]))).tolist()
    [[True, True, False]]

    Raises:
        ValueError: The inputs are no sentences, or one of them is nothing but padding.
    """
    if batch.inputs.dim() != 3 or batch.inputs.is_floating_point():
        raise ValueError(
            f'batch.tokens: the inputs {tuple(batch.inputs.shape)} are no sentences (N, 3, L). '
            'Mend: batch.valid for images'
        )
    found = batch.inputs[:, 1].bool()
    empty = (~found.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f'batch.tokens: the sentences {empty[:8]} of this batch are nothing but padding. Mend: '
            'an attention mask of 1 where there is a token; no empty rows in the file'
        )
    return found


@TASKS.register_module()
@dataclass(frozen=True)
class Text(Classification):
    """Classifiers whose data preprocessor knows of a vocabulary, as TextDataPreprocessor does.

    Args:
        num_classes: Classes of the model.
        ignore_index: Of no meaning: a sentence has one label.
        vocab_size: How many token ids there are.
        pad_token: The id of padding.
    """

    vocab_size: int = 100
    pad_token: int = 0

    sized = False
    reads = dict(tokens=tokens)

    @classmethod
    def of(cls, model: Any, source: Any = None) -> 'Text | None':
        """Know a model by the preprocessor that makes its batches."""
        ids = _ids(source)
        if ids is None:
            return None
        classes = first_number(model, getattr(model, 'head', None))
        return cls(classes, vocab_size=ids[0], pad_token=ids[1])

    @classmethod
    def of_config(cls, model: Any, source: Any = None) -> 'Text | None':
        """Know a text classifier's type too: its preprocessor is made by its tokenizer."""
        if model.type_name.endswith('TextClassifier'):
            return cls(first_number(model))
        return cls.of(model, source)

    @classmethod
    def holds(cls, samples: list | None) -> bool:
        """Leave samples to classification: labels do not say whether of an image or a sentence."""
        return False

    def refuse_other(self, preprocessor: Any, where: str) -> None:
        """Refuse a member whose token ids mean other words.

        Raises:
            ValueError: Another vocabulary or padding.
        """
        own, its = (self.vocab_size, self.pad_token), _ids(preprocessor)
        if own != its:
            raise ValueError(
                f'{where} has another vocabulary and padding than the student: {its}, not {own}, '
                'so token ids mean other words to it. Mend: models of one tokenizer'
            )

    def inputs(
        self, number: int, size: tuple[int, int], generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield sentences of random tokens (3, L), every second one shorter."""
        made = []
        for i in range(number):
            length = LENGTH - (i % 2) * (LENGTH // 4)
            ids = torch.randint(0, self.vocab_size, (length,), generator=generator)
            made.append(torch.stack([ids, torch.ones_like(ids), torch.zeros_like(ids)]))
        return iter(made)

    def preprocessed(self, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Return one sentence (1, 3, L)."""
        return torch.stack(list(self.inputs(1, size, generator)))


def _ids(preprocessor: Any) -> tuple[int, int] | None:
    """Return the size of a vocabulary and its padding, None of a preprocessor without."""
    if not hasattr(preprocessor, 'vocab_size') or not hasattr(preprocessor, 'pad_token'):
        return None
    return preprocessor.vocab_size, preprocessor.pad_token
