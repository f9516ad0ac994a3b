# The control: a member that goes on for as long as the distilled rows, with its labels.
_base_ = './member_resnet14_cifar10-2500.py'
load_from = 'work_dirs/member_resnet14_cifar10-2500/seed_0/iter_1170.pth'
optim_wrapper = dict(student=dict(optimizer=dict(lr=0.02)))
train_cfg = dict(max_iters=585)
