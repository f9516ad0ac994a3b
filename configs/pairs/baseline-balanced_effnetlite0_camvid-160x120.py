# EfficientNet-Lite0 from ImageNet alone, classes weighted, at a size that leaves time for every
# method: 160 iterations of 8 crops of 72×96 in float32.
_base_ = [
    '../_base_/models/camvid_effnetlite0-balanced.py',
    '../_base_/datasets/camvid_160x120.py',
    '../_base_/schedules/schedule_camvid-pretrained.py',
    '../_base_/runtime_comparison.py',
]
model = dict(data_preprocessor=dict(size=(72, 96)))
optim_wrapper = dict(type='OptimWrapper')
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=16, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=0, begin=16, by_epoch=False),
]
train_cfg = dict(max_iters=160)
