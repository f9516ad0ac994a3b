"""Every component of mmkd: once this is imported, all are registered and the old names known."""

import sys

from mmkd import compat as compat  # first: the stack must be mended before it is used

# isort: split
from mmkd import connectors as connectors
from mmkd import datasets as datasets
from mmkd import evaluation as evaluation
from mmkd import losses as losses
from mmkd import models as models
from mmkd import noise as noise
from mmkd import where as where
from mmkd.distiller import Distiller as Distiller
from mmkd.distiller import export_student as export_student
from mmkd.engine import hooks as hooks
from mmkd.engine.optimizers import PhaseOptimWrapperConstructor as PhaseOptimWrapperConstructor
from mmkd.engine.runner import PeerTestLoop as PeerTestLoop
from mmkd.engine.runner import PeerValLoop as PeerValLoop
from mmkd.engine.runner import PGDTestLoop as PGDTestLoop
from mmkd.engine.runner import PhasedDDP as PhasedDDP
from mmkd.losses.fitted.hook import FitHook as FitHook
from mmkd.losses.quest.hook import VocabularyHook as VocabularyHook
from mmkd.utils.aliases import add_aliases

NAMES = (
    'Distiller',
    'FitHook',
    'PGDTestLoop',
    'PeerTestLoop',
    'PeerValLoop',
    'PhaseOptimWrapperConstructor',
    'PhasedDDP',
    'VocabularyHook',
    'export_student',
)
_package = sys.modules['mmkd']
for _name in NAMES:  # the command imports mmkd without them
    setattr(_package, _name, globals()[_name])
add_aliases(_package)
