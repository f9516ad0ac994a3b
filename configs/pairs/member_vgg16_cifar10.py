# The paper's member: VGG-16 on CIFAR-10, 90 passes of batch 128, Adam, up to 0.01 and down again,
# images in [-1, 1]; without the dropout of 0.3 and the rotations of 15° that the known reproduction
# has.
_base_ = [
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/schedule_cifar.py',
    '../_base_/runtime_cls.py',
]
model = dict(
    type='mmkd.ImageClassifier',
    # its norms are frozen by default
    backbone=dict(type='mmcv.cnn.VGG', depth=16, with_bn=True, bn_eval=False),
    num_classes=10,
    in_channels=512,
    data_preprocessor=dict(
        type='ImgDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True
    ),
)
train_dataloader = dict(dataset=dict(split='trainval'))
third = 11730  # iterations: 30 passes over 50,000 images
optim_wrapper = dict(
    student=dict(optimizer=dict(_delete_=True, type='Adam', lr=0.01), clip_grad=dict(max_norm=10.0))
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=third, by_epoch=False),
    dict(
        type='LinearLR',
        start_factor=1.0,
        end_factor=0.1,
        begin=third,
        end=2 * third,
        by_epoch=False,
    ),
    dict(type='LinearLR', start_factor=1.0, end_factor=1e-3, begin=2 * third, by_epoch=False),
]
train_cfg = dict(max_iters=3 * third, val_interval=3910)
default_hooks = dict(checkpoint=dict(interval=3910))
