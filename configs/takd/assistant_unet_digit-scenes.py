# The first run: the U-Net of 32 channels teaches one of 22, half-way to the student's 12.
_base_ = '../pairs/kd_unet_digit-scenes.py'
model = dict(
    student=dict(
        _delete_=True,
        cfg='{{ fileDirname }}/../pairs/baseline_unet_digit-scenes.py',
        cfg_options={
            'model.backbone.base_channels': 22,
            'model.decode_head.in_channels': 22,
            'model.decode_head.channels': 28,
        },
    )
)
