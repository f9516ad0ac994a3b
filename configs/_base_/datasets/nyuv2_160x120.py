# NYU Depth v2 at a size that a CPU trains: images of 160×120, batch 8; the depth of validation and
# test stays at 320×240. Of the 795 training frames the last 96, of other rooms, validate: the set
# has no third split.
dataset_type = 'NYUDataset'
data_root = 'data/nyuv2_depth'
# these files: 0 … 255 for 0 … 10 metres
load_depth = dict(type='LoadDepthAnnotation', depth_rescale_factor=1 / 25.5)
pack = dict(
    type='PackSegInputs', meta_keys=('img_path', 'depth_map_path', 'ori_shape', 'img_shape', 'flip')
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    load_depth,
    dict(type='Resize', scale=(160, 120)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    pack,
]
test_pipeline = [  # what is predicted is resized to the ground truth
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 120)),
    load_depth,
    pack,
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        pipeline=train_pipeline,
        data_prefix=dict(img_path='img_dir/train', depth_map_path='depth_dir/train'),
        indices=list(range(699)),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        pipeline=test_pipeline,
        data_prefix=dict(img_path='img_dir/train', depth_map_path='depth_dir/train'),
        indices=list(range(699, 795)),
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        pipeline=test_pipeline,
        data_prefix=dict(img_path='img_dir/test', depth_map_path='depth_dir/test'),
    ),
)
val_evaluator = dict(type='mmkd.DepthMetric', min_depth_eval=0.5, max_depth_eval=10.0)
test_evaluator = val_evaluator
