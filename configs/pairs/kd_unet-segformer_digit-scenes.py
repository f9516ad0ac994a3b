# A transformer under a CNN: plain distillation of a SegFormer by the U-Net of 32 channels.
_base_ = './kd_segformer_digit-scenes.py'
model = dict(
    teacher=dict(
        cfg='{{ fileDirname }}/teacher_unet_digit-scenes.py',
        checkpoint='work_dirs/teacher_unet_digit-scenes/iter_1500.pth',
    ),
    objectives=dict(soft=dict(connectors=dict(teacher='auto'))),
)
