# 17,600 iterations at batch 128 (100 passes over 22,500 images): Nesterov SGD and a cosine to 0.
optim_wrapper = dict(
    constructor='mmkd.PhaseOptimWrapperConstructor',
    student=dict(type='OptimWrapper',
                 optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)),
    critic=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.99))))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=17600, eta_min=0, begin=0, end=17600, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=17600, val_interval=1760)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
