# Soft Randomization under a fickle teacher, pixel by pixel; nothing of it was trained here.
_base_ = '../pairs/kd_pspnet_r101-r18_cityscapes-512x1024-80k.py'
model = dict(noise=[dict(type='GaussianInput', std=0.05), dict(type='TeacherDropout')])
