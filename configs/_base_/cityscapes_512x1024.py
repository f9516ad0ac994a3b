# The public name of datasets/cityscapes_512x1024.py.
_base_ = './datasets/cityscapes_512x1024.py'
