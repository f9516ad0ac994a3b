# Plain pixel-wise distillation, the teacher's dropout off: the control of all three noises.
_base_ = './baseline_unet_digit-scenes.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/teacher_unet_digit-scenes.py',
        checkpoint='work_dirs/teacher_unet_digit-scenes/iter_1500.pth',
    ),
    taps=dict(logits='decode_head.conv_seg'),
    objectives=dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=10.0)),
)
