# Nesterov SGD and a cosine to 0; a recipe says how long: train_cfg = dict(max_iters=…).
optim_wrapper = dict(
    constructor='mmkd.PhaseOptimWrapperConstructor',
    student=dict(
        type='OptimWrapper',
        optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    ),
    critic=dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.99))),
)
# to the end of the run
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0, begin=0, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
