"""Ensemble: its prediction is the mean of what its members predict alone, on the images as they
would see them.
"""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import batch, build, preprocessor, segmentor
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from torch import nn

import mmkd.models.ensemble
from mmkd.evaluation import ensemble_uncertainty
from mmkd.models import Ensemble

NAMES = ('total', 'data', 'knowledge')


def small(num_classes: int = 5, **changes: Any) -> dict:
    return segmentor(4, num_classes, auxiliary=False, size=32, **changes)


def member(seed: int, **changes: Any) -> nn.Module:
    """Return a built segmentor whose predictions are not all alike."""
    torch.manual_seed(seed)
    model = build(dict(small(**changes), _scope_='mmseg')).eval()
    nn.init.normal_(model.decode_head.conv_seg.weight, std=0.3)
    return model


def classifier(seed: int, num_classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    model = MODELS.build(
        dict(
            type='mmkd.ImageClassifier',
            backbone=dict(type='CIFARResNet', depth=8),
            in_channels=64,
            num_classes=num_classes,
        )
    ).eval()
    nn.init.normal_(model.head.fc.weight)
    return model


def assert_mean_of_members(ensemble: Ensemble, models: list[nn.Module], data: dict) -> None:
    """Compare with each member's own test_step on the raw images."""
    alone = [
        model.test_step(dict(data, data_samples=[s.clone() for s in data['data_samples']]))
        for model in models
    ]
    for n, found in enumerate(ensemble.test_step(data)):
        probs = torch.stack([samples[n].seg_logits.data.double().softmax(0) for samples in alone])
        torch.testing.assert_close(found.seg_logits.data.softmax(0), probs.mean(0).float())
        assert torch.equal(found.pred_sem_seg.data, probs.mean(0).argmax(0, keepdim=True))
        assert found.pred_sem_seg.data.unique().numel() > 1
        measures = ensemble_uncertainty(probs[:, None])
        for name in NAMES:
            torch.testing.assert_close(
                found.get(f'{name}_uncertainty').data, measures[name].float()
            )
        assert torch.equal(found.gt_sem_seg.data, data['data_samples'][n].gt_sem_seg.data)


def test_segmentors() -> None:
    models = [member(seed) for seed in range(3)]
    assert_mean_of_members(Ensemble([dict(model=m) for m in models]), models, batch(2, 32, 5))


def test_padding_is_cropped_and_the_original_size_restored() -> None:
    padded = preprocessor(32, test_cfg=dict(size_divisor=32))
    models = [member(seed, data_preprocessor=padded) for seed in range(2)]
    data = batch(1, 40, 5)
    data['data_samples'][0].set_metainfo(dict(ori_shape=(80, 80)))
    assert_mean_of_members(Ensemble(models), models, data)
    assert Ensemble(models).test_step(data)[0].total_uncertainty.shape == (80, 80)


def test_sliding_windows() -> None:
    window = ConfigDict(mode='slide', crop_size=(24, 24), stride=(16, 16))
    models = [member(0, test_cfg=window), member(1)]
    assert_mean_of_members(Ensemble(models), models, batch(1, 40, 5))


def test_members_of_other_means_and_channel_orders() -> None:
    """Each sees what it was trained on, whoever's preprocessor makes the batch."""
    models = [
        member(0),
        member(1, data_preprocessor=preprocessor(32, mean=0.0, std=255.0, bgr_to_rgb=False)),
    ]
    assert_mean_of_members(Ensemble(models), models, batch(2, 32, 5))


def test_classifiers() -> None:
    models = [classifier(seed) for seed in range(3)]
    data = dict(
        inputs=[torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8) for _ in range(4)],
        data_samples=[BaseDataElement(gt_label=torch.tensor([i])) for i in range(4)],
    )
    probs = torch.stack(
        [m(m.data_preprocessor(data)['inputs']).double().softmax(1) for m in models]
    )
    measures = ensemble_uncertainty(probs)
    for n, found in enumerate(Ensemble(models).test_step(data)):
        torch.testing.assert_close(found.pred_score, probs.mean(0)[n].float())
        torch.testing.assert_close(found.pred_logits.exp(), found.pred_score)
        assert found.pred_label.tolist() == [probs.mean(0)[n].argmax().item()]
        assert found.gt_label.item() == n
        for name in NAMES:
            torch.testing.assert_close(found.get(f'{name}_uncertainty'), measures[name][n].float())


def test_without_data_samples() -> None:
    models = [member(seed) for seed in range(2)]
    inputs = torch.randn(2, 3, 32, 32)
    found = Ensemble(models)(inputs, mode='predict')
    probs = torch.stack([m(inputs, mode='predict')[1].seg_logits.data.softmax(0) for m in models])
    torch.testing.assert_close(found[1].seg_logits.data.softmax(0), probs.mean(0))


