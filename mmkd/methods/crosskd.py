"""CrossKD: the teacher's head reads the student's features, and should say what it said."""

from typing import Any

from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS

EDGES = ('GFLHead', 'LDHead')  # heads that predict distributions of where edges lie
STACKED = 4  # convolutions of a dense head, where its config does not say


@METHODS.register_module(name='crosskd')
@needs(tasks=('segmentation', 'detection'), paper='Wang et al., CVPR 2024, arXiv 2306.11369')
def crosskd(
    pair: Pair,
    tau: float = 1.0,
    weight: float = 10.0,
    edges: float = 3.0,
    depth: int | None = None,
    align: bool = True,
) -> Plan:
    """The student's features pass the rest of the teacher's head, which should say what it said.

    So the student is not torn between labels and a teacher that contradicts them: its own head has
    the labels. Of detectors features within the head are taken, after ``depth`` convolutions, and
    given the mean and deviation of each of the teacher's channels. Of label maps, for which nothing
    is published, the features that the classifier reads pass a 1×1 convolution where channels
    differ, and the teacher's classifier; nothing is aligned.

    Defaults: cut after 3 of 4 convolutions, as the authors' configs are. Edges of boxes (GFL's)
    have their weight 3 at τ = 1 on positions by the teacher's score, whose code sums over bins and
    divides by the four edges and the scores, as here. Class scores have weight 10 over the number
    of levels, as in ``kd``, by a binary KL: theirs is a cross-entropy times the distance of the
    scores, divided by the number of boxes' positions, which nothing converts. Their third term, the
    overlap of boxes, is not in it. They align before the activation, here it is after.

    Args:
        pair: The pair.
        tau: Temperature of the classes.
        weight: Of the classes; of detectors of all levels together.
        edges: Of the edges of boxes, 0 or above; of heads that have distributions.
        depth: Convolutions of a detector's head before the cut; None: 3, or all but the last.
        align: Whether a detector's features are aligned.
    """
    if pair.kind == 'detection':
        return _of_levels(pair, tau, weight, edges, depth, align)
    reads = dict(student=f'{pair.student}.feat', teacher=f'{pair.teacher}.logits')
    objective = dict(
        loss=dict(type='PixelWiseKLLoss', tau=tau),
        reads=reads,
        teacher_head=f'{pair.teacher}.feat',
        connectors=dict(student='auto'),
        weight=weight,
    )
    return Plan(objectives=dict(crosskd=objective), taps=dict(feat='auto:feature', logits='auto'))


def _of_levels(
    pair: Pair, tau: float, weight: float, edges: float, depth: int | None, align: bool
) -> Plan:
    heads = [getattr(pair.models.get(one), 'bbox_head', None) for one in _members(pair)]
    stacked = [getattr(head, 'stacked_convs', None) or STACKED for head in heads]
    cut = max(min(3, min(stacked) - 1), 0) if depth is None else depth
    if not isinstance(cut, int) or not 0 <= cut <= min(stacked):
        pair.fail(f'depth is from 0 to the {min(stacked)} convolutions of the heads, got {depth!r}')
    levels = range(pair.levels())

    def through(kind: str, k: int) -> str:
        """Return the tap of a branch of the head, at a level."""
        return f'bbox_head.{kind}_convs.{cut - 1}#{k}' if cut else f'auto:neck[{k}]'

    def of(member: str, tap: str) -> list[str]:
        return [f'{member}.{tap}{k}' for k in levels]

    taps = {f'score{k}': f'auto:logits[{k}]' for k in levels}
    taps |= {f'cls{k}': through('cls', k) for k in levels}
    objectives: dict[str, dict] = {
        f'crosskd{k}': dict(
            loss=dict(type='BinaryKLLoss', tau=tau),
            reads=dict(student=f'{pair.student}.cls{k}', teacher=f'{pair.teacher}.score{k}'),
            teacher_head=dict(at=f'{pair.teacher}.cls{k}', align=align),
            weight=weight / len(levels),
        )
        for k in levels
    }
    if edges and all(_type_of(head) in EDGES for head in heads):
        taps |= {f'reg{k}': through('reg', k) for k in levels}
        taps |= {f'edges{k}': f'auto:edges[{k}]' for k in levels}
        reads: dict[str, Any] = dict(
            student=of(pair.student, 'reg'),
            teacher=of(pair.teacher, 'edges'),
            scores=of(pair.teacher, 'score'),
        )
        objectives['crosskd_edges'] = dict(
            loss=dict(type='LocalizationKLLoss', tau=1.0, least=0.0),
            reads=reads,
            teacher_head=dict(at=of(pair.teacher, 'reg'), align=align),
            weight=edges,
        )
    return Plan(objectives=objectives, taps=taps)


def _members(pair: Pair) -> tuple[str, str]:
    return pair.student, pair.teacher


def _type_of(head: Any) -> str:
    return str(getattr(head, 'type', type(head).__name__)).split('.')[-1]
