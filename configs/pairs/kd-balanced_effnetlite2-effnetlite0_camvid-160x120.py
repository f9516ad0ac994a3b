# Plain distillation at 160×120: the pair of the table of every method from ImageNet weights.
_base_ = './baseline-balanced_effnetlite0_camvid-160x120.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/../_base_/models/camvid_teacher.py',
        checkpoint='data/camvid_teachers/effnet_lite2_deeplabv3plus_seed0.pth',
    ),
    taps=dict(logits='decode_head.conv_seg'),
    objectives=dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=10.0)),
)
