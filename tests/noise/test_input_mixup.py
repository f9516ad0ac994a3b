"""InputMixup: its number by hand, one mixture for all members, and where it is refused."""

from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.unlabelled import distiller, mixed, observe
from mmengine.structures import PixelData

from mmkd.noise import InputMixup


def share(alpha: float, seed: int) -> float:
    """Return λ of a step, of the same draw."""
    torch.manual_seed(seed)
    a = torch.full((), alpha, dtype=torch.float64)
    drawn = float(torch.distributions.Beta(a, a).sample())
    return max(drawn, 1 - drawn)


@pytest.mark.parametrize('alpha', [1.0, 0.2])
def test_each_image_is_mixed_with_the_one_before(alpha: float):
    images = torch.randn(4, 3, 5, 6, dtype=torch.float64)
    own = share(alpha, 3)
    torch.manual_seed(3)
    found = InputMixup(alpha)(images)
    for i in range(4):
        torch.testing.assert_close(found[i], own * images[i] + (1 - own) * images[i - 1])


def test_the_shares_are_uniform_above_a_half():
    """For α = 1 the mean of max(a, 1 − a) is 3/4, its variance 1/48."""
    torch.manual_seed(0)
    images, mix = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), InputMixup()
    found = torch.stack([mix(images)[1, 0, 0, 0] for _ in range(4000)])
    assert 0.5 <= found.min() < 0.51
    assert 0.99 < found.max() <= 1
    assert found.mean().item() == pytest.approx(0.75, abs=0.01)
    assert found.var().item() == pytest.approx(1 / 48, rel=0.05)


def test_a_single_image_stays():
    image = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(InputMixup()(image), image)


def test_every_member_sees_the_same_mixture():
    model = distiller(task_weight=0.0, noise=[dict(type='InputMixup')])
    seen: dict[str, torch.Tensor] = {}
    for name in ('student', 'teacher'):
        backbone = getattr(model, name).backbone
        backbone.register_forward_hook(
            lambda _, given, __, name=name: seen.update({name: given[0]})
        )
    data = tiny.batch(3, 32)
    record, _ = observe(model, data)
    clean = model.data_preprocessor(tiny.batch(3, 32), True)['inputs']
    own = share(1.0, 5)
    torch.testing.assert_close(record.batch.inputs, own * clean + (1 - own) * clean.roll(1, 0))
    assert seen['student'].equal(record.batch.inputs)
    assert seen['teacher'].equal(record.batch.inputs)


def test_a_mixture_is_as_large_as_both_of_its_images():
    """Padding is what lies outside of both, for a teacher of another normalisation as well."""
    net = tiny.segmentor(8, data_preprocessor=tiny.preprocessor(32, mean=127.0, std=64.0))
    teacher = dict(model=net, allow_untrained=True)
    model = distiller(teacher=teacher, task_weight=0.0, noise=[dict(type='InputMixup')])
    data = tiny.batch(2, 32)
    data['inputs'][0] = data['inputs'][0][:, :16]
    data['data_samples'][0].set_metainfo(dict(img_shape=(16, 32)))
    labels = data['data_samples'][0].gt_sem_seg.data[:, :16]
    data['data_samples'][0].gt_sem_seg = PixelData(data=labels)
    given = model.data_preprocessor(data, True)
    record, _ = model.observe(**given)
    shapes = [sample.img_shape for sample in record.batch.data_samples]
    assert shapes == [(32, 32), (32, 32)]
    assert given['data_samples'][0].img_shape == (16, 32), 'the batch itself is left as it was'
    seen = model.runs['teacher'].prepare(record.batch)
    # (x · 50 + 100 − 127) / 64 wherever one of the two images is
    torch.testing.assert_close(seen, (record.batch.inputs * 50 + 100 - 127) / 64)


def test_images_with_labels_are_left_alone():
    model = distiller(noise=[dict(type='InputMixup', images='unlabelled')])
    data = mixed(5, [0, 2, 4])
    record, losses = observe(model, data)
    clean = distiller().data_preprocessor(mixed(5, []), True)['inputs']
    own = share(1.0, 5)
    places = [0, 2, 4]
    assert record.batch.inputs[[1, 3]].equal(clean[[1, 3]])
    expected = own * clean[places] + (1 - own) * clean[[4, 0, 2]]
    torch.testing.assert_close(record.batch.inputs[places], expected)
    assert losses['decode.loss_ce'] > 0
    record, _ = observe(model, tiny.batch(2, 32))
    assert record.batch.inputs.equal(clean[:2])


LABELS = dict(
    one=dict(loss=dict(type='DecoupledKLLoss'), on='logits', reads=dict(labels='batch.labels'))
)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        (
            dict(noise=[dict(type='InputMixup')]),
            ValueError,
            r'InputMixup mixes images, whose labels then fit none of them, but labels are read by '
            r"the students' own losses \(task_weight above 0\). Mend: images='unlabelled'",
        ),
        (
            dict(noise=[dict(type='InputMixup')], task_weight=0.0, objectives=LABELS),
            ValueError,
            "labels are read by objective 'one'. Mend",
        ),
        (dict(noise=[dict(type='InputMixup', alpha=0)]), ValueError, 'alpha of InputMixup'),
        (
            dict(noise=[dict(type='InputMixup', images='some')]),
            ValueError,
            "images of InputMixup must be one of .*'all'.*, got 'some'",
        ),
        (
            dict(noise=[dict(type='InputMixup', members=['student'])]),
            TypeError,
            "unknown key 'members'",
        ),
    ],
)
def test_bad_input(changes: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        distiller(**changes)


@pytest.mark.bad_input
def test_token_ids_and_members():
    with pytest.raises(
        TypeError, match=r'needs images \(N, C, H, W\) of floating point, got int64'
    ):
        InputMixup()(torch.zeros(2, 3, 8, dtype=torch.long))
    noise = InputMixup()
    noise.members = ['student']
    with pytest.raises(ValueError, match='InputMixup acts on the batch.*it takes no members'):
        noise.choose({})
