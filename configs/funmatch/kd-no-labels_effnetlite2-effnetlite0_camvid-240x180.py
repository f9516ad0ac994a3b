# The images of kd-unlabelled_ and no label at all: KL alone.
_base_ = './kd-unlabelled_effnetlite2-effnetlite0_camvid-240x180.py'
model = dict(task_weight=0.0)
