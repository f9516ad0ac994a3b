# 1,300 iterations at batch 16 (57 passes over the 367 training frames): a short, equal budget for every row of the table.
optim_wrapper = dict(
    constructor='mmkd.PhaseOptimWrapperConstructor',
    student=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=5e-4)),
    critic=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.99))))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=1300, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1300, val_interval=650)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
