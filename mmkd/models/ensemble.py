"""Ensemble: trained networks that predict as one, and say where uncertainty comes from."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmkd.distiller.members.member import Member
from mmkd.distiller.members.reading import as_dict
from mmkd.distiller.members.teacher import Teacher
from mmkd.evaluation.functional.predictions import logits_of
from mmkd.evaluation.functional.uncertainty import EnsembleUncertainty
from mmkd.registry import MODELS
from mmkd.structures.batch import Batch
from mmkd.tasks.base import check_same_classes
from mmkd.tasks.queries import answers_with_queries
from mmkd.utils.checks import check_keys

MEMBER_KEYS = (
    'cfg',
    'model',
    'checkpoint',
    'cfg_options',
    'scope',
    'allow_untrained',
    'taps',
    'points',
    'precision',
    'fuse_bn',
    'channels_last',
)
FIELDS = ('total', 'data', 'knowledge')


@MODELS.register_module()
class Ensemble(BaseModel):
    r"""Predict with the mean of the members' class probabilities; for evaluation only.

    Every member answers ``mode='predict'`` by its own path (sliding windows, crop of the padding,
    resize to the original shape), one after the other, and only sums over members are kept. Each
    sample gets, as :class:`mmkd.evaluation.functional.uncertainty.EnsembleUncertainty` defines
    them, ``total_uncertainty``, ``data_uncertainty`` and ``knowledge_uncertainty`` in nats, and

    * of segmentors: ``seg_logits``, the logarithm of the mean probability, so that
      softmax(seg_logits) is the prediction; ``pred_sem_seg``; the uncertainties as PixelData (1, H,
      W);
    * of classifiers: ``pred_score`` (C,), its logarithm ``pred_logits``, ``pred_label`` (1,); the
      uncertainties 0-d.

    Args:
        members: Trained models as teachers are written, ``dict(cfg=…|model=…, checkpoint=…)``: a
            list, or a dict by name, as the ``teachers`` of a Distiller are. Weights load strictly.
            Images are re-normalised for members that were trained with another mean and standard
            deviation.
        data_preprocessor: By default the first member's.

    Raises:
        ValueError: Fewer than two members; members that disagree on classes; a member without
            weights.
        TypeError: Unknown keys.
        RuntimeError: Weights that do not fit; a mode other than 'predict'.
    """

    def __init__(
        self, members: Sequence | Mapping, data_preprocessor: dict | nn.Module | None = None
    ) -> None:
        if not isinstance(members, Mapping):
            members = {f'member{i}': member for i, member in enumerate(members)}
        named = dict(members)
        if len(named) < 2:
            raise ValueError(
                f'an Ensemble needs two members or more, got {len(named)}. Mend: train more with '
                'mmkd train-ensemble, or test a single network by its own config'
            )
        parsed = [_parse(name, value) for name, value in named.items()]
        models = [member.build() for member in parsed]
        check_same_classes(dict(zip(named, models, strict=True)), 'the members of an ensemble')
        # A copy: a member of another precision casts its own.
        super().__init__(data_preprocessor or copy.deepcopy(models[0].data_preprocessor))
        self.runs = [
            Teacher(replace(member, model=model, checkpoint=None), {}, self.data_preprocessor)
            for member, model in zip(parsed, models, strict=True)
        ]
        self.members = nn.ModuleList(run.model for run in self.runs)
        # In a distributed test torch's DDP, which wraps every model, refuses one without a
        # parameter to train.
        self.members.requires_grad_(True)
        self.eval()

    def train(self, mode: bool = True) -> 'Ensemble':
        """Stay in eval mode: dropout and moving statistics of the members are off."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> list:
        """Return the data samples with the ensemble's prediction and uncertainties.

        Args:
            inputs: Preprocessed images (N, 3, H, W).
            data_samples: Written into; new ones where there are none.
            mode: 'predict'.
        """
        if mode != 'predict':
            raise RuntimeError(
                f"mmkd.Ensemble only answers mode='predict', got mode={mode!r}. Mend: train the "
                'members one by one with mmkd train-ensemble; to distil them, give them as '
                "teachers=dict(…) of an mmkd.Distiller and read 't*.logits'"
            )
        batch, samples = Batch(inputs, data_samples), data_samples
        sums = [EnsembleUncertainty() for _ in inputs]
        for run in self.runs:
            # Its own samples: a member writes its prediction into them.
            own = [type(s)(metainfo=s.metainfo) for s in data_samples] if data_samples else None
            predictions = run.model(run.prepare(batch), own, mode='predict')
            for running, prediction in zip(sums, predictions, strict=True):
                running.update(probabilities_of(prediction, run.model))
            samples = samples or [type(prediction)() for prediction in predictions]
        for sample, running in zip(samples or [], sums, strict=True):
            write_prediction(sample, running)
        return samples or []


def _parse(name: str, value: Any) -> Member:
    check_keys(
        as_dict(value, f'ensemble member {name!r}'), MEMBER_KEYS, f'ensemble member {name!r}'
    )
    return Member.parse(name, 'teacher', value)


def probabilities_of(prediction: Any, model: Any) -> Tensor:
    r"""Return the class probabilities (1, C, \*S) of a predicted data sample, in float64.

    Args:
        prediction: The data sample.
        model: Whose it is.

    Raises:
        ValueError: A single output channel, which has no softmax.
    """
    logits = logits_of(prediction.to_dict(), answers_with_queries(model))
    if logits.shape[1] < 2:
        raise ValueError(
            'an ensemble averages softmax probabilities of two classes or more, got '
            f'{logits.shape[1]} output channel. Mend: members with out_channels=num_classes, '
            'background included'
        )
    return F.softmax(logits.double(), 1)


def write_prediction(sample: Any, sums: EnsembleUncertainty) -> None:
    """Write the mean prediction and its uncertainties into a sample, see :class:`Ensemble`."""
    mean = sums.mean[0]
    logits, best = mean.log().float(), mean.argmax(0, keepdim=True)
    measures = {
        f'{name}_uncertainty': value.float()
        for name, value in sums.compute().items()
        if name in FIELDS
    }
    if mean.dim() == 1:
        sample.set_data(
            dict(
                pred_score=mean.float(),
                pred_logits=logits,
                pred_label=best,
                **{name: value[0] for name, value in measures.items()},
            )
        )
        return
    fields = dict(seg_logits=logits, pred_sem_seg=best, **measures)
    sample.set_data({name: PixelData(data=value) for name, value in fields.items()})
