from mmkd.benchmark.pair import Options as Options
from mmkd.benchmark.pair import Pair as Pair
from mmkd.benchmark.run import TARGETS as TARGETS
from mmkd.benchmark.run import VARIANTS as VARIANTS
from mmkd.benchmark.run import ratios as ratios
from mmkd.benchmark.run import run as run
from mmkd.benchmark.run import run_variants as run_variants
from mmkd.timing import environment as environment