def test_named_members_from_checkpoints(tmp_path: Path) -> None:
    """As the teachers of a Distiller are written; of a Distiller's checkpoint the student is
    taken.
    """
    models = [member(seed) for seed in range(2)]
    torch.save(dict(state_dict=models[0].state_dict()), tmp_path / 'plain.pth')
    torch.save(
        dict(state_dict={f'students.student.{k}': v for k, v in models[1].state_dict().items()}),
        tmp_path / 'distilled.pth',
    )
    (tmp_path / 'small.py').write_text(
        Config(dict(model=small(), default_scope='mmseg')).pretty_text
    )
    ensemble = MODELS.build(
        dict(
            type='mmkd.Ensemble',
            members=dict(
                t0=dict(cfg=str(tmp_path / 'small.py'), checkpoint=str(tmp_path / 'plain.pth')),
                t1=dict(model=small(), checkpoint=str(tmp_path / 'distilled.pth')),
            ),
        )
    )
    assert_mean_of_members(ensemble, models, batch(1, 32, 5))


def test_half_precision_members_leave_the_preprocessor_alone() -> None:
    models = [member(seed) for seed in range(2)]
    exact = Ensemble(models).test_step(batch(1, 32, 5))[0].seg_logits.data.softmax(0)
    ensemble = Ensemble([dict(model=m, precision='bf16') for m in models])
    assert ensemble.data_preprocessor.mean.dtype == torch.float32
    found = ensemble.test_step(batch(1, 32, 5))[0].seg_logits.data
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.softmax(0), exact, atol=0.05, rtol=0)


def test_members_stay_in_eval_mode() -> None:
    """Dropout and moving statistics are off, whatever a loop calls; and DDP finds parameters."""
    models = [member(seed) for seed in range(2)]
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in models]
    ensemble = Ensemble(models).train()
    first, second = (ensemble.test_step(batch(1, 32, 5))[0].seg_logits.data for _ in range(2))
    assert torch.equal(first, second)
    assert all(
        torch.equal(value, m.state_dict()[k])
        for m, old in zip(models, before, strict=True)
        for k, value in old.items()
    )
    assert not first.requires_grad
    assert all(p.requires_grad for p in ensemble.parameters())


def test_memory_does_not_grow_with_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each member's maps nothing is alive when the next one runs."""
    refs: list[weakref.ref] = []
    original = mmkd.models.ensemble.probabilities_of

    def watch(prediction: Any, model: Any) -> torch.Tensor:
        assert sum(ref() is not None for ref in refs) <= 1
        probs = original(prediction, model)
        refs.append(weakref.ref(probs))
        return probs

    monkeypatch.setattr('mmkd.models.ensemble.probabilities_of', watch)
    Ensemble([member(0) for _ in range(5)]).test_step(batch(1, 32, 5))
    assert len(refs) == 5


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize('mode', ['loss', 'tensor'])
def test_it_only_predicts(mode: str) -> None:
    with pytest.raises(
        RuntimeError,
        match=f"only answers mode='predict', got mode='{mode}'. Mend: train the members "
        'one by one with mmkd train-ensemble; to distil them',
    ):
        Ensemble([member(0), member(1)])(torch.zeros(1, 3, 32, 32), mode=mode)


def test_one_member_is_no_ensemble() -> None:
    with pytest.raises(
        ValueError, match='needs two members or more, got 1. Mend: train more with mmkd train'
    ):
        Ensemble([member(0)])


def test_members_that_disagree_on_classes() -> None:
    with pytest.raises(
        ValueError,
        match="disagree on classes: {'member0': 5, 'member1': 6}. Mend: the same classes, ",
    ):
        Ensemble([member(0), member(1, num_classes=6)])
    with pytest.raises(ValueError, match="disagree on classes: {'a': 4, 'b': 3}"):
        Ensemble(dict(a=classifier(0), b=classifier(0, 3)))


def test_untrained_members_and_unknown_keys(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="teacher 'member1' has no checkpoint.*allow_untrained=True"
    ):
        Ensemble([member(0), dict(model=small())])
    with pytest.raises(
        TypeError,
        match="ensemble member 'member0' got an unknown key 'checkpiont'; did you mean 'ch",
    ):
        Ensemble([dict(model=small(), checkpiont='a.pth'), member(0)])
    torch.save(dict(state_dict={'w': torch.zeros(1)}), tmp_path / 'other.pth')
    with pytest.raises(
        RuntimeError, match=r'(?s)does not fit EncoderDecoder.*missing.*unexpected: w'
    ):
        Ensemble([member(0), dict(model=small(), checkpoint=str(tmp_path / 'other.pth'))])


def test_a_single_output_channel() -> None:
    heads = dict(
        small()['decode_head'],
        num_classes=2,
        out_channels=1,
        threshold=0.3,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
    )
    with pytest.raises(
        ValueError,
        match='two classes or more, got 1 output channel. Mend: members with out_channels=',
    ):
        Ensemble(
            [build(dict(small(decode_head=heads), _scope_='mmseg')) for _ in range(2)]
        ).test_step(batch(1, 32, 2))
