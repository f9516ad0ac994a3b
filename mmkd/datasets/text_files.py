"""Sentences or pairs of them, with a label: tab-separated files as of GLUE, and their tokens."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmengine.structures import BaseDataElement

from mmkd.datasets.arguments import check_arguments
from mmkd.registry import DATASETS, TRANSFORMS
from mmkd.utils.checks import check_count, nearest
from mmkd.utils.hugging_face import resolve_folder, transformers

OWN = ('data_root', 'ann_file', 'text', 'label', 'limit')


@DATASETS.register_module()
class TextFiles(BaseDataset):
    """Rows of a tab-separated file with a header line, unquoted.

    Args:
        data_root: Folder of the file.
        ann_file: The file, such as 'train.tsv'.
        text: Columns of the sentence, or of the two that are compared.
        label: Column of the label: a name of ``metainfo['classes']``, or its number.
        limit: Take so many rows, evenly spaced; None takes all.
        **kwargs: As in mmengine's BaseDataset; ``metainfo=dict(classes=…)`` is needed.

    Raises:
        FileNotFoundError: The file is not there.
        KeyError: A column is missing, with its nearest match.
        ValueError: No classes, a label that none of them has, fewer rows than ``limit``.
        TypeError: An unknown argument, with the nearest match.
    """

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        text: Sequence[str] = ('sentence',),
        label: str = 'label',
        limit: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_arguments(kwargs, OWN, 'TextFiles')
        check_count('limit', 1 if limit is None else limit, 1)
        if isinstance(text, str) or len(text) not in (1, 2):
            raise ValueError(
                f"text must name one or two columns, got {text!r}. Mend: text=['sentence']"
            )
        self.text, self.label, self.limit = tuple(text), label, limit
        super().__init__(data_root=str(data_root), ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return an entry a row."""
        path = Path(self.ann_file)
        classes = [str(name) for name in self.metainfo.get('classes', ())]
        if not path.is_file():
            raise FileNotFoundError(
                f'TextFiles: no file {path}. Mend: data_root and ann_file; one folder a task'
            )
        if not classes:
            raise ValueError(
                'TextFiles needs the names of the classes. Mend: '
                "metainfo=dict(classes=['negative', 'positive'])"
            )
        rows, columns = _read(path)
        wanted = (*self.text, self.label)
        for column in wanted:
            if column not in columns:
                raise KeyError(
                    f'TextFiles: {path} has no column {column!r}{nearest(column, columns)} (its '
                    f'columns: {columns})'
                )
        short = [i for i, row in enumerate(rows) if None in map(row.get, wanted)]
        if not rows or short:
            fault = f'too few columns in line {short[0] + 2}' if short else 'no rows'
            raise ValueError(
                f'TextFiles: {path} has {fault}. Mend: a label and a sentence in every row, '
                'between tabs'
            )
        if self.limit is not None and self.limit > len(rows):
            raise ValueError(
                f'limit={self.limit}, but {path} has {len(rows)} rows. Mend: limit={len(rows)} at '
                'most'
            )
        number = len(rows) if self.limit is None else self.limit
        samples = []
        for i in np.linspace(0, len(rows) - 1, number).round().astype(int).tolist():
            label = self._label(rows[i][self.label], classes, path)
            text = [rows[i][column] for column in self.text]
            samples.append(dict(text=text, row=i, ood=False, gt_label=label))
        return samples

    def _label(self, value: str, classes: list[str], path: Path) -> int:
        if value in classes:
            return classes.index(value)
        if value.isdigit() and int(value) < len(classes):
            return int(value)
        raise ValueError(
            f'TextFiles: {path} has the label {value!r}, which is none of the classes {classes}'
        )


def _read(path: Path) -> tuple[list[dict], list[str]]:
    """Return the rows of a file and the names of its columns."""
    try:
        with path.open(encoding='utf-8', newline='') as file:
            reader = csv.DictReader(file, delimiter='\t', quoting=csv.QUOTE_NONE)
            return list(reader), list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f'TextFiles: {path} is no table of text in UTF-8 ({error}). Mend: tab-separated rows, '
            'written as UTF-8'
        ) from error


@TRANSFORMS.register_module()
class PackTextInputs(BaseTransform):
    """Tokenize, and pack ids, attention mask and segments as one tensor (3, L), beside the label.

    Args:
        tokenizer: Folder of a Hugging Face tokenizer, or ``package::path``.
        max_length: Longer sentences are cut.

    Raises:
        ImportError: transformers is not installed.
        FileNotFoundError: The tokenizer is not there.
    """

    def __init__(self, tokenizer: str, max_length: int = 128) -> None:
        check_count('max_length', max_length, 3)
        folder = resolve_folder(tokenizer)
        self.tokenizer = transformers('PackTextInputs').AutoTokenizer.from_pretrained(
            folder, local_files_only=True
        )
        self.max_length = max_length

    def transform(self, results: dict) -> dict:
        """Return ``dict(inputs=…, data_samples=…)``."""
        found = self.tokenizer(*results['text'], truncation=True, max_length=self.max_length)
        ids = found['input_ids']
        sample = BaseDataElement(
            metainfo=dict(row=results.get('row'), ood=results.get('ood', False))
        )
        if results.get('gt_label') is not None:
            sample.gt_label = torch.tensor([results['gt_label']])
        segments = found.get('token_type_ids') or [0] * len(ids)
        return dict(
            inputs=torch.tensor([ids, found['attention_mask'], segments]), data_samples=sample
        )
