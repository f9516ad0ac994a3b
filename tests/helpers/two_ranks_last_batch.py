"""What one rank of two does where the last batch comes again: each repeats its own images."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from helpers.tiny import batch, build, segmentor, sgd

from mmkd.engine.hooks import LastBatchHook
from mmkd.engine.runner import PhasedDDP


def work(rank: int, folder: Path) -> None:
    """Step twice on images of this rank's own; write what was heard, and what a checkpoint holds
    of it, into ``rank{rank}.json``.
    """
    torch.manual_seed(0)
    student = dict(model=segmentor(2, num_classes=3, size=32, auxiliary=False))
    config = dict(type='mmkd.Distiller', student=student, method='dlb')
    model = build(config)
    wrapped, wrapper, hook = PhasedDDP(model), sgd(model, lr=0.1), LastBatchHook()
    loop = SimpleNamespace(max_iters=2, val_interval=99)
    runner = SimpleNamespace(model=model, iter=0, train_loop=loop, hooks=[])
    hook.before_train(runner)
    rule = model.combined['last']
    for runner.iter in range(2):
        data = batch(2, 32, 3, seed=10 * runner.iter + rank)
        hook.before_train_iter(runner, runner.iter, data)
        logs = wrapped.train_step(data, wrapper)
        hook.after_train_iter(runner, runner.iter, data)
    heard = rule.heard['logits'].flatten().tolist()
    state = {key: x for key, x in model.state_dict().items() if key.startswith('combined.')}
    other = build(config)
    other.load_state_dict(model.state_dict())
    knows = other.combined['last'].knows(['logits'])
    kept = other.combined['last'].memory[rank]['logits'].flatten().tolist()
    found = dict(
        heard=heard,
        images=len(data['inputs']),
        loss=float(logs['dlb.loss']),
        state={key: x.flatten().tolist() for key, x in state.items()},
        knows=knows,
        kept=kept,
    )
    (folder / f'rank{rank}.json').write_text(json.dumps(found))
