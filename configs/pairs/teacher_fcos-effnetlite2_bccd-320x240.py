# The teacher: FCOS on EfficientNet-Lite2 from ImageNet, as long as the student.
_base_ = './baseline_fcos-r18-half_bccd-320x240.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmkd.EfficientNetLite',
        variant='lite2',
        output_stride=32,
        pretrained=True,
    ),
    neck=dict(in_channels=[24, 48, 120, 352]),
)
