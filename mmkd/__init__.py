"""mmkd: knowledge distillation for dense prediction with mm configs."""
from mmkd import compat as compat  # first: the stack must be mended before it is used
from mmkd import datasets as datasets
from mmkd import hooks as hooks
from mmkd import losses as losses
from mmkd import models as models
from mmkd import modules as modules
from mmkd.version import __version__ as __version__
