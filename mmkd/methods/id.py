"""Internal representations: attention and states, layer by layer."""

from collections.abc import Sequence
from typing import Any

from mmkd.methods.kd import logits
from mmkd.methods.pair import Pair
from mmkd.methods.plan import Plan, needs, of_task
from mmkd.registry import METHODS

TASKS = ('segmentation', 'classification', 'text')
PAPER = 'Aguilar et al., AAAI 2020, arXiv 1910.03723'
STATES = dict(text='first', classification='mean', segmentation='class')


@METHODS.register_module(name='id')
@needs(tasks=TASKS, paper=PAPER, cost='1.03 to 1.13 × (student + teacher)')
def id(
    pair: Pair,
    layers: Sequence[int] | None = None,
    teacher_layers: Sequence[int] | None = None,
    attention: float = 1.0,
    cosine: float = 1.0,
    soft: float | None = None,
    tau: float | None = None,
    rows: int | None = None,
    queries: bool | None = None,
    heads: str = 'match',
) -> Plan:
    """Attention and hidden states of the student's layers learn from the teacher's, all at once.

    Student layer m learns from the last of the teacher's layers that stand in its place: of 3 under
    6, counted from 1, m under 2m; of backbones in stages the last layer of each. ``sid`` and
    ``pid`` are the same layer by layer.

    Defaults are the paper's weights 1. States are those of [CLS] of sentences; of images the mean
    over all tokens, a class token among them where the backbone has one; of label maps the mean of
    every class in the backbone's maps. Soft labels beside them: of label maps and of sentences
    weight 1 at T = 1, of classes of images 0.9 at T = 4. The paper's code is not public; its
    formulas average over heads and rows, as here.

    Args:
        pair: The pair.
        layers: The student's attention layers, from 0; None: all that its config tells.
        teacher_layers: The teacher's, one for each of the student's.
        attention: Weight of each attention; 0 leaves them out.
        cosine: Weight of each state; 0 leaves them out.
        soft: Weight of the soft labels.
        tau: Temperature of the soft labels.
        rows: Queries that are drawn in each step; None: 256 of label maps, 16 of images, else all.
        queries: Whether attention is read by queries and keys, so that rows are right whatever
            kernel runs, or as rows that the network computes in any case; None: rows of images
            alone.
        heads: 'match' compares head by head, 'mean' their means, so that numbers may differ.
    """
    if not attention:
        why = 'attention=0 leaves the attentions out'
        unused = dict(rows=(rows, None), queries=(queries, None), heads=(heads, 'match'))
        pair.refuse_unused(why, ', or attention above 0', **unused)
    _check_layers(pair, layers=layers, teacher_layers=teacher_layers)
    own = pair.attentions(pair.student) if layers is None else list(layers)
    theirs = _under(pair, own, teacher_layers)
    if queries is None:
        queries = pair.kind != 'classification'
    rows = of_task(pair, rows, segmentation=256, classification=16)
    soft = of_task(pair, soft, segmentation=1.0, classification=0.9, text=1.0)
    objectives = dict(soft=logits(pair, of_task(pair, tau, classification=4.0), soft))
    numbers = range(len(own))
    if attention:
        objectives |= {
            f'attention{m}': _attention(pair, m, rows, attention, queries, heads) for m in numbers
        }
    if cosine:
        objectives |= {f'cosine{m}': _cosine(pair, m, cosine) for m in numbers}
    return Plan(
        objectives=objectives,
        taps=dict(logits='auto'),
        member_taps={
            member: {
                **(_attention_taps(layers, queries) if attention else {}),
                **(_state_taps(pair, member, layers) if cosine else {}),
            }
            for member, layers in ((pair.student, own), (pair.teacher, theirs))
        },
    )


def _check_layers(pair: Pair, **given: Any) -> None:
    """Refuse what is given as layers and is no list of them."""
    for name, layers in given.items():
        listed = isinstance(layers, list | tuple | range) and len(layers) > 0
        if layers is not None and not (listed and all(type(one) is int for one in layers)):
            pair.fail(
                f'{name} must be a list of whole numbers, got {layers!r}. Mend: '
                f'dict(type={pair.method!r}, layers=[0, 1, 2], teacher_layers=[1, 3, 5])'
            )


def _under(pair: Pair, own: list[int], given: Sequence[int] | None) -> list[int]:
    """Return the teacher's layer for each of the student's."""
    if given is None:
        theirs = pair.attentions(pair.teacher)
        if len(theirs) % len(own):
            pair.fail(
                f'{len(own)} layers of the student do not divide {len(theirs)} of the teacher. '
                f'Mend: dict(type={pair.method!r}, teacher_layers=[…]), one for each'
            )
        step = len(theirs) // len(own)
        return theirs[step - 1 :: step]
    if len(given) != len(own):
        pair.fail(f'teacher_layers must be one for each of the {len(own)} layers, got {given!r}')
    return list(given)


def _attention_taps(layers: list[int], queries: bool) -> dict[str, str]:
    points = dict(q='query', k='key') if queries else dict(attention='attention')
    taps: dict[str, str] = {}
    for tap, point in points.items():
        taps |= {f'{tap}{m}': f'auto:{point}[{layer}]' for m, layer in enumerate(layers)}
    return taps


def _state_taps(pair: Pair, member: str, layers: list[int]) -> dict[str, str]:
    if pair.kind == 'segmentation':
        last = pair.told_attentions(member) or layers  # not told: a layer for each stage in turn
        if not set(layers) <= set(last):
            pair.fail(
                f'states of segmentors are the maps of stages, which end with the layers {last} in '
                f'{member!r}; got the layers {layers}. Mend: those layers, or cosine=0'
            )
        return {f'map{m}': f'auto:stages[{last.index(layer)}]' for m, layer in enumerate(layers)}
    return {f'hidden{m}': f'auto:hidden[{layer}]' for m, layer in enumerate(layers)}


def _attention(
    pair: Pair, m: int, rows: int | None, weight: float, queries: bool, heads: str
) -> dict:
    loss: dict[str, Any] = dict(type='AttentionKLLoss')
    if heads != 'match':
        loss['heads'] = heads
    if rows is not None:
        loss['rows'] = rows
    masks = dict(mask='batch.tokens', key_mask='batch.tokens') if pair.kind == 'text' else {}
    if not queries:
        return dict(loss=loss, **pair.on(f'attention{m}', **masks), weight=weight)
    reads = dict(
        student=f'{pair.student}.q{m}',
        student_key=f'{pair.student}.k{m}',
        teacher=f'{pair.teacher}.q{m}',
        teacher_key=f'{pair.teacher}.k{m}',
        **masks,
    )
    return dict(loss=loss, reads=reads, weight=weight)


def _cosine(pair: Pair, m: int, weight: float) -> dict[str, Any]:
    loss = dict(type='HiddenCosineLoss', token=STATES[pair.kind])
    if pair.kind == 'segmentation':
        where = pair.on(f'map{m}', labels='batch.labels')
    else:
        where = pair.on(f'hidden{m}')
    return dict(loss=loss, **where, connectors=dict(student='auto'), weight=weight)
