# What every run needs: logging, safe checkpoints, exact resume, a stop at the first NaN.
default_scope = 'mmseg'
custom_imports = dict(imports=['mmkd'], allow_failed_imports=False)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # timeout in seconds: one rank fits a vocabulary while the others wait
    dist_cfg=dict(backend='nccl', timeout=7200),
)
randomness = dict(seed=0)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmkd.SafeCheckpointHook',
        by_epoch=False,
        interval=4000,
        max_keep_ckpts=2,
        save_best='mIoU',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
custom_hooks = [
    dict(type='mmkd.LengthCheckHook'),
    dict(type='mmkd.ExactResumeHook'),
    dict(type='mmkd.NaNStopHook'),
    dict(type='mmkd.TeacherCheckHook'),
    dict(type='mmkd.ExportStudentHook'),
    dict(type='mmkd.RunRecordHook'),
    # looks after images without labels, where there are any
    dict(type='mmkd.UnlabelledHook'),
    # fits the vocabularies of QUEST; other runs are left alone
    dict(type='mmkd.VocabularyHook'),
]
