# The demo's scenes with 20,000 more that have no labels: the student's own loss on 2 of a batch,
# plain distillation on all 8.
_base_ = '../pairs/kd_unet_digit-scenes.py'
train_dataloader = dict(
    sampler=dict(_delete_=True, type='mmkd.MixedSampler', labelled=2, unlabelled=6),
    dataset=dict(
        _delete_=True,
        type='mmkd.WithUnlabelled',
        dataset={{_base_.train_dataloader.dataset}},
        unlabelled=dict(
            dataset=dict(type='mmkd.DigitScenes', split='train', num_scenes=20000, seed=1)
        ),
    ),
)
