"""The whole story on the built-in data set, in a few minutes: its trainings and its pictures."""

from mmkd.apis.demo.story import Story as Story
from mmkd.apis.demo.story import run_all as run_all
from mmkd.apis.demo.story import table as table
from mmkd.apis.demo.story import verdict as verdict
