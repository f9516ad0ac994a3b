# The paper's pair, BERT-base → 6 layers, stacked: a pass a level, then three of the labels; its
# threshold is unknown.
_base_ = '../pairs/kd_bert-base-bert6_sst2.py'
layer = 'model.bert.encoder.layer.{}'
parts = dict(q='.attention.self:query', k='.attention.self:key', hidden='')
# layer m of the student under 2m of the teacher, counted from 1
student = {f'{part}{m}': layer.format(m) + path for m in range(6) for part, path in parts.items()}
teacher = {
    f'{part}{m}': layer.format(2 * m + 1) + path for m in range(6) for part, path in parts.items()
}
model = dict(
    student=dict(taps=student),
    teacher=dict(taps=teacher),
    objectives={
        **{
            f'attention{m}': dict(
                loss=dict(type='AttentionKLLoss'),
                reads=dict(
                    student=f'student.q{m}',
                    student_key=f'student.k{m}',
                    teacher=f'teacher.q{m}',
                    teacher_key=f'teacher.k{m}',
                    mask='batch.tokens',
                    key_mask='batch.tokens',
                ),
            )
            for m in range(6)
        },
        **{
            f'cosine{m}': dict(loss=dict(type='HiddenCosineLoss', token='first'), on=f'hidden{m}')
            for m in range(6)
        },
    },
)
train_cfg = dict(max_iters=9 * 1895)
custom_hooks = _base_.custom_hooks + [
    dict(
        type='mmkd.ScheduleHook',
        levels=dict(
            type='stacked',
            levels=[[f'attention{m}', f'cosine{m}'] for m in range(6)] + [['soft', 'task']],
            length=1895,
        ),
    )
]
