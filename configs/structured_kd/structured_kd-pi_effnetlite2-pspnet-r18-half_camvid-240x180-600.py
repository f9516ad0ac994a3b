# Pixel-wise only (+PI), 600 iterations at half the size; the teacher's map (stride 4) is resized to
# the student's (stride 8).
_base_ = '../pairs/baseline_pspnet-r18-half_camvid-240x180-600.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}, taps=dict(feat='decode_head.bottleneck')),
    teacher=dict(
        cfg='{{ fileDirname }}/../_base_/models/camvid_teacher.py',
        checkpoint='data/camvid_teachers/effnet_lite2_deeplabv3plus_seed0.pth',
        precision='bf16',
        taps=dict(feat='decode_head.sep_bottleneck'),
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
