# EfficientNet-Lite0 from ImageNet at output stride 16, with a DeepLabV3+ head of a third of the
# teacher's channels: a small CamVid student that 400 iterations suffice for.
_base_ = './camvid_teacher.py'
model = dict(
    data_preprocessor=dict(size=(144, 192)),
    backbone=dict(variant='lite0', pretrained=True),
    decode_head=dict(in_channels=320, channels=64, dilations=(1, 3, 6), c1_channels=16),
)
