# The demo's student alone: the teacher's layers with 12 channels, in a seventh of the parameters.
_base_ = '../pairs/baseline_unet_digit-scenes.py'
