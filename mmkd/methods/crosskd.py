"""CrossKD: the teacher's head reads the student's features, and should say what it said."""

from typing import Any

from mmkd.methods.kd import refuse_softmax, type_of
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs
from mmkd.registry import METHODS
from mmkd.utils.checks import check_choice, check_non_negative

STACKED = 4  # convolutions of a dense head, where its config does not say
CUT = dict(FCOSHead=2)  # of the authors' configs; 3 of other heads
BOXES = dict(FCOSHead='exp', ATSSHead='deltas', RetinaHead='deltas', GFLHead='bins', LDHead='bins')
STDS = (1.0, 1.0, 1.0, 1.0)  # of a coder whose config does not say
EDGES = 4.0  # weight of the edges of boxes
PUBLISHED = dict(exp=('log-iou', 0.75), deltas=('giou', 1.0), bins=('giou', 0.0))


@METHODS.register_module(name='crosskd')
@needs(tasks=('segmentation', 'detection'), paper='Wang et al., CVPR 2024, arXiv 2306.11369')
def crosskd(
    pair: Pair,
    tau: float = 1.0,
    weight: float = 10.0,
    edges: float = EDGES,
    boxes: float | None = None,
    overlap: str | None = None,
    depth: int | None = None,
    align: bool = True,
) -> Plan:
    """The student's features pass the rest of the teacher's head, which should say what it said.

    So the student is not torn between labels and a teacher that contradicts them: its own head has
    the labels. Of detectors features within the head are taken, after ``depth`` convolutions, and
    given the mean and deviation of each of the teacher's channels. Of label maps, for which nothing
    is published, the features that the classifier reads pass a 1×1 convolution where channels
    differ, and the teacher's classifier; nothing is aligned.

    Defaults: cut after 3 of 4 convolutions, of FCOS 2, as the authors' configs are. Edges of boxes
    (GFL's) have their weight 4 at τ = 1 on positions by the teacher's score, whose code sums over
    bins and divides by the four edges and the scores, as here. Boxes of other heads have theirs, 1
    with the GIoU of RetinaNet and ATSS, 0.75 with the logarithm of the IoU of FCOS, by the same
    scores; they divide by the number M of boxes' positions (FCOS: by the sum of their centerness),
    here by the sum of the scores, and the weight is as published, so where a teacher's scores add
    up to M: the value is theirs times M / Σ scores. Class scores have weight 10 over the number of
    levels, as in ``kd``, by a binary KL: theirs is a cross-entropy times the distance of the
    scores, divided by M, which nothing converts. Of ATSS they compare the centerness too, which is
    not in it. They align before the activation, here it is after.

    Args:
        pair: The pair.
        tau: Temperature of the classes.
        weight: Of the classes; of detectors of all levels together.
        edges: Of the edges of boxes, 0 or above; of heads that have distributions.
        boxes: Of the overlap of boxes, 0 or above; None: as published, 0 of heads that have
            distributions.
        overlap: 'giou' or 'log-iou', where boxes are compared; None: as published, 'giou' of heads
            that have distributions.
        depth: Convolutions of a detector's head before the cut; None: 3, of FCOS 2, or all but the
            last.
        align: Whether a detector's features are aligned.
    """
    check_non_negative('edges', edges)
    check_non_negative('boxes', 0.0 if boxes is None else boxes)
    if overlap is not None:
        check_choice('overlap', overlap, ('giou', 'log-iou'))
    if pair.kind == 'detection':
        heads = [_dense_head(pair, one) for one in _members(pair)]
        levels = _Levels(pair, heads, _cut(pair, heads, depth), align)
        plan = levels.classes(tau, weight)
        ends = BOXES.get(type_of(heads[1])) == 'bins'
        if not ends and edges not in (0, EDGES):
            pair.fail(
                f'edges are those of a teacher whose boxes are distributions (GFLHead), got '
                f'{type_of(heads[1])} and edges={edges!r}. Mend: leave edges out'
            )
        if edges and ends:
            loss = dict(type='LocalizationKLLoss', tau=1.0, least=0.0)
            levels.add(plan, 'edges', loss, [f'auto:edges[{k}]' for k in levels.each], edges)
        if all(type_of(head) in BOXES for head in heads):
            _add_boxes(plan, levels, heads[1], boxes, overlap)
        elif boxes:
            pair.fail(f'boxes are those of heads {", ".join(BOXES)}. Mend: leave boxes out')
        _check_overlap(pair, overlap, plan)
        return plan
    _check_overlap(pair, overlap)
    pair.refuse_unused(
        'of label maps no head of a detector is cut, and nothing is aligned',
        edges=(edges, EDGES),
        boxes=(boxes, None),
        depth=(depth, None),
        align=(align, True),
    )
    reads = dict(student=f'{pair.student}.feat', teacher=f'{pair.teacher}.logits')
    objective = dict(
        loss=dict(type='PixelWiseKLLoss', tau=tau),
        reads=reads,
        teacher_head=f'{pair.teacher}.feat',
        connectors=dict(student='auto'),
        weight=weight,
    )
    return Plan(objectives=dict(crosskd=objective), taps=dict(feat='auto:feature', logits='auto'))


def _check_overlap(pair: Pair, overlap: str | None, plan: Plan | None = None) -> None:
    if overlap is not None and not (plan and 'crosskd_boxes' in plan.objectives):
        pair.fail(
            f'no overlap of boxes is compared here, got overlap={overlap!r}. Mend: leave overlap '
            f'out, or boxes=1. of a detector with a head {", ".join(BOXES)}'
        )


