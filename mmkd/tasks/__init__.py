"""Tasks: what a model is for, which labels it learns from, and how to generate them."""

# The task that is registered last is asked first.
# isort: off
from mmkd.tasks.base import Task as Task
from mmkd.tasks.unknown import Unknown as Unknown
from mmkd.tasks.classification import Classification as Classification
from mmkd.tasks.segmentation import Segmentation as Segmentation
from mmkd.tasks.detection import Detection as Detection
from mmkd.tasks.depth import Depth as Depth
from mmkd.tasks.text import Text as Text

# isort: on
from mmkd.tasks.base import check_same_classes as check_same_classes
from mmkd.tasks.base import check_same_places as check_same_places
from mmkd.tasks.base import task_of as task_of
from mmkd.tasks.base import task_of_config as task_of_config
from mmkd.tasks.described import Described as Described
from mmkd.tasks.generated import generated_batch as generated_batch
