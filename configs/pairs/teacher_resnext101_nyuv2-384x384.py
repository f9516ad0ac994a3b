# The paper's depth teacher: ResNeXt-101 32×4d.
_base_ = './baseline_mobilenetv2_nyuv2-384x384.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNeXt',
        depth=101,
        groups=32,
        base_width=4,
        norm_cfg={{_base_.norm_cfg}},
        style='pytorch',
    ),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
)
