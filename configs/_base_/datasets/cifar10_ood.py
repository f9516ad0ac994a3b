# CIFAR-10 whose test asks more: calibration, and whether uncertainty tells photographs from scenes
# of digits.
_base_ = './cifar10.py'
pipeline = [dict(type='mmkd.PackClsInputs')]
classes = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            dict(
                type='mmkd.CIFAR10',
                data_root='data/cifar10',
                split='test',
                test_mode=True,
                pipeline=pipeline,
            ),
            # built in; of your own images:
            # dict(type='mmkd.ImageFiles', data_root=…, pattern='**/*.jpg', …)
            dict(
                type='mmkd.ImageFiles',
                dataset=dict(type='mmkd.DigitScenes', split='test', num_scenes=2000),
                metainfo=dict(classes=classes),
                pipeline=pipeline,
            ),
        ],
    )
)
test_evaluator = [
    dict(type='mmkd.Accuracy'),
    dict(type='mmkd.CalibrationMetric'),
    dict(type='mmkd.UncertaintyMetric', outputs='softmax'),
]
