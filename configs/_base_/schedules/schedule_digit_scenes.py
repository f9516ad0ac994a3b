# 1,500 iterations at batch 8: AdamW, a short warm-up, then poly 0.9.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.02, weight_decay=0.02))
# the last one goes on to the end of the run
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(type='PolyLR', power=0.9, eta_min=0, begin=100, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1500, val_interval=250)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
