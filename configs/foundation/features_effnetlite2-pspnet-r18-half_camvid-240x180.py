# Stage 1: the backbone of the half-width student learns the features of EfficientNet-Lite2 as it
# comes from ImageNet, on the training images without their labels; twice the iterations of the
# student alone: after a quarter of these its features are worth nothing yet.
_base_ = '../pairs/baseline_pspnet-r18-half_camvid-240x180.py'
model = dict(
    _delete_=True,
    type='mmkd.Distiller',
    student=dict(
        model=dict(
            type='mmkd.FeatureModel',
            backbone={{_base_.model.backbone}},
            data_preprocessor={{_base_.model.data_preprocessor}},
        ),
        scope='mmseg',
    ),
    teacher=dict(
        model=dict(
            type='mmkd.FeatureModel',
            backbone=dict(
                type='mmkd.EfficientNetLite', variant='lite2', output_stride=16, pretrained=True
            ),
            data_preprocessor=dict(
                type='ImgDataPreprocessor', mean=[127.0] * 3, std=[128.0] * 3, bgr_to_rgb=True
            ),
        )
    ),
    taps=dict(feat='auto:stages[-1]'),
    objectives=dict(
        foundation=dict(
            loss=dict(type='FeatureMatchingLoss', penalty=dict(cosine=0.5, huber=0.5)),
            on='feat',
            connectors=dict(student='auto'),
        ),
    ),
    task_weight=0.0,
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResize', scale=(240, 180), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(144, 192)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
# nothing predicts, so there is nothing to validate
val_dataloader = val_evaluator = val_cfg = test_dataloader = test_evaluator = test_cfg = None
default_hooks = dict(checkpoint=dict(save_best=None))
# This loss pulls too little for SGD at the rate of the labels: it is 0.82 after 160 iterations by
# that, 0.67 by AdamW.
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
)
train_cfg = dict(max_iters=640)
