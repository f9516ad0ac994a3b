# NYU Depth v2 in mmseg's layout (data/nyu/{images,annotations}/{train,test}, depth in millimetres),
# crops of 384×384.
_base_ = './nyuv2_160x120.py'
load_depth = dict(type='LoadDepthAnnotation', depth_rescale_factor=1e-3)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    load_depth,
    dict(type='RandomCrop', crop_size=(384, 384)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    _base_.pack,
]
test_pipeline = [dict(type='LoadImageFromFile'), load_depth, _base_.pack]
train_dataloader = dict(
    dataset=dict(
        data_root='data/nyu',
        pipeline=train_pipeline,
        data_prefix=dict(img_path='images/train', depth_map_path='annotations/train'),
    )
)
test_dataloader = dict(
    dataset=dict(
        data_root='data/nyu',
        pipeline=test_pipeline,
        data_prefix=dict(img_path='images/test', depth_map_path='annotations/test'),
    )
)
val_dataloader = test_dataloader
val_evaluator = dict(crop_type='nyu_crop')  # the usual crop of 640×480
test_evaluator = val_evaluator
