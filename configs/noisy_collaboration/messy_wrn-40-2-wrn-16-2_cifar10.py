# Messy Collaboration in the paper's setting: 200 passes; its grid of rates is not known to us.
_base_ = '../pairs/kd_wrn-40-2-wrn-16-2_cifar10.py'
model = dict(noise=[dict(type='LabelFlip', rate=0.1)])
