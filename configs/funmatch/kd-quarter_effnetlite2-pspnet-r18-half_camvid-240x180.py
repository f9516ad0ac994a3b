# The control of kd-unlabelled_: plain distillation (+ PI of Structured KD) on every fourth frame of
# CamVid with its labels, and no other frame; the teacher's map (stride 4) is resized to the
# student's (stride 8).
_base_ = '../pairs/baseline_pspnet-r18-half_camvid-240x180-600.py'
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
    objectives=dict(
        pixel=dict(
            loss=dict(type='PixelWiseKLLoss'),
            on='logits',
            connectors=dict(teacher='auto'),
            weight=10.0,
        )
    ),
)
train_dataloader = dict(dataset=dict(indices=list(range(0, 367, 4))))
