# + PI + PA with 100 labelled scenes and 20,000 without labels, 8 of each in a batch; PA compares the
# deepest maps of the encoders, 8×8 places.
_base_ = '../pairs/kd_unet_digit-scenes-100.py'
train_dataloader = dict(
    batch_size=16,
    sampler=dict(_delete_=True, type='mmkd.MixedSampler', labelled=8, unlabelled=8),
    dataset=dict(
        _delete_=True,
        type='mmkd.WithUnlabelled',
        dataset={{_base_.train_dataloader.dataset}},
        unlabelled=dict(
            dataset=dict(type='mmkd.DigitScenes', split='train', num_scenes=20000, seed=1)
        ),
    ),
)
model = dict(
    taps=dict(feat='backbone[0]'),
    objectives=dict(
        pair=dict(loss=dict(type='PairWiseAffinityLoss'), on='feat', weight=10.0),
    ),
)
