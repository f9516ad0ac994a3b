# Soft Randomization, pixel by pixel: the same noisy image in the student's own loss and in the
# distillation.
_base_ = '../pairs/kd_unet_digit-scenes.py'
model = dict(noise=[dict(type='GaussianInput', std=0.1)])
