"""An image classifier whose classifier is another network's, behind a projector."""

from typing import Any

from torch import Tensor, nn

from mmkd.models.borrowed import borrow, bottleneck, check_whole, draw_bottleneck
from mmkd.models.classifiers.image_classifier import ImageClassifier
from mmkd.registry import MODELS
from mmkd.utils.checks import check_count
from mmkd.utils.pretrained import loads_weights

CLASSIFIER = ('head.fc',)


@MODELS.register_module()
class BorrowedImageClassifier(ImageClassifier):
    """An :class:`ImageClassifier` that ends in a projector and in a teacher's frozen classifier.

    Paper: Chen et al., Knowledge Distillation with the Reused Teacher Classifier (SimKD), CVPR
    2022, arXiv 2203.14001: the backbone's last map passes the authors' bottleneck (convolutions
    1×1, 3×3 and 1×1, each with normalisation and ReLU, of channels / factor in between), is
    averaged over its places, and is classified by the teacher's last layer. The student ships with
    both, so that its parameters grow.

    Paths for taps: ``projector`` (the map that is compared), and those of an ImageClassifier.

    Args:
        backbone: As of an ImageClassifier; its last output is a map.
        num_classes: Of the teacher.
        in_channels: Channels of the backbone's last map.
        channels: Of what the teacher's classifier reads.
        factor: What the projector divides them by in between.
        pretrained: Checkpoint of the teacher, whose classifier ``init_weights`` takes; None: it
            comes with the weights of the whole.
        member: What the teacher is called in a checkpoint of several networks.
        data_preprocessor: As of an ImageClassifier.
        init_cfg: mmengine's initialisation.

    Raises:
        RuntimeError: Weights without the projector or the classifier; a teacher of other classes or
            channels.
        ValueError: The backbone's last output is no map, or has other channels.

    >>> import torch
    >>> backbone = dict(type='CIFARResNet', depth=8)
    >>> model = BorrowedImageClassifier(backbone, num_classes=10, in_channels=64, channels=256)
    >>> model(torch.zeros(2, 3, 32, 32)).shape, model.projector(torch.zeros(2, 64, 8, 8)).shape
    (torch.Size([2, 10]), torch.Size([2, 256, 8, 8]))
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        num_classes: int,
        in_channels: int,
        channels: int,
        factor: int = 2,
        pretrained: str | None = None,
        member: str = 'student',
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        check_count('channels', channels, 1)
        check_count('factor', factor, 1)
        check_count('in_channels', in_channels, 1)
        super().__init__(backbone, num_classes, channels, data_preprocessor, init_cfg)
        self.in_channels, self.channels = in_channels, channels
        self.pretrained, self.member = pretrained, member
        self.projector = bottleneck(in_channels, channels, factor)
        self.head['fc'].requires_grad_(False)

    def _pool(self, inputs: Tensor) -> Tensor:
        x = self._last_map(inputs)
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'a projector of in_channels={self.in_channels} reads a map (N, '
                f'{self.in_channels}, H, W), but the last output of the backbone has the shape '
                f'{tuple(x.shape)}. Mend: in_channels of its last map; of a backbone that gives '
                "vectors another method, such as 'kd'"
            )
        return self.projector(x).mean((2, 3))

    def init_weights(self) -> None:
        """Initialise once: the projector by torch's default, and the classifier as the teacher's.

        Both are as in the file where ``init_cfg`` loads one.
        """
        there = self.is_init or loads_weights(self.init_cfg)
        super().init_weights()
        if there:  # or the projector would be drawn anew
            return
        draw_bottleneck(self.projector)
        if self.pretrained is not None:
            of = 'an image classifier that ends in head.fc'
            borrow(self.head['fc'], self.pretrained, CLASSIFIER, of, self.member)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        parts = [name for name in self.state_dict() if name.startswith(('projector.', 'head.'))]
        check_whole(state_dict, prefix, parts, 'a BorrowedImageClassifier')
        super()._load_from_state_dict(state_dict, prefix, *args)
