# 40000 iterations: SGD for the student, Adam for a critic (dropped where nothing is adversarial),
# poly 0.9 for both.
optim_wrapper = dict(
    constructor='mmkd.PhaseOptimWrapperConstructor',
    student=dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
    ),
    critic=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.99))),
)
# to the end of the run
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=4000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
