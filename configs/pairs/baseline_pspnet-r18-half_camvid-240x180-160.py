# The half-width student alone for 160 iterations: as long as the second stage of foundation
# features.
_base_ = './baseline_pspnet-r18-half_camvid-240x180.py'
train_cfg = dict(max_iters=160)
