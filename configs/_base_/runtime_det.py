# runtime.py for detectors: mmdet's scope and pictures, the best checkpoint by mAP.
_base_ = './runtime.py'
default_scope = 'mmdet'
visualizer = dict(type='DetLocalVisualizer')
default_hooks = dict(
    checkpoint=dict(save_best='coco/bbox_mAP', rule='greater'),
    visualization=dict(type='DetVisualizationHook'),
)
