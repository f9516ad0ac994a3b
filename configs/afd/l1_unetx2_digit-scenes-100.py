# Maps aligned directly, with 100 labelled scenes.
_base_ = './l1_unetx2_digit-scenes.py'
train_dataloader = dict(dataset=dict(num_scenes=100))
