# The same, with the divergence weighing classes too, by the root of their inverse frequency: its
# mean over pixels would else undo what the student's own loss does for rare ones.
_base_ = './kd-balanced_effnetlite2-effnetlite0_camvid-240x180.py'
model = dict(objectives=dict(pixel=dict(where=[dict(type='ClassBalance', power=0.5)])))
