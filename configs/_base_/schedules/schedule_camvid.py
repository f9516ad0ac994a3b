# 1,300 iterations at batch 16 (57 passes over the 367 training frames): a short, equal budget for
# every row of the table.
_base_ = './schedule_40k.py'
optim_wrapper = dict(student=dict(optimizer=dict(lr=0.02)))
train_cfg = dict(max_iters=1300, val_interval=650)
