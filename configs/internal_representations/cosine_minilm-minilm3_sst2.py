# [CLS] alone, beside soft and hard labels, all layers at once.
_base_ = './id_minilm-minilm3_sst2.py'
model = dict(
    objectives=dict(
        _delete_=True,
        **{
            name: value
            for name, value in _base_.model.objectives.items()
            if not name.startswith('attention')
        },
    )
)
