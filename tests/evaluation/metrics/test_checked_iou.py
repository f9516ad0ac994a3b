"""IoUMetric refuses what it would leave out in silence."""

import pytest
import torch
from mmseg.evaluation.metrics import IoUMetric

from mmkd.evaluation.metrics.checked_iou import check_samples

pytestmark = pytest.mark.bad_input


def sample(labels: list, channels: int = 3) -> dict:
    return dict(
        gt_sem_seg=dict(data=torch.tensor([labels])),
        seg_logits=dict(data=torch.zeros(channels, 1, 2)),
        pred_sem_seg=dict(data=torch.zeros(1, 1, 2, dtype=torch.long)),
        seg_map_path='ann/3.png',
    )


@pytest.mark.parametrize('labels', [[0, 2], [255, 1]])
def test_sound_samples(labels: list) -> None:
    check_samples([sample([labels])], 3, 255)
    check_samples([sample([labels], channels=1), dict(img_path='x')], 3, 255)


@pytest.mark.parametrize(
    ('labels', 'told'), [([0, 3], [3]), ([77, 254], [77, 254]), ([-1, 0], [-1])]
)
def test_labels_out_of_range(labels: list, told: list) -> None:
    with pytest.raises(ValueError, match='labels hold the ids') as raised:
        check_samples([sample([[0, 1]]), sample([labels])], 3, 255)
    said = str(raised.value)
    assert (
        f'the ids {told}, but the data set of the evaluation has 3 classes (0 … 2; 255 is ignored)'
        in said
    )
    assert 'ann/3.png' in said


def test_models_of_other_classes() -> None:
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=('a', 'b'))
    with pytest.raises(
        ValueError,
        match='the model predicts 3 classes, the data set of the evaluation has 2. Mend: ',
    ):
        metric.process({}, [sample([[0, 1]])])
