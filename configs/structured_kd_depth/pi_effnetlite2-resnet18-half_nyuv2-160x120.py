# Depth, pixel-wise only (+PI): the bins' distributions, which the paper found useless for depth.
_base_ = '../pairs/baseline_resnet18-half_nyuv2-160x120.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/../pairs/teacher_effnetlite2_nyuv2-160x120.py',
        checkpoint='work_dirs/teacher_effnetlite2_nyuv2-160x120/iter_1000.pth',
        precision='bf16',
    ),
    taps=dict(logits='decode_head.conv_seg', feat='decode_head.convs', depth='decode_head.depth'),
    objectives=dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits')),
)
