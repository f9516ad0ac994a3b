"""Kinds of teachers that are made of other members: copies that follow, and combinations."""

from mmkd.distiller.members.kinds.combine import Combine as Combine
from mmkd.distiller.members.kinds.ema import EMA as EMA
from mmkd.distiller.members.kinds.follow import Follow as Follow
from mmkd.distiller.members.kinds.gate import Gate as Gate
from mmkd.distiller.members.kinds.last_batch import LastBatch as LastBatch
from mmkd.distiller.members.kinds.mean import Mean as Mean
from mmkd.distiller.members.kinds.min_ce import MinCE as MinCE
from mmkd.distiller.members.kinds.past import Past as Past
