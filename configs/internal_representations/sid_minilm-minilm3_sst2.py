# Stacked (SID): the layers so far together, then the soft and the hard labels.
_base_ = './id_minilm-minilm3_sst2.py'
levels = [[f'attention{m}', f'cosine{m}'] for m in range(3)] + [['soft', 'task']]
custom_hooks = _base_.custom_hooks + [
    dict(
        type='mmkd.ScheduleHook',
        levels=dict(
            type='stacked', levels=levels, length=60, watch='cosine*', threshold=0.02, window=20
        ),
    )
]
