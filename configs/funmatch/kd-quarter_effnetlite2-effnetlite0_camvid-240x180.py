# The control of kd-unlabelled_: plain distillation (+ PI of Structured KD) on every fourth frame of
# CamVid with its labels, and no other frame.
_base_ = '../pairs/kd_effnetlite2-effnetlite0_camvid-240x180.py'
train_dataloader = dict(dataset=dict(indices=list(range(0, 367, 4))))
