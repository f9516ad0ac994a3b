# + PI + PA with 100 labelled scenes; PA compares the deepest maps of the encoders, 8×8 places.
_base_ = '../pairs/kd_unet_digit-scenes-100.py'
model = dict(
    taps=dict(feat='backbone[0]'),
    objectives=dict(
        pair=dict(loss=dict(type='PairWiseAffinityLoss'), on='feat', weight=10.0),
    ),
)
