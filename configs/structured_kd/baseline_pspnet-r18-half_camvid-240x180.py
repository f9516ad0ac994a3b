# The half-width student alone at a size that a CPU trains in minutes: 320 iterations of 8 crops of 144×192.
_base_ = ['../_base_/models/camvid_pspnet-r18-half.py', '../_base_/camvid_240x180.py', '../_base_/schedule_camvid.py',
          '../_base_/runtime.py']
max_iters = 320
model = dict(data_preprocessor=dict(size=(144, 192)))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
