# All matched layers at once (ID-all): attention and [CLS] of student layer m under those of teacher
# layer 2m.
_base_ = '../pairs/soft_minilm-minilm3_sst2.py'
layer = 'model.bert.encoder.layer.{}'
# by head, before dropout, any kernel
parts = dict(q='.attention.self:query', k='.attention.self:key', hidden='')
student = {f'{part}{m}': layer.format(m) + path for m in range(3) for part, path in parts.items()}
teacher = {
    f'{part}{m}': layer.format(2 * m + 1) + path for m in range(3) for part, path in parts.items()
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
            for m in range(3)
        },
        **{
            f'cosine{m}': dict(loss=dict(type='HiddenCosineLoss', token='first'), on=f'hidden{m}')
            for m in range(3)
        },
    },
)
