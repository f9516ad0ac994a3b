# RTE: stacked, as on SST-2.
_base_ = './sid_minilm-minilm3_sst2.py'
weights = 'work_dirs/teacher_minilm_rte/iter_500.pth'
model = dict(
    student=dict(model=dict(pretrained=weights)),
    teacher=dict(cfg='{{ fileDirname }}/../pairs/teacher_minilm_rte.py', checkpoint=weights),
)
rte = dict(
    data_root='data/text/rte',
    text=('sentence1', 'sentence2'),
    limit=None,
    metainfo=dict(classes=('entailment', 'not_entailment')),
)
train_dataloader = dict(dataset=dict(ann_file='train.tsv', **rte))
val_dataloader = dict(dataset=dict(ann_file='val.tsv', **rte))  # the test rows have no labels
test_dataloader = val_dataloader
