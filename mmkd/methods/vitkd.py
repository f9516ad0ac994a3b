"""ViTKD: shallow tokens are the teacher's, deep ones are generated where they are masked."""

from typing import Any

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS

SIZE = 384 * 14 * 14  # channels of DeiT III-Small, the teacher, and patches of its images
SHALLOW = 2
PATCH = 16  # pixels of a side, where a backbone does not say


@METHODS.register_module(name='vitkd')
@needs(tasks=('segmentation', 'classification'), paper='Yang et al., 2022, arXiv 2209.02432')
def vitkd(
    pair: Pair,
    mimic: float = 3e-5 * SIZE,
    generation: float = 3e-6 * SIZE,
    mask_ratio: float = 0.5,
    grid: tuple[int, int] | None = None,
    regressor: str | dict = 'auto',
) -> Plan:
    """Of vision transformers: tokens of two shallow layers match, deep ones are generated.

    The first two layers' tokens are the teacher's, after a linear layer where channels differ. Of
    the last layer's tokens half become a learned one, and two 3×3 convolutions generate the
    teacher's there; what was kept is not compared. Both must have as many tokens; the last ones are
    a square of patches, or ``grid``.

    Defaults: the published α = 3e-5 and β = 3e-6 multiply sums over C channels and P tokens of an
    image, the second over the share that is masked; here are means, so that both are times C P, of
    the authors' DeiT III-Small with 384 channels and 14×14 patches: 2.26 for each shallow layer and
    0.226. The same of label maps, of which no run is known to us. The authors leave the class token
    out of both terms; here it is one of the shallow tokens, where a network has one. They mask
    exactly half of the patches of each image, here each is masked with that probability. Their
    last layer is after its norm.

    Args:
        pair: The pair.
        mimic: Weight of each shallow layer; 0 leaves them out.
        generation: Weight of the last layer; 0 leaves it out.
        mask_ratio: Share that is masked.
        grid: Height and width of the patches; None: as the size of the data preprocessor and the
            patches of the student say, or a square.
        regressor: Connector of the student.
    """
    if not mimic and not generation:
        pair.fail(
            f'mimic=0 and generation=0 teach nothing. Mend: dict(type={pair.method!r}, mimic=2.26)'
        )
    objectives: dict[str, Any] = {}
    taps: dict[str, str] = {}
    for k in range(SHALLOW) if mimic else ():
        objectives[f'mimic{k}'] = dict(
            loss=dict(type='FeatureMatchingLoss', tokens=True),
            **pair.on(f'tokens{k}'),
            connectors=dict(student=regressor),
            weight=mimic,
        )
        taps[f'tokens{k}'] = f'auto:hidden[{k}]'
    if generation:
        grid = _grid(pair) if grid is None else grid
        loss: dict[str, Any] = dict(
            type='MaskedGenerationLoss', mask_ratio=mask_ratio, fill='token', over='masked'
        )
        if grid is not None:
            loss['grid'] = grid
        objectives['generation'] = dict(
            loss=loss,
            **pair.on('last_tokens'),
            connectors=dict(student=regressor),
            weight=generation,
        )
        taps['last_tokens'] = 'auto:hidden[-1]'
    return Plan(objectives=objectives, taps=taps)


def _grid(pair: Pair) -> tuple[int, int] | None:
    """Return the grid of the patches of images that are no square, None of others."""
    student = pair.models.get(pair.student)
    size = getattr(getattr(student, 'data_preprocessor', None), 'size', None)
    if not isinstance(size, list | tuple) or size[0] == size[1]:
        return None
    patch = getattr(getattr(student, 'backbone', None), 'patch_size', None) or PATCH
    sides = patch if isinstance(patch, list | tuple) else (patch, patch)
    return -(-size[0] // sides[0]), -(-size[1] // sides[1])
