# The demo's student alone: the teacher's layers with 12 channels, in a seventh of the parameters.
_base_ = './teacher.py'
model = dict(backbone=dict(base_channels=12), decode_head=dict(in_channels=12, channels=24))
