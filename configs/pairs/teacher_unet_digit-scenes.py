# The large U-Net with dropout before its classifier: it can be fickle.
_base_ = [
    '../_base_/models/unet_digit-scenes.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/schedules/schedule_digit_scenes.py',
    '../_base_/runtime.py',
]
model = dict(decode_head=dict(dropout_ratio=0.2))
default_hooks = dict(checkpoint=dict(save_best=None))
