# CIFAR-10, 32×32: train on all but the last 250 images of each class, validate on these, test on
# the test set.
dataset_type = 'mmkd.CIFAR10'
data_root = 'data/cifar10'  # train.zip and test.zip, or the folders train and test
crop_size = (32, 32)  # what PadCrop leaves
train_pipeline = [
    dict(type='mmkd.PadCrop', padding=4),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmkd.PackClsInputs'),
]
test_pipeline = [dict(type='mmkd.PackClsInputs')]
train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    # one tensor of images: normalised at once, not image by image
    collate_fn=dict(type='default_collate'),
    dataset=dict(type=dataset_type, data_root=data_root, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,  # images are kept in memory: a worker would only copy them
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type=dataset_type, data_root=data_root, split='val', test_mode=True, pipeline=test_pipeline
    ),
)
test_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type=dataset_type, data_root=data_root, split='test', test_mode=True, pipeline=test_pipeline
    ),
)
val_evaluator = dict(type='mmkd.Accuracy')
test_evaluator = val_evaluator
auto_scale_lr = dict(enable=False, base_batch_size=128)
