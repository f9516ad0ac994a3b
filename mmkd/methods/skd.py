"""Structured KD: pixel-wise, pair-wise and holistic, and the first two of them alone."""

from typing import Any

from mmkd.methods.kd import logits, scores_of_levels
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, adam, needs, of_task
from mmkd.registry import METHODS

TASKS = ('segmentation', 'depth', 'detection')
PAPER = 'Liu et al., CVPR 2019 and TPAMI 2020, arXiv 1903.04197'


@METHODS.register_module(name='skd')
@needs(tasks=TASKS, paper=PAPER)
def skd(
    pair: Pair,
    pixel: float | None = None,
    pair_wise: float = 10.0,
    holistic: float | None = None,
    patch: int | None = None,
    critic: dict | None = None,
    feature: str | None = None,
) -> Plan:
    """All of Structured KD: pixel-wise, pair-wise and holistic (+PI +PA +HO); a critic judges maps.

    Defaults are the paper's 10, 10 and 0.1; its script has 0.5 for the pair-wise term. Its code
    divides the pixel-wise term by the positions of one image: its 10 with N images a device would
    be 10 · N here, where it is a mean. Its pair-wise term max-pools windows of half a map, here 2×2
    places are averaged, as the paper says. Of depth there is no pixel-wise term,
    which the paper found useless, and the critic sees metres with weight 0.01. Of detectors the
    first two are taken at every level, weights over the number of levels, and the critic sees the
    class scores of the finest. The holistic term is the CVPR code's: WGAN-GP on probabilities
    beside the image; the later code shows it raw logits alone.

    The critic has an optimizer of its own: Adam at 4e-4, as in the later codes of IFVD, CWD and
    CIRKD; the authors' is SGD at that rate.

    Args:
        pair: The pair.
        pixel: Weight of the pixel-wise term: 10, of depth 0.
        pair_wise: Weight of the pair-wise term.
        holistic: Weight of the holistic term: 0.1, of depth 0.01.
        patch: Side of the patches that are averaged to a node: 2, of detectors 1.
        critic: Options of the HolisticCritic, such as dict(size=(24, 32)).
        feature: As of ``skd-pi-pa``.
    """
    pixel = of_task(pair, pixel, segmentation=10.0, detection=10.0)
    plan = _terms(pair, pixel, pair_wise, patch, feature)
    holistic = of_task(pair, holistic, segmentation=0.1, detection=0.1, depth=0.01)
    tap = dict(segmentation='logits', depth='depth', detection='score0')[pair.kind]
    shown = Plan(taps=dict(logits='auto'))
    if pair.kind == 'depth':
        shown = Plan(taps=dict(depth='auto'))  # metres
    elif pair.kind == 'detection':
        shown = scores_of_levels(pair)
    return Plan(
        objectives={**plan.objectives, 'holistic': _holistic(pair, tap, holistic, critic)},
        taps={**plan.taps, **shown.taps},
        optimizers=dict(critic=adam(4e-4, betas=(0.9, 0.99))),
    )


@METHODS.register_module(name='skd-pi')
@needs(tasks=TASKS, paper=PAPER)
def skd_pi(pair: Pair, pixel: float | None = None) -> Plan:
    """Structured KD's pixel-wise term alone (+PI), what ``kd`` is for label maps.

    Args:
        pair: The pair.
        pixel: Weight: the paper's 10, of depth 1.
    """
    return _terms(pair, _pixel(pair, pixel), 0.0)


@METHODS.register_module(name='skd-pi-pa')
@needs(tasks=TASKS, paper=PAPER)
def skd_pi_pa(
    pair: Pair,
    pixel: float | None = None,
    pair_wise: float = 10.0,
    patch: int | None = None,
    feature: str | None = None,
) -> Plan:
    """Structured KD without its critic (+PI +PA): most of the gain for little of the time.

    Args:
        pair: The pair.
        pixel: Weight of the pixel-wise term: the paper's 10, of depth 1.
        pair_wise: Weight of the pair-wise term: the paper's 10.
        patch: Side of the patches that are averaged to a node: 2, of detectors 1.
        feature: Point or path of the map that the pair-wise term compares, such as
            ``'auto:stages[-1]'``; None: what the last layer reads, of detectors every level.
    """
    return _terms(pair, _pixel(pair, pixel), pair_wise, patch, feature)


