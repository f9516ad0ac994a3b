# PSPNet-R18 with half the channels everywhere: the small CamVid student.
_base_ = './camvid_pspnet-r18.py'
model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    decode_head=dict(in_channels=256, channels=64),
    auxiliary_head=dict(in_channels=128, channels=32),
)
