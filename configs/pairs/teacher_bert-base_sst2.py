# The paper's teacher, BERT-base, in the usual fine-tuning: 3 passes over all 60,614 rows.
_base_ = './teacher_minilm_sst2.py'
model = dict(config=dict(_delete_=True, model_type='bert'), pretrained='data/bert-base-uncased')
train_dataloader = dict(
    dataset=dict(
        limit=None,
        pipeline=[
            dict(type='mmkd.PackTextInputs', tokenizer='data/bert-base-uncased', max_length=64)
        ],
    )
)
optim_wrapper = dict(optimizer=dict(lr=2e-5))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=500, by_epoch=False),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.0, begin=500, by_epoch=False),
]
train_cfg = dict(max_iters=3 * 1895, val_interval=1895)
default_hooks = dict(checkpoint=dict(interval=1895))
