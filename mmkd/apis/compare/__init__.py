"""Which method for a pair: every one trained alike, tested, and put into a table."""

from mmkd.apis.compare.comparison import EVERY as EVERY
from mmkd.apis.compare.comparison import Comparison as Comparison
from mmkd.apis.compare.comparison import compare as compare
