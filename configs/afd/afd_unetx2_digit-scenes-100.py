# AFD with 100 labelled scenes, seen 120 times each: peers that over-fit.
_base_ = './afd_unetx2_digit-scenes.py'
train_dataloader = dict(dataset=dict(num_scenes=100))
