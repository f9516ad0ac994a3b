# The half-width student alone at a size that a CPU trains in minutes: 320 iterations of 8 crops of
# 144×192.
_base_ = [
    '../_base_/models/camvid_pspnet-r18-half.py',
    '../_base_/datasets/camvid_240x180.py',
    '../_base_/schedules/schedule_camvid.py',
    '../_base_/runtime.py',
]
model = dict(data_preprocessor=dict(size=(144, 192)))
train_cfg = dict(max_iters=320)
