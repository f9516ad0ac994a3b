# The half-width student alone at a size that leaves time for every method: 160 iterations of 8 crops
# of 72×96.
_base_ = [
    '../_base_/models/camvid_pspnet-r18-half.py',
    '../_base_/datasets/camvid_160x120.py',
    '../_base_/schedules/schedule_camvid.py',
    '../_base_/runtime_comparison.py',
]
model = dict(data_preprocessor=dict(size=(72, 96)))
train_cfg = dict(max_iters=160)
