# Scenes of handwritten digits, 11 classes, 64×64, no download. No flips: a mirrored digit is no
# digit.
dataset_type = 'mmkd.DigitScenes'
pipeline = [dict(type='PackSegInputs')]  # images and label maps come with the scenes
train_dataloader = dict(
    batch_size=8,
    num_workers=0,  # scenes are kept in memory: a worker would only copy them
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type=dataset_type, split='train', num_scenes=2000, pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, split='val', num_scenes=200, test_mode=True, pipeline=pipeline),
)
test_dataloader = dict(
    batch_size=50,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type, split='test', num_scenes=500, test_mode=True, pipeline=pipeline
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
