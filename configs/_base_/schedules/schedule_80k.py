# 80000 iterations, else as schedule_40k.py.
_base_ = './schedule_40k.py'
train_cfg = dict(max_iters=80000, val_interval=8000)