@METHODS.register_module(name='skd-pa')
@needs(tasks=TASKS, paper=PAPER)
def skd_pa(
    pair: Pair, pair_wise: float = 10.0, patch: int | None = None, feature: str | None = None
) -> Plan:
    """Structured KD's pair-wise term alone (+PA), which needs no common classes.

    Args:
        pair: The pair.
        pair_wise: Weight: the paper's 10.
        patch: Side of the patches that are averaged to a node: 2, of detectors 1.
        feature: As of ``skd-pi-pa``.
    """
    return _terms(pair, None, pair_wise, patch, feature)


def _pixel(pair: Pair, weight: float | None) -> float:
    return of_task(pair, weight, segmentation=10.0, detection=10.0, depth=1.0)


def _terms(
    pair: Pair,
    pixel: float | None,
    pair_wise: float,
    patch: int | None = None,
    feature: str | None = None,
) -> Plan:
    """Return the terms without a critic; one of weight 0 or None is left out."""
    _check_feature(pair, pair_wise, feature)
    if not pair_wise:
        why = 'pair_wise=0 leaves its term out'
        pair.refuse_unused(why, ', or pair_wise above 0', patch=(patch, None))
    if pair.kind == 'detection':
        return _terms_of_levels(pair, pixel, pair_wise, patch)
    objectives: dict[str, dict] = {}
    taps: dict[str, str] = {}
    if pixel:
        objectives['pixel'] = logits(pair, None, pixel)
        taps['logits'] = 'auto'
    if pair_wise:
        objectives['pair'] = dict(
            loss=dict(type='PairWiseAffinityLoss', patch=2 if patch is None else patch),
            **pair.on('feat'),
            connectors=dict(teacher='auto'),
            weight=pair_wise,
        )
        taps['feat'] = 'auto:feature' if feature is None else feature
    return Plan(objectives, taps)


def _check_feature(pair: Pair, pair_wise: float, feature: str | None) -> None:
    if feature is None:
        return
    if not isinstance(feature, str):
        pair.fail(
            f"feature must be a point or a path, got {feature!r}. Mend: feature='auto:stages[-1]'"
        )
    if pair.kind == 'detection':
        pair.fail(
            'the pair-wise term of detectors compares every level of the necks, so that feature '
            'has no effect. Mend: leave it out'
        )
    if not pair_wise:
        pair.fail('feature is of the pair-wise term. Mend: pair_wise above 0, or no feature')


def _terms_of_levels(pair: Pair, pixel: float | None, pair_wise: float, patch: int | None) -> Plan:
    plan = scores_of_levels(pair, weight=pixel) if pixel else Plan()
    levels = range(pair.levels()) if pair_wise else range(0)
    loss: dict[str, Any] = dict(type='PairWiseAffinityLoss')
    if patch is not None:
        loss['patch'] = patch
    pairs = {
        f'pair{k}': dict(loss=dict(loss), **pair.on(f'feat{k}'), weight=pair_wise / len(levels))
        for k in levels
    }
    necks = {f'feat{k}': f'auto:neck[{k}]' for k in levels}
    return Plan({**plan.objectives, **pairs}, {**necks, **plan.taps})


def _holistic(pair: Pair, tap: str, weight: float, critic: dict | None) -> dict:
    if critic is not None and not isinstance(critic, dict):
        pair.fail(
            f'critic must be a dictionary of options of the HolisticCritic, got {critic!r}. Mend: '
            'critic=dict(size=(24, 32))'
        )
    activation = dict(segmentation='softmax', detection='sigmoid').get(pair.kind)
    shown = {} if activation is None else dict(activation=activation)
    connected = dict(connectors=dict(teacher='auto')) if pair.kind != 'detection' else {}
    return dict(
        loss=dict(
            type='AdversarialLoss', **shown, critic={'type': 'HolisticCritic', **(critic or {})}
        ),
        **pair.on(tap, image='batch.inputs'),
        **connected,
        weight=weight,
    )
