# The student alone: a plain mmseg model, with the data, schedule and seed of the distilled rows.
_base_ = [
    '../_base_/models/camvid_pspnet-r18.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/schedule_camvid.py',
    '../_base_/runtime.py',
]
