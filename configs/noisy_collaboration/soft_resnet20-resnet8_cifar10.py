# Soft Randomization: the student sees noisy images in both terms, the teacher clean ones; alpha =
# 0.9, tau = 4.
_base_ = '../pairs/kd_resnet20-resnet8_cifar10.py'
model = dict(noise=[dict(type='GaussianInput', std=0.1)])
