# A CNN under a transformer: plain distillation of a U-Net by the SegFormer of 32 channels.
_base_ = './baseline_unet_digit-scenes.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/teacher_segformer_digit-scenes.py',
        checkpoint='work_dirs/teacher_segformer_digit-scenes/iter_1500.pth',
    ),
    taps=dict(logits='decode_head.conv_seg'),
    objectives=dict(
        pixel=dict(
            loss=dict(type='PixelWiseKLLoss'),
            on='logits',
            connectors=dict(teacher='auto'),
            weight=10.0,
        )
    ),
)
