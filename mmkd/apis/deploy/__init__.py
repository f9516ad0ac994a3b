"""A student as one file that runs without mmkd, mmengine and its config, checked and timed."""

from mmkd.apis.deploy.run import deploy as deploy
from mmkd.apis.deploy.run import deploy_student as deploy_student
