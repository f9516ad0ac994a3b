"""Tiny sentences, a tokenizer and BERTs for the tests of text models."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    'transformers', reason="text models need transformers: pip install 'mmkd[text]'"
)

WORDS = ('a', 'good', 'bad', 'film', 'plot', 'very', 'not', 'is', 'it', 'the')


def bert(layers: int = 2, width: int = 8, heads: int = 2, **changes: Any) -> dict:
    """Return the config of a BERT over the words."""
    return (
        dict(
            model_type='bert',
            vocab_size=5 + len(WORDS),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=2 * width,
            max_position_embeddings=32,
        )
        | changes
    )


def classifier(depth: int = 2, **changes: Any) -> dict:
    """Return the config of a text classifier of two classes."""
    own = {
        key: changes.pop(key)
        for key in list(changes)
        if key in ('pretrained', 'layers', 'options', 'num_classes')
    }
    return dict(type='mmkd.HFTextClassifier', config=bert(depth, **changes), num_classes=2) | own


def write_tokenizer(folder: Path) -> str:
    """Write a WordPiece tokenizer of the words."""
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'vocab.txt').write_text(
        '\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *WORDS]) + '\n'
    )
    BertTokenizerFast(str(folder / 'vocab.txt')).save_pretrained(folder)
    return str(folder)


def write_sentences(folder: Path, number: int = 12) -> str:
    """Write sentences of several lengths whose label is whether 'good' stands in them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        f'the film is{" very" * (i % 4)} {"good" if i % 2 else "bad"}\t{i % 2}'
        for i in range(number)
    ]
    (folder / 'train.tsv').write_text('\n'.join(['sentence\tlabel', *rows]) + '\n')
    return str(folder)


def loader(folder: Path, train: bool = True) -> dict:
    """Return a data loader of the sentences."""
    pipeline = [
        dict(
            type='mmkd.PackTextInputs',
            tokenizer=write_tokenizer(folder / 'tokenizer'),
            max_length=16,
        )
    ]
    return dict(
        batch_size=4,
        num_workers=0,
        sampler=dict(type='InfiniteSampler' if train else 'DefaultSampler', shuffle=train),
        dataset=dict(
            type='mmkd.TextFiles',
            data_root=write_sentences(folder),
            ann_file='train.tsv',
            metainfo=dict(classes=['negative', 'positive']),
            pipeline=pipeline,
        ),
    )
