# The teacher of the ViT: the same width in 6 layers, 12 passes.
_base_ = './baseline_vit_cifar10.py'
model = dict(backbone=dict(num_layers=6))
train_cfg = dict(max_iters=2112)
