# The proxy for four times as long, at a higher rate: how near one network comes to the ensemble.
_base_ = './end2-proxy_resnet14x4_cifar10-2500.py'
optim_wrapper = dict(student=dict(optimizer=dict(lr=0.05)))
train_cfg = dict(max_iters=2340)
