# A CNN under a transformer: plain distillation of a U-Net by the SegFormer of 32 channels.
_base_ = './kd_unet_digit-scenes.py'
model = dict(
    teacher=dict(
        cfg='{{ fileDirname }}/teacher_segformer_digit-scenes.py',
        checkpoint='work_dirs/teacher_segformer_digit-scenes/iter_1500.pth',
    ),
    objectives=dict(pixel=dict(connectors=dict(teacher='auto'))),
)
