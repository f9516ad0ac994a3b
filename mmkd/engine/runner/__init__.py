"""What OpenMMLab calls runner: loops of evaluation, and a model wrapper for several processes."""

from mmkd.engine.runner.peer_loops import PeerTestLoop as PeerTestLoop
from mmkd.engine.runner.peer_loops import PeerValLoop as PeerValLoop
from mmkd.engine.runner.pgd_loop import PGDTestLoop as PGDTestLoop
from mmkd.engine.runner.phased_ddp import PhasedDDP as PhasedDDP
