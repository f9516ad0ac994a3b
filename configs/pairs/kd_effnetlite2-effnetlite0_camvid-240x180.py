# EfficientNet-Lite2 teaches EfficientNet-Lite0, both with the head of DeepLabV3+ at stride 4: plain
# distillation (+ PI of Structured KD).
_base_ = './baseline_effnetlite0_camvid-240x180.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}),
    teacher=dict(
        cfg='{{ fileDirname }}/../_base_/models/camvid_teacher.py',
        checkpoint='data/camvid_teachers/effnet_lite2_deeplabv3plus_seed0.pth',
        precision='bf16',
    ),
    taps=dict(logits='decode_head.conv_seg'),
    objectives=dict(pixel=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', weight=10.0)),
)
