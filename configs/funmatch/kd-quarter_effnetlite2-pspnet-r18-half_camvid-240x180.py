# The control of kd-unlabelled_: every fourth frame of CamVid with its labels, and no other frame.
_base_ = '../structured_kd/structured_kd-pi_effnetlite2-pspnet-r18-half_camvid-240x180-600.py'
train_dataloader = dict(dataset=dict(indices=list(range(0, 367, 4))))
