"""mmkd: knowledge distillation for dense prediction with mm configs."""

import sys

from mmkd import compat as compat  # first: the stack must be mended before it is used

# isort: split
from mmkd import connectors as connectors
from mmkd import datasets as datasets
from mmkd import evaluation as evaluation
from mmkd import losses as losses
from mmkd import models as models
from mmkd import noise as noise
from mmkd.distiller import Distiller as Distiller
from mmkd.distiller import export_student as export_student
from mmkd.engine import hooks as hooks
from mmkd.engine.optimizers import PhaseOptimWrapperConstructor as PhaseOptimWrapperConstructor
from mmkd.engine.runner import PeerTestLoop as PeerTestLoop
from mmkd.engine.runner import PeerValLoop as PeerValLoop
from mmkd.engine.runner import PGDTestLoop as PGDTestLoop
from mmkd.engine.runner import PhasedDDP as PhasedDDP
from mmkd.losses.quest.hook import VocabularyHook as VocabularyHook
from mmkd.utils.aliases import add_aliases
from mmkd.version import __version__ as __version__

add_aliases(sys.modules[__name__])
