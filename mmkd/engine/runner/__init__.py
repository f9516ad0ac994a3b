"""Loops of evaluation, and the wrapper of distributed runs with phases."""

from mmkd.engine.runner.peer_loops import PeerTestLoop as PeerTestLoop
from mmkd.engine.runner.peer_loops import PeerValLoop as PeerValLoop
from mmkd.engine.runner.pgd_loop import PGDTestLoop as PGDTestLoop
from mmkd.engine.runner.phased_ddp import PhasedDDP as PhasedDDP
