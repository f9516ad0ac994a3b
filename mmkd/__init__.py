"""mmkd: knowledge distillation for dense prediction with mm configs."""
from mmkd import compat as compat  # first: the stack must be mended before it is used

# isort: split
from mmkd import adapters as adapters
from mmkd import datasets as datasets
from mmkd import hooks as hooks
from mmkd import losses as losses
from mmkd import metrics as metrics
from mmkd import models as models
from mmkd import modules as modules
from mmkd import noise as noise
from mmkd.distiller import Distiller as Distiller
from mmkd.export import export_student as export_student
from mmkd.loops import PeerTestLoop as PeerTestLoop
from mmkd.loops import PeerValLoop as PeerValLoop
from mmkd.pgd import PGDTestLoop as PGDTestLoop
from mmkd.phase_optim import PhaseOptimWrapperConstructor as PhaseOptimWrapperConstructor
from mmkd.phased_ddp import PhasedDDP as PhasedDDP
from mmkd.version import __version__ as __version__
