# Fickle Teacher, pixel by pixel: whole channels before the teacher's classifier come and go.
_base_ = '../pairs/kd_unet_digit-scenes.py'
model = dict(noise=[dict(type='TeacherDropout')])
