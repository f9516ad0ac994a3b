# QUEST and pixel-wise logit distillation together.
_base_ = './quest_effnetlite2-pspnet-r18-half_camvid-240x180.py'
model = dict(
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
