# The second run: the assistant of 22 channels teaches the student of 12, as the teacher taught it.
_base_ = '../pairs/kd_unet_digit-scenes.py'
model = dict(
    teacher=dict(
        _delete_=True,
        cfg='{{ fileDirname }}/../pairs/baseline_unet_digit-scenes.py',
        cfg_options={
            'model.backbone.base_channels': 22,
            'model.decode_head.in_channels': 22,
            'model.decode_head.channels': 28,
        },
        checkpoint='work_dirs/assistant_unet_digit-scenes/student/iter_1500.pth',
    )
)
