# The demo's teacher: a U-Net with 32 channels at full width.
_base_ = [
    '../_base_/models/unet_digit-scenes.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/schedules/schedule_digit_scenes.py',
    '../_base_/runtime.py',
]
default_hooks = dict(checkpoint=dict(save_best=None))
