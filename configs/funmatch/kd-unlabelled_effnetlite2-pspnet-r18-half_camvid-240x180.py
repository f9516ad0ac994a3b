# Labels for every fourth frame of CamVid alone, the student's own loss on these; + PI on all frames.
_base_ = '../structured_kd/structured_kd-pi_effnetlite2-pspnet-r18-half_camvid-240x180-600.py'
frames = 367
train_dataloader = dict(
    sampler=dict(_delete_=True, type='mmkd.MixedSampler', labelled=2, unlabelled=6),
    dataset=dict(
        _delete_=True,
        type='mmkd.WithUnlabelled',
        dataset=dict(
            type='mmkd.CamVid',
            data_root='data/camvid',
            data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
            pipeline={{_base_.train_pipeline}},
            indices=list(range(0, frames, 4)),
        ),
        unlabelled=dict(
            dataset=dict(
                type='mmkd.CamVid',
                data_root='data/camvid',
                data_prefix=dict(img_path='img_dir/train'),
            ),
            indices=[frame for frame in range(frames) if frame % 4],
        ),
    ),
)
