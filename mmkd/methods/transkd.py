"""TransKD: stages of a SegFormer, fused, and its patch embeddings are the teacher's."""

from collections.abc import Sequence
from typing import Any

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.methods.reviewkd import levels_of, on_levels
from mmkd.registry import METHODS
from mmkd.tasks import Described
from mmkd.utils.checks import check_non_negative

WEIGHTS = (0.1, 0.1, 0.5, 1.0)
MIX_TRANSFORMER = 'backbone.layers.{}.0[0]'  # the patch embedding of each stage


@METHODS.register_module(name='transkd')
@needs(tasks=('segmentation',), paper='Liu et al., 2022, arXiv 2202.13393')
def transkd(
    pair: Pair,
    weight: float = 1.0,
    embedding_weights: Sequence[float] | None = None,
    embeddings: str | None = None,
    mid_channels: int = 64,
    stages: int | None = None,
) -> Plan:
    """Stages, fused from deep to shallow, and patch embeddings of two transformers match.

    This is TransKD-Base: the fusion is ReviewKD's with a softmax between a stage and what comes
    from deeper ones, for each channel, and so is its loss. Each patch embedding is the teacher's
    after a linear layer. The variants with a mixer and an assistant (GL, EA) are not in it; that
    of EA cannot be reached in the authors' code.

    Defaults are the authors': λ = 1 of a sum over stages, 64 channels in the fusion, embeddings
    0.1, 0.1, 0.5 and 1 from the first stage on, each a mean over everything, as here. In a batch of
    one their gate has other weights.

    Args:
        pair: The pair.
        weight: λ, of the sum over stages.
        embedding_weights: Of each stage's embedding; 0 leaves one out. None: the authors', of
            SegFormer's backbone, else an error.
        embeddings: Tap of the embeddings (N, L, D), with {} for the number of the stage, from 0;
            None: that of mmsegmentation's MixVisionTransformer.
        mid_channels: Of what is handed on from stage to stage.
        stages: How many maps the backbones give; None: as the configs say.
    """
    taps = levels_of(pair, stages)
    fusion = dict(type='LevelFusion', gate='selective', mid_channels=mid_channels)
    objectives = dict(fusion=on_levels(pair, list(taps), fusion, weight))
    chosen = WEIGHTS if embedding_weights is None else embedding_weights
    if not isinstance(chosen, list | tuple):
        pair.fail(
            'embedding_weights must be a list of numbers, one for each stage, got '
            f'{embedding_weights!r}. Mend: embedding_weights={WEIGHTS}'
        )
    if not any(chosen):
        why, mend = 'embedding_weights of 0 leave their terms out', ', or a weight above 0'
        pair.refuse_unused(why, mend, embeddings=(embeddings, None))
    else:
        _check_embeddings(pair, embeddings, chosen, len(taps))
    for k, one in enumerate(chosen):
        check_non_negative('embedding_weights', one)
        if one:
            objectives[f'embedding{k + 1}'] = _embedding(pair, k, one)
            taps[f'embedding{k + 1}'] = (embeddings or MIX_TRANSFORMER).format(k)
    return Plan(objectives=objectives, taps=taps)


def _embedding(pair: Pair, k: int, weight: float) -> dict[str, Any]:
    return dict(
        loss=dict(type='FeatureMatchingLoss', tokens=True),
        **pair.on(f'embedding{k + 1}'),
        connectors=dict(student='auto:conv'),
        weight=weight,
    )


def _check_embeddings(
    pair: Pair, embeddings: str | None, weights: Sequence[float], stages: int
) -> None:
    """Refuse backbones whose embeddings are not known, and weights of other stages."""
    mend = (
        f"dict(type={pair.method!r}, embeddings='backbone.….{{}}') with their path, or "
        'embedding_weights=(0, 0, 0, 0) for stages alone'
    )
    if len(weights) != stages:
        pair.fail(
            f'embedding_weights {tuple(weights)} are not one for each of {stages} stages. Mend: '
            f'{mend}'
        )
    if embeddings is not None:
        if not isinstance(embeddings, str) or '{}' not in embeddings:
            pair.fail(
                "embeddings must be a path with '{}' for the number of the stage, got "
                f'{embeddings!r}: it would be one module for all stages. Mend: {mend}'
            )
        return
    for name in (pair.student, pair.teacher):
        kind = _kind_of(getattr(pair.models.get(name), 'backbone', None))
        if kind not in ('', 'MixVisionTransformer'):
            pair.fail(
                f'the patch embeddings of {name!r} are not known, a {kind}; those of '
                f'MixVisionTransformer are. Mend: {mend}'
            )


def _kind_of(model: Any) -> str:
    """Return the name of a model's class, described or built; '' where it is not known."""
    if isinstance(model, Described):
        return model.type_name
    return '' if model is None else type(model).__name__
