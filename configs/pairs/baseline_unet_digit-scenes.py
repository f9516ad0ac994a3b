# The small U-Net alone: the teacher's layers with 12 channels, in a seventh of the parameters.
_base_ = [
    '../_base_/models/unet_digit-scenes.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/schedules/schedule_digit_scenes.py',
    '../_base_/runtime.py',
]
model = dict(backbone=dict(base_channels=12), decode_head=dict(in_channels=12, channels=24))
default_hooks = dict(checkpoint=dict(save_best=None))
