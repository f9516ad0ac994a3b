# Stage 2: the half-width student learns from labels, as alone, its backbone beginning as stage 1
# left it; half the iterations of the student alone.
_base_ = '../pairs/baseline_pspnet-r18-half_camvid-240x180.py'
load_from = 'work_dirs/features_effnetlite2-pspnet-r18-half_camvid-240x180/student/iter_640.pth'
train_cfg = dict(max_iters=160)
