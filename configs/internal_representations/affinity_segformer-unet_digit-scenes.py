# A CNN under a transformer: rows of affinity between 16×16 places stand for attention on both
# sides.
_base_ = '../pairs/baseline_unet_digit-scenes.py'
rows = dict(type='AffinityRows', size=(16, 16))
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(model={{_base_.model}}, taps=dict(feat='decode_head.convs')),
    teacher=dict(
        cfg='{{ fileDirname }}/../pairs/teacher_segformer_digit-scenes.py',
        taps=dict(feat='decode_head.fusion_conv'),
        checkpoint='work_dirs/teacher_segformer_digit-scenes/iter_1500.pth',
    ),
    taps=dict(logits='decode_head.conv_seg'),
    objectives=dict(
        soft=dict(loss=dict(type='PixelWiseKLLoss'), on='logits'),
        affinity=dict(
            loss=dict(type='AttentionKLLoss'),
            on='feat',
            connectors=dict(student=rows, teacher=rows),
        ),
    ),
)
