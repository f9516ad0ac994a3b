# The three CamVid teachers as one model, for mmkd test (without a checkpoint; --show-dir draws
# the uncertainties).
_base_ = '../pairs/baseline_pspnet-r18-half_camvid-240x180.py'
teacher = dict(cfg='{{ fileDirname }}/../_base_/models/camvid_teacher.py')
folder = 'data/camvid_teachers/effnet_lite2_deeplabv3plus_seed'
model = dict(
    _delete_=True,
    type='mmkd.Ensemble',
    members=[dict(**teacher, checkpoint=f'{folder}{n}.pth') for n in range(3)],
)
test_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    dict(type='mmkd.CalibrationMetric'),
    dict(type='mmkd.UncertaintyMetric', outputs='ensemble'),
]
default_hooks = dict(uncertainty=dict(type='mmkd.UncertaintyHook', outputs='ensemble'))
