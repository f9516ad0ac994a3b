"""Asking: a decoder's own queries give its own answers, drawn ones are what is said of them."""

from typing import Any

import pytest
import torch
from helpers.detectors import deformable, detector, detr, spread
from helpers.runs import need_mmdet
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from mmkd.distiller.taps.taps import Taps
from mmkd.losses.queries.asking import Deformable, Dino, Learned, asking_of
from mmkd.structures.batch import Batch
from mmkd.tasks import generated_batch, task_of
from mmkd.tasks.detection import padding_of

CASES = {
    'DETR': lambda: detr('DETR'),
    'DABDETR': detr,
    'one stage': lambda: deformable('DeformableDETR'),
    'refined': lambda: deformable('DeformableDETR', refine=True),
    'two stages': lambda: deformable('DeformableDETR', stages=2),
    'two stages, refined': lambda: deformable('DeformableDETR', stages=2, refine=True),
    'DINO': deformable,
}


@pytest.fixture(autouse=True)
def mmdet() -> None:
    need_mmdet()


def build(cfg: dict) -> Any:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return spread(MODELS.build(cfg)).eval()


def watched(model: Any, padded: bool = True) -> tuple[dict, Tensor, Any]:
    """Return what taps see of a forward on two images, where they are padded, what it says."""
    data = generated_batch(2, (64, 64), task_of(model))
    if padded:
        data['inputs'][1] = data['inputs'][1][:, :40]
        data['data_samples'][1].set_metainfo(dict(img_shape=(40, 64)))
    data = model.data_preprocessor(data, False)
    parts = asking_of(model).parts
    paths = dict(memory='encoder', places='positional_encoding#*')
    taps = Taps(model, paths | {part: f'decoder:input[{part}]' for part in parts})
    with torch.no_grad(), taps.recording() as seen:
        said = model(data['inputs'], data['data_samples'], mode='tensor')
    padding = padding_of(Batch(data['inputs'], data['data_samples'], task=task_of(model)))
    return taps.read(seen), padding, said


@pytest.mark.parametrize('padded', [False, True])
@pytest.mark.parametrize('case', CASES)
def test_its_own_queries_give_its_own_answers(case: str, padded: bool) -> None:
    """Of its normal forward: memory, masks, levels and references are then those of mmdet."""
    model = build(CASES[case]())
    asking = asking_of(model)
    seen, padding, said = watched(model, padded)
    assert bool(padding.any()) == padded
    with torch.no_grad():
        queries = asking.own(model, [seen[part] for part in asking.parts])
        answers = asking.answer(model, queries, seen['memory'], seen['places'], padding)
    assert said[0].std(2).min() > 1e-3, 'its queries say different things'
    for found, normal in zip(answers, said, strict=True):
        torch.testing.assert_close(found, normal, rtol=0, atol=1e-5)


def test_layout_of_levels() -> None:
    """By hand: 4×4 places and 2×2; the second image fills 40 of 64 rows."""
    model = build(deformable())
    levels = [torch.zeros(2, 16, 4, 4), torch.zeros(2, 16, 2, 2)]
    pads = [torch.zeros(2, n, n, dtype=torch.bool) for n in (4, 2)]
    pads[0][1, 3:], pads[1][1, 1:] = True, True
    given = Dino().given(model, {}, levels, pads)
    assert given['spatial_shapes'].tolist() == [[4, 4], [2, 2]]
    assert given['level_start_index'].tolist() == [0, 16]
    ratios = [[[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.75], [1.0, 0.5]]]  # of width, of height
    assert given['valid_ratios'].tolist() == ratios


def test_of_a_peer_in_training_the_denoising_part_is_left_out() -> None:
    """It stands before the queries that are matched."""
    model = build(deformable())
    content, boxes = torch.randn(2, 14, 16), torch.rand(2, 14, 4)
    queries = Dino().own(model, [content, boxes])
    assert queries['query'].equal(content[:, 4:])
    assert queries['reference_points'].equal(boxes[:, 4:])


@pytest.mark.parametrize(
    ('case', 'sizes'),
    [
        ('DETR', dict(query_pos=16)),
        ('DABDETR', dict(query_pos=4)),
        ('refined', dict(query=16, query_pos=16, reference_points=2)),
        ('DINO', dict(query=16, reference_points=4)),
    ],
)
def test_random_queries(case: str, sizes: dict[str, int]) -> None:
    """Vectors are normal; references are uniform: of mean 1/2 and variance 1/12."""
    model = build(CASES[case]())
    torch.manual_seed(1)
    drawn = asking_of(model).draw(model, 20000)
    assert {name: x.shape[-1] for name, x in drawn.items()} == sizes
    for name, x in drawn.items():
        even = name == 'reference_points'
        mean, variance = (0.5, 1 / 12) if even else (0.0, 1.0)
        assert len(x) == 20000
        torch.testing.assert_close(x.mean(0), torch.full((sizes[name],), mean), rtol=0, atol=0.04)
        spread = torch.full((sizes[name],), variance)
        torch.testing.assert_close(x.var(0), spread, rtol=0.06, atol=0)
        assert not even or (x.min() >= 0 and x.max() < 1)


def test_of_two_stages_random_references_make_their_queries() -> None:
    """As they do where the model picked them."""
    model = build(CASES['two stages']())
    seen = watched(model)[0]
    points = seen['reference_points'].clamp(1e-3, 1 - 1e-3)
    with torch.no_grad():
        drawn = Deformable().draw(model, 7)
        Deformable.references, before = lambda *_: points[0], Deformable.references
        try:
            again = Deformable().draw(model, 10)
        finally:
            Deformable.references = before
    assert drawn['reference_points'].shape == (7, 4)
    assert drawn['query'].shape == drawn['query_pos'].shape == (1, 7, 256)
    inside = ((seen['reference_points'][0] - points[0]) == 0).all(-1)
    assert inside.any()
    for part in ('query', 'query_pos'):
        found, picked = again[part][0][inside], seen[part][0][inside]
        torch.testing.assert_close(found, picked, rtol=0, atol=1e-4)


def test_kinds() -> None:
    kinds = {case: type(asking_of(build(cfg()))) for case, cfg in CASES.items()}
    assert kinds.pop('DINO') is Dino
    assert {kinds.pop('DETR'), kinds.pop('DABDETR')} == {Learned}
    assert set(kinds.values()) == {Deformable}
    assert asking_of(build(detector(8))) is None
    patterns = detr()
    patterns['num_patterns'] = 2
    assert asking_of(build(patterns)) is None, 'each query is several'
    model = build(deformable())
    model.query_embedding = None
    assert asking_of(model) is None, 'as of DDQ'
    model = build(deformable())
    model.bbox_head.forward = lambda hidden_states, references, memory_text: None
    assert asking_of(model) is None, 'as of Grounding DINO'


@pytest.mark.bad_input
def test_a_memory_of_other_places() -> None:
    model = build(deformable())
    levels, padding = [torch.zeros(1, 16, 4, 4)], torch.zeros(1, 64, 64, dtype=torch.bool)
    queries = Dino().draw(model, 3)
    message = r'sizes \[\(4, 4\)\] are of 16 places, but the memory is \(1, 20, 16\). Mend: of one'
    with pytest.raises(ValueError, match=message):
        Dino().answer(model, queries, torch.zeros(1, 20, 16), levels, padding)
