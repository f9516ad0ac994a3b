# RTE, does one sentence follow from another: the teacher, MiniLM of 6 layers fine-tuned on all
# 2,490 rows.
_base_ = './teacher_minilm_sst2.py'
rte = dict(
    data_root='data/text/rte',
    text=('sentence1', 'sentence2'),
    limit=None,
    metainfo=dict(classes=('entailment', 'not_entailment')),
)
train_dataloader = dict(dataset=dict(ann_file='train.tsv', **rte))
val_dataloader = dict(dataset=dict(ann_file='val.tsv', **rte))  # the test rows have no labels
test_dataloader = val_dataloader
