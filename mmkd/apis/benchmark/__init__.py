"""What a step of distillation costs, beside its members alone and with a teacher's options."""

from mmkd.apis.benchmark.methods import AIMS as AIMS
from mmkd.apis.benchmark.methods import method_costs as method_costs
from mmkd.apis.benchmark.pair import Options as Options
from mmkd.apis.benchmark.pair import Pair as Pair
from mmkd.apis.benchmark.run import PEER_TARGETS as PEER_TARGETS
from mmkd.apis.benchmark.run import TARGETS as TARGETS
from mmkd.apis.benchmark.run import VARIANTS as VARIANTS
from mmkd.apis.benchmark.run import ratios as ratios
from mmkd.apis.benchmark.run import run as run
from mmkd.apis.benchmark.run import run_variants as run_variants
from mmkd.utils.timing import environment as environment
