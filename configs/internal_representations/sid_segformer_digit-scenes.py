# Stacked: stage by stage from the bottom up, then the labels, soft and hard, for most of the
# training.
_base_ = './id_segformer_digit-scenes.py'
levels = [[f'attention{s}', f'cosine{s}'] for s in range(4)] + [['soft', 'task']]
custom_hooks = _base_.custom_hooks + [
    dict(
        type='mmkd.ScheduleHook',
        levels=dict(type='stacked', levels=levels, length=100, watch='cosine*', threshold=0.05),
    )
]
