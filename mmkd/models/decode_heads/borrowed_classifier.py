"""A decode head whose classifier is another network's, behind a projector."""

from collections import OrderedDict
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmkd.models.borrowed import borrow, bottleneck, check_whole, draw_bottleneck
from mmkd.registry import MODELS, build_part
from mmkd.utils.checks import check_count, check_dict
from mmkd.utils.pretrained import loads_weights

CLASSIFIER = ('decode_head.conv_seg', 'decode_head.head.conv_seg.classifier')


@MODELS.register_module()
class BorrowedClassifier(BaseModule):
    """A head of mmseg that ends in a projector and in a teacher's frozen classifier.

    Paper: Chen et al., Knowledge Distillation with the Reused Teacher Classifier (SimKD), CVPR
    2022, arXiv 2203.14001: the student ships with both, so that its parameters grow. Of label maps
    nothing is published; here the classifier is the 1×1 convolution ``conv_seg``, and the projector
    the authors' bottleneck: convolutions 1×1, 3×3 and 1×1, each with normalisation and ReLU, of
    channels / factor in between. The head's own dropout, which they have not, is left out.

    The point ``feature`` is what the projector makes, which has the teacher's channels. All else is
    the head's own: what it has is asked of this one.

    Args:
        head: Config of the head, in mmseg's scope, whose ``conv_seg`` is replaced.
        channels: Of what the teacher's classifier reads.
        factor: What the projector divides them by in between.
        pretrained: Checkpoint of the teacher, whose classifier ``init_weights`` takes; None: it
            comes with the weights of the whole.
        member: What the teacher is called in a checkpoint of several networks.
        init_cfg: mmengine's initialisation.

    Raises:
        RuntimeError: Weights without the projector; a teacher of other classes or channels.
        TypeError: The head has no ``conv_seg``.

    >>> head = dict(type='FCNHead', in_channels=4, channels=4, num_convs=1, num_classes=3)
    >>> borrowed = BorrowedClassifier(head, channels=8)
    >>> import torch
    >>> borrowed([torch.zeros(1, 4, 2, 2)]).shape, borrowed.num_classes
    (torch.Size([1, 3, 2, 2]), 3)
    """

    head: Any

    def __init__(
        self,
        head: dict,
        channels: int,
        factor: int = 2,
        pretrained: str | None = None,
        member: str = 'student',
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_dict('head', head, "head=dict(type='FCNHead', …)")
        check_count('channels', channels, 1)
        check_count('factor', factor, 1)
        self.channels, self.pretrained, self.member = channels, pretrained, member
        self.head = build_part({'_scope_': 'mmseg', **head}, 'head of BorrowedClassifier')
        own = getattr(self.head, 'conv_seg', None)
        if not isinstance(own, nn.Conv2d):
            raise TypeError(
                f'the head of a BorrowedClassifier ends in a convolution conv_seg, got a '
                f'{type(self.head).__name__} with {type(own).__name__}. Mend: a decode head of '
                'mmseg with one classifier'
            )
        classifier = nn.Conv2d(channels, own.out_channels, 1).requires_grad_(False)
        projector = bottleneck(own.in_channels, channels, factor)
        self.head.conv_seg = nn.Sequential(OrderedDict(projector=projector, classifier=classifier))
        self.head.dropout = nn.Identity()  # heads call it, or ask whether it is there

    def __getattr__(self, name: str) -> Any:
        """Return what the head has; a head that is not built yet has nothing."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'head' or name.startswith('__'):
                raise
            return getattr(super().__getattr__('head'), name)

    def forward(self, inputs: Any) -> Tensor:
        """Return the class map."""
        return self.head(inputs)

    def loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return the head's losses, of this class map."""
        return type(self.head).loss(self, *args, **kwargs)  # by this forward, which traces see

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the head's prediction, by this class map."""
        return type(self.head).predict(self, *args, **kwargs)

    def init_weights(self) -> None:
        """Initialise once: the projector by torch's default, and the classifier as the teacher's.

        Both are as in the file where ``init_cfg`` loads one.
        """
        there = self.is_init or loads_weights(self.init_cfg)
        super().init_weights()
        if there:  # or the projector would be drawn anew
            return
        draw_bottleneck(self.head.conv_seg.projector)  # mmseg draws all with deviation 0.01
        if self.pretrained is not None:
            classifier = self.head.conv_seg.classifier
            of = 'a segmentor of mmseg with one head'
            borrow(classifier, self.pretrained, CLASSIFIER, of, self.member)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        own, parts = f'{prefix}head.conv_seg', self.head.conv_seg.state_dict()
        check_whole(state_dict, f'{own}.', parts, f'a BorrowedClassifier ({own})')
        super()._load_from_state_dict(state_dict, prefix, *args)
