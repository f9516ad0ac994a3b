# Labels for every fourth frame of CamVid alone, the student's own loss on these; + PI on all frames.
_base_ = './kd-quarter_effnetlite2-effnetlite0_camvid-240x180.py'
train_dataloader = dict(
    sampler=dict(_delete_=True, type='mmkd.MixedSampler', labelled=2, unlabelled=6),
    dataset=dict(
        _delete_=True,
        type='mmkd.WithUnlabelled',
        dataset={{_base_.train_dataloader.dataset}},
        unlabelled=dict(
            dataset=dict(
                type='mmkd.CamVid',
                data_root='data/camvid',
                data_prefix=dict(img_path='img_dir/train'),
            ),
            indices=[frame for frame in range(367) if frame % 4],
        ),
    ),
)
