# Pixel-wise and pair-wise (+PI +PA), the latter on the last feature before the classifier.
_base_ = './structured_kd-pi_effnetlite2-pspnet-r18-half_camvid-240x180-600.py'
model = dict(
    objectives=dict(
        pair=dict(
            loss=dict(type='PairWiseAffinityLoss', patch=2),
            on='feat',
            connectors=dict(teacher='auto'),
            weight=10.0,
        )
    )
)
