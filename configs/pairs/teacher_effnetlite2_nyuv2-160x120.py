# The depth teacher: EfficientNet-Lite2 from ImageNet, as long as the student.
_base_ = './baseline_resnet18-half_nyuv2-160x120.py'
model = dict(
    backbone=dict(_delete_=True, type='mmkd.EfficientNetLite', variant='lite2', pretrained=True),
    decode_head=dict(in_channels=[24, 48, 120, 352], channels=128),
)
