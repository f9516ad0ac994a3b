# The runtime of pairs with tables of many methods: without TeacherCheckHook, since mmkd compare tests
# the teacher once for all rows, and without images that have no labels.
_base_ = './runtime.py'
custom_hooks = [
    dict(type='mmkd.LengthCheckHook'),
    dict(type='mmkd.ExactResumeHook'),
    dict(type='mmkd.NaNStopHook'),
    dict(type='mmkd.ExportStudentHook'),
    dict(type='mmkd.RunRecordHook'),
    dict(type='mmkd.VocabularyHook'),
]
