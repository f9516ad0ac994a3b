"""The demo from its trainings to its pictures."""

import json
import sys

import torch

from mmkd.apis.demo.pictures import draw_curves, draw_scenes
from mmkd.apis.demo.story import Story, run_all, table, verdict
from mmkd.utils.tables import make_console, print_table


def run(story: Story) -> None:
    """Train, print the table, save the pictures, the curves and the numbers."""
    # nets this small gain little from a second thread, and numbers stay the same everywhere
    torch.set_num_threads(1)
    console = make_console()
    console.file = sys.stdout  # else the bar would follow the redirection of what mmengine prints
    rows = run_all(story, console)
    columns = ('', 'mIoU', 'parameters', 'training step')
    print_table(
        console, 'Channel-wise distillation on DigitScenes, test scenes', columns, table(rows)
    )
    console.print(verdict(rows))
    folder = story.work_dir
    with story.quiet():
        draw_scenes(story, folder / 'scenes.png')
        draw_curves(rows, folder / 'curves.png')
    (folder / 'results.json').write_text(json.dumps(rows, indent=1))
    console.print(f'Pictures, numbers and logs: {folder}/scenes.png, curves.png, results.json, */')
