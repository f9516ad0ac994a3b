# The control of Soft Randomization with 100 labelled scenes: the student alone, on the same noise.
_base_ = './noise_unet_digit-scenes.py'
train_dataloader = dict(dataset=dict(num_scenes=100))
