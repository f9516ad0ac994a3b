# baseline_ with classes weighted: unweighted, 400 iterations learn nothing of five of the eleven.
_base_ = [
    '../_base_/models/camvid_effnetlite0-balanced.py',
    '../_base_/datasets/camvid_240x180.py',
    '../_base_/schedules/schedule_camvid-pretrained.py',
    '../_base_/runtime.py',
]
