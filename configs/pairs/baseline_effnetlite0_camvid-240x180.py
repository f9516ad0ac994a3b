# EfficientNet-Lite0 from ImageNet alone, 400 iterations of 8 crops of 144×192 in bf16.
_base_ = [
    '../_base_/models/camvid_effnetlite0.py',
    '../_base_/datasets/camvid_240x180.py',
    '../_base_/schedules/schedule_camvid-pretrained.py',
    '../_base_/runtime.py',
]
