"""Data preprocessors: how the samples of a batch become one tensor."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor

from mmkd.registry import MODELS


@MODELS.register_module()
class TextDataPreprocessor(BaseDataPreprocessor):
    """Pad sentences to the longest of their batch and stack them.

    ``inputs`` becomes an integer tensor (N, 3, L): token ids, attention mask (1 where there is a
    token), segments.

    Args:
        pad_token: Id of padding.
        vocab_size: How many token ids there are; members of other ones are refused.

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
