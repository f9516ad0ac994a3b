# QUEST on the last features of both decoders, 1024 words at 64×128 positions; nothing of it was
# trained here.
_base_ = '../pairs/kd_pspnet_r101-r18_cityscapes-512x1024-80k.py'
model = dict(
    objectives=dict(
        _delete_=True,
        quest=dict(loss=dict(type='AssignmentKLLoss', num_words=1024, tau='auto'), on='feat'),
    )
)
