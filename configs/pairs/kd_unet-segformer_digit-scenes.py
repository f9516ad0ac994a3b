# A transformer under a CNN: plain distillation of a SegFormer by the U-Net of 32 channels.
_base_ = './baseline_segformer_digit-scenes.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/teacher_unet_digit-scenes.py',
        checkpoint='work_dirs/teacher_unet_digit-scenes/iter_1500.pth',
    ),
    taps=dict(logits='decode_head.conv_seg'),
    objectives=dict(
        soft=dict(
            loss=dict(type='PixelWiseKLLoss'), on='logits', connectors=dict(teacher='auto')
        )
    ),
)