class _Levels:
    """What objectives on all levels of two dense heads have in common."""

    def __init__(self, pair: Pair, heads: list[Any], cut: int, align: bool) -> None:
        self.pair, self.heads, self.cut, self.align = pair, heads, cut, align
        self.each = range(pair.levels())

    def of(self, member: str, tap: str) -> list[str]:
        """Return a member's taps of a name, level by level."""
        return [f'{member}.{tap}{k}' for k in self.each]

    def branch(self, kind: str) -> dict[str, str]:
        """Return the taps of a branch of the heads where it is cut."""
        path = f'bbox_head.{kind}_convs.{self.cut - 1}#' if self.cut else ''
        return {f'{kind}{k}': f'{path}{k}' if path else f'auto:neck[{k}]' for k in self.each}

    def classes(self, tau: float, weight: float) -> Plan:
        """Return an objective on the classes of each level."""
        refuse_softmax(self.pair)
        student, teacher = _members(self.pair)
        objectives: dict[str, dict] = {
            f'crosskd{k}': dict(
                loss=dict(type='BinaryKLLoss', tau=tau),
                reads=dict(student=f'{student}.cls{k}', teacher=f'{teacher}.score{k}'),
                teacher_head=dict(at=f'{teacher}.cls{k}', align=self.align),
                connectors=dict(student='auto'),
                weight=weight / len(self.each),
            )
            for k in self.each
        }
        taps = {f'score{k}': f'auto:logits[{k}]' for k in self.each}
        return Plan(objectives=objectives, taps=taps | self.branch('cls'))

    def add(self, plan: Plan, name: str, loss: dict, ends: list[str], weight: float) -> None:
        """Add an objective on what the branch of boxes leads to, of all levels together.

        One loss reads all levels, since it divides by the scores of all: there is no 1×1
        convolution for each, as the classes have.
        """
        student, teacher = _members(self.pair)
        widths = [getattr(head, 'feat_channels', None) for head in self.heads]
        if None not in widths and widths[0] != widths[1]:
            self.pair.fail(
                f'the branches of boxes have {widths[0]} and {widths[1]} channels, and the rest of '
                f"the teacher's reads its own number. Mend: feat_channels={widths[1]} of the "
                "student's head, or boxes=0, edges=0"
            )
        plan.taps.update(self.branch('reg') | {f'{name}{k}': ends[k] for k in self.each})
        reads: dict[str, Any] = dict(
            student=self.of(student, 'reg'),
            teacher=self.of(teacher, name),
            scores=self.of(teacher, 'score'),
        )
        head = dict(at=self.of(teacher, 'reg'), align=self.align)
        plan.objectives[f'crosskd_{name}'] = dict(
            loss=loss, reads=reads, teacher_head=head, weight=weight
        )


def _dense_head(pair: Pair, member: str) -> Any:
    model = pair.models.get(member)
    if pair.lacks(member, 'bbox_head'):
        pair.fail(
            f'the heads of dense detectors are cut, a bbox_head of one stage (RetinaNet, FCOS, '
            f'ATSS, GFL), and {member!r} is a {type_of(model)} without one. Mend: such detectors, '
            'or pkd, which compares features'
        )
    return getattr(model, 'bbox_head', None)


def _cut(pair: Pair, heads: list[Any], depth: int | None) -> int:
    """Return after how many convolutions the heads are cut."""
    most = min(getattr(head, 'stacked_convs', None) or STACKED for head in heads)
    usual = max(min(CUT.get(type_of(heads[1]), 3), most - 1), 0)
    cut = usual if depth is None else depth
    if isinstance(cut, bool) or not isinstance(cut, int) or not 0 <= cut <= most:
        pair.fail(
            f'depth is from 0 to the {most} convolutions of the heads, got {depth!r}. Mend: '
            f'depth={usual}, or leave depth out'
        )
    return cut


def _add_boxes(
    plan: Plan, levels: _Levels, head: Any, boxes: float | None, overlap: str | None
) -> None:
    """Add the overlap of boxes, where it has a weight."""
    code = BOXES[type_of(head)]
    penalty, published = PUBLISHED[code]
    weight = published if boxes is None else boxes
    if not weight:
        return
    loss: dict[str, Any] = dict(type='BoxOverlapLoss', code=code, penalty=overlap or penalty)
    end = 'bbox_head.scales.{}'
    if code == 'exp' and getattr(head, 'norm_on_bbox', False):
        loss.update(code='relu')
    if code == 'deltas':
        loss.update(spread=_spread(levels.pair, head))
    if type_of(head) == 'RetinaHead':
        end = 'bbox_head.retina_reg#{}'
    levels.add(plan, 'boxes', loss, [end.format(k) for k in levels.each], weight)


def _spread(pair: Pair, head: Any) -> list[float]:
    """Return what a head's coder multiplies deltas by."""
    coder = getattr(head, 'bbox_coder', None)
    # the config's names, then those of the module
    means, stds = (
        getattr(coder, f'target_{name}', None) or getattr(coder, name, None)
        for name in ('means', 'stds')
    )
    if type_of(coder) != 'DeltaXYWHBBoxCoder' or any(means or ()):
        pair.fail(
            'boxes of a head with anchors need a bbox_coder DeltaXYWHBBoxCoder with target_means '
            f'of 0 and any target_stds, got {type_of(coder)} with {means} and {stds}. Mend: '
            'boxes=0.'
        )
    return [float(one) for one in stds or STDS]


def _members(pair: Pair) -> tuple[str, str]:
    return pair.student, pair.teacher
