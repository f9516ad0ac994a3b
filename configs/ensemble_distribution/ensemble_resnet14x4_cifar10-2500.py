# The ensemble itself, for mmkd test (without a checkpoint): what the distilled networks are
# compared with.
_base_ = '../pairs/member_resnet14_cifar10-2500.py'
member = dict(model={{_base_.model}})
folder = 'work_dirs/member_resnet14_cifar10-2500/seed_'
model = dict(
    _delete_=True,
    type='mmkd.Ensemble',
    members=[dict(**member, checkpoint=f'{folder}{n}/iter_1170.pth') for n in range(4)],
)
test_evaluator = [
    dict(type='mmkd.Accuracy'),
    dict(type='mmkd.CalibrationMetric'),
    dict(type='mmkd.UncertaintyMetric', outputs='ensemble'),
]
