# 100 labelled scenes, eight of them in each batch as without the others, and eight of 20,000 more
# that have no labels.
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
