# Depth, pair-wise only (+PA), on the head's last feature.
_base_ = './pi_effnetlite2-resnet18-half_nyuv2-160x120.py'
model = dict(
    objectives=dict(
        _delete_=True,
        pair=dict(loss=dict(type='PairWiseAffinityLoss', patch=2), on='feat', weight=10.0),
    )
)
