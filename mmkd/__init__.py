"""mmkd: knowledge distillation for dense prediction with mm configs.

Importing it registers every component. The command ``mmkd`` alone does so later, once it knows
what it is to do: its help answers without torch.
"""

import sys

from mmkd.utils.command_line import starts_command
from mmkd.version import __version__ as __version__

if not starts_command(sys.argv, sys.orig_argv):
    from mmkd.apis.components import Distiller as Distiller
    from mmkd.apis.components import FitHook as FitHook
    from mmkd.apis.components import PeerTestLoop as PeerTestLoop
    from mmkd.apis.components import PeerValLoop as PeerValLoop
    from mmkd.apis.components import PGDTestLoop as PGDTestLoop
    from mmkd.apis.components import PhasedDDP as PhasedDDP
    from mmkd.apis.components import PhaseOptimWrapperConstructor as PhaseOptimWrapperConstructor
    from mmkd.apis.components import VocabularyHook as VocabularyHook
    from mmkd.apis.components import export_student as export_student
