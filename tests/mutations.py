"""Deliberate faults in mmkd, each of which some quick test must catch: ``make mutate``.

Every fault is put into a copy of the package, never into the checkout. What survives is printed
with its reason, and the exit code is 1 then, as it is where a fault's place is not found.

``python tests/mutations.py [part of a path or a reason …]`` tries those alone.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BATTERY = ('tests/losses/test_battery.py',)
PHASES = ('tests/distiller/phases',)
ADVERSARIAL = ('tests/losses/adversarial/test_adversarial.py',)


class Fault(NamedTuple):
    """A fault.

    Attributes:
        file: Below ``mmkd/``.
        old: What stands there, once.
        new: What is put in its place.
        why: What is wrong then.
        tests: What pytest is asked to run.
    """

    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]


FAULTS = [
    Fault(
        'losses/features/activation_boundary.py',
        'torch.where(teacher > 0, 1.0, -1.0)',
        'torch.where(teacher > 0, -1.0, 1.0)',
        'neurons are on where the teacher has them off',
        BATTERY,
    ),
    Fault(
        'losses/features/point_wise.py',
        '(x.shape[1] * places) ** 0.5',
        '(1 * places) ** 0.5',
        'an image has unit size by places alone',
        BATTERY,
    ),
    Fault(
        'losses/factors/fitter.py',
        'valid[index : index + 1]',
        'valid[:1]',
        'every image counts where the first of its batch does',
        ('tests/losses/factors',),
    ),
    Fault(
        'losses/factors/paraphraser.py',
        'learned[0].div_(size)',
        'learned[0].div_(1.0)',
        'the paraphraser takes features of another size than it was fitted to',
        ('tests/losses/factors',),
    ),
    Fault(
        'losses/divergence/directions.py',
        "(log_s, log_t) if direction == 'forward' else (log_t, log_s)",
        "(log_t, log_s) if direction == 'forward' else (log_s, log_t)",
        'the divergence in the other direction',
        BATTERY,
    ),
    Fault(
        'losses/divergence/pixel_wise_kl.py',
        'per_image = of_image**2 * each',
        'per_image = each',
        'the factor τ² is lost',
        BATTERY,
    ),
    Fault(
        'losses/divergence/pixel_wise_kl.py',
        'z.std(1, keepdim=True)',
        'z.std(1, keepdim=True, correction=0)',
        'a standard deviation with C where C − 1 is meant',
        BATTERY,
    ),
    Fault(
        'losses/divergence/channel_wise_kl.py',
        'own.where(alive, own.new_ones(())).log()',
        'own.where(alive, own.new_ones(()))',
        'masked positions are not excluded from the softmax',
        BATTERY,
    ),
    Fault(
        'losses/divergence/channel_wise_kl.py',
        '(alive.sum().clamp(min=1) * groups)',
        '(len(student) * groups)',
        'images without a valid position count',
        ('tests/losses/divergence/test_channel_wise_kl.py',),
    ),
    Fault(
        'losses/divergence/dist.py',
        'live = _alive(p_s, own) & _alive(p_t, own)',
        'live = torch.ones_like(p_s[:, 0], dtype=torch.bool)',
        'a class that is constant counts',
        ('tests/losses/divergence/test_dist.py',),
    ),
    Fault(
        'losses/divergence/split.py',
        'z.add_(torch.where(front, lows[0], lows[1]))',
        'z.add_(lows[0])',
        'the rest is not normalised within itself',
        BATTERY,
    ),
    Fault(
        'losses/divergence/soft_jaccard.py',
        "sizes + apart if metric == 'jaccard'",
        "sizes if metric == 'jaccard'",
        'Dice where Jaccard is meant',
        BATTERY,
    ),
    Fault(
        'losses/divergence/weighted_soft_labels.py',
        'student.detach().log_softmax(1)',
        'student.log_softmax(1)',
        'the factor of a position learns too',
        ('tests/losses/divergence/test_weighted_soft_labels.py',),
    ),
    Fault(
        'losses/divergence/boosted_target_ce.py',
        'torch.expm1(power * log_t.exp().log1p())',
        '(power * log_t).exp()',
        'the label of OFA is not boosted',
        BATTERY,
    ),
    Fault(
        'losses/divergence/reliability_mix.py',
        'share = ours / total',
        'share = theirs / total',
        'the target is nearer to the side that errs more',
        BATTERY,
    ),
    Fault(
        'losses/divergence/reliability_mix.py',
        '(ours - label_ce(mixed, target)).clamp(min=0)',
        '(ours - label_ce(mixed, target))',
        'a target that is worse than the student takes from what is to be learned',
        BATTERY,
    ),
    Fault(
        'losses/divergence/mixed_exit.py',
        "s = say(self.exits['student'], ours, counts, pooled)",
        "s = say(self.exits['student'], ours, None, pooled)",
        'features without a label reach the gradient of the exit',
        ('tests/losses/divergence/test_mixed_exit.py',),
    ),
    Fault(
        'losses/divergence/mixed_exit.py',
        'torch.stack([label_ce(x, target).mean(1) for x in seen]).sum(0)',
        'label_ce(next(seen), target).mean(1)',
        "the teacher's exit learns nothing",
        ('tests/losses/divergence/test_mixed_exit.py',),
    ),
    Fault(
        'losses/features/residual_attention.py',
        'return change * change',
        'return change + 0 * change',
        'a residual keeps its own size',
        ('tests/losses/features/test_residual_attention.py',),
    ),
    Fault(
        'losses/features/residual_attention.py',
        'clamp(min=LEAST**2)',
        'clamp(min=1e-30)',
        'the direction of a residual of rounding is learned',
        ('tests/losses/features/test_residual_attention.py',),
    ),
    Fault(
        'losses/functional.py',
        'return x.detach() - factor',
        'return x.detach() + factor',
        'the reversed gradient is not reversed',
        ('tests/losses/divergence/test_learned_temperature_kl.py',),
    ),
    Fault(
        'losses/functional.py',
        'above = ~(weight <= 0)',
        'above = weight > 0',
        'a weight that is NaN is passed over, and a teacher that says NaN makes a loss of 0',
        ('tests/losses/test_non_finite.py',),
    ),
    Fault(
        'losses/queries/asking.py',
        'x[:, -model.num_queries :]',
        'x[:, : model.num_queries]',
        'the denoising part of a decoder is asked in place of its queries',
        ('tests/losses/queries',),
    ),
    Fault(
        'losses/queries/asking.py',
        'level_start_index=areas.cumsum(0) - areas',
        'level_start_index=areas.cumsum(0)',
        'a level of the memory begins where it ends',
        ('tests/losses/queries',),
    ),
    Fault(
        'losses/divergence/localization_kl.py',
        'x.repeat_interleave(edges, 0)',
        'x.repeat(edges, *[1] * (x.dim() - 1))',
        'the mask of an edge is that of another image',
        BATTERY,
    ),
    Fault(
        'losses/boxes/box_overlap.py',
        'there = ~(area(theirs[:2], theirs[2:]) <= LEAST)',
        'there = ~(area(theirs[:2], theirs[2:]) < 0)',
        'a box of the teacher without an area counts',
        ('tests/losses/boxes',),
    ),
    Fault(
        'losses/boxes/box_overlap.py',
        'decode(fill_masked(student, there), code, spread)',
        'decode(fill_masked(student, mask), code, spread)',
        'a box that does not count sends NaN back',
        (
            'tests/losses/test_non_finite.py::test_a_box_that_overflows_where_none_counts_is_as_if_'
            'it_were_not',
        ),
    ),
    Fault(
        'losses/boxes/overlap.py',
        'return 1 - iou + _part(around - both, around)',
        'return 1 - iou',
        'boxes that are apart have no gradient',
        ('tests/losses/boxes',),
    ),
    Fault(
        'losses/queries/query_answers.py',
        '(own - other).abs().mean(-1)',
        '(own - other).abs().sum(-1)',
        'the distance of boxes is a sum over their numbers',
        ('tests/losses/queries',),
    ),
    Fault(
        'losses/queries/query_answers.py',
        'half_x, half_y = width / 2, height / 2',
        'half_x, half_y = width, height',
        'boxes are twice as large',
        ('tests/losses/queries',),
    ),
    Fault(
        'losses/features/global_context.py',
        '(student - teacher + apart)',
        '(student - teacher - apart)',
        'the context is taken away from each place',
        ('tests/losses/features/test_global_context.py',),
    ),
    Fault(
        'losses/features/global_context.py',
        'scores.where(known | ~known.any(1, keepdim=True), -torch.inf)',
        'scores',
        'the context holds places that the mask leaves out',
        ('tests/losses/features/test_global_context.py',),
    ),
    Fault(
        'losses/functional.py',
        'known = known & (labels != ignore_index)',
        'pass',
        'the ignored label of a map is a class where there are so many',
        ('tests/losses/divergence/test_decoupled_kl.py',),
    ),
    Fault(
        'losses/divergence/pixel_wise_kl.py',
        'widen(student, teacher.detach())',
        'widen(student, teacher)',
        'the teacher gets a gradient',
        BATTERY,
    ),
    Fault(
        'losses/functional.py',
        'return x if mask is None else torch.where(mask.unsqueeze(1), x, x.new_zeros(()))',
        'return x',
        'a mask that is ignored',
        BATTERY,
    ),
    Fault(
        'losses/functional.py',
        'return x[:, 0].numel() if mask is None else mask.sum().clamp(min=1)',
        'return 1',
        'a sum where the mean is meant',
        BATTERY,
    ),
    Fault(
        'losses/relations/pair_wise_affinity.py',
        'half = a.mT @ b',
        'half = a @ b.mT',
        'a swapped axis: channels are compared, not places',
        BATTERY,
    ),
    Fault(
        'losses/relations/pair_wise_affinity.py',
        'avg_pool2d(x, size, size, ceil_mode=True',
        'avg_pool2d(x, size, size, ceil_mode=False',
        'patches at the border are left out',
        ('tests/losses/relations/test_pair_wise_affinity.py',),
    ),
    Fault(
        'losses/relations/attention_kl.py',
        'divergence.sum() / divergence.shape[1] / valid',
        'divergence.sum() / valid',
        'a sum over heads where the mean is meant',
        BATTERY,
    ),
    Fault(
        'losses/quest/assignment_kl.py',
        'w = unit(weight.to(dtype))',
        'w = weight.to(dtype)',
        'no cosine: the length of the weights counts',
        BATTERY,
    ),
    Fault(
        'losses/ensemble/statistics.py',
        'mean.mul_(1 - 1 / self.count).add_(x, alpha=1 / self.count)',
        'mean.add_(x)',
        'sums over members where means are meant',
        BATTERY,
    ),
    Fault(
        'losses/adversarial/modes.py',
        'F.relu(1 + fake)',
        'F.relu(1 - fake)',
        'a flipped sign in the hinge of the critic',
        ADVERSARIAL,
    ),
    Fault(
        'losses/adversarial/adversarial.py',
        'maps = widen(student.detach(), teacher.detach())',
        'maps = widen(student, teacher)',
        "the critic's loss moves the student",
        ADVERSARIAL,
    ),
    Fault(
        'losses/adversarial/adversarial.py',
        'with no_autocast(student), frozen(self.critic):',
        'with no_autocast(student):',
        "the student's loss moves the critic",
        ADVERSARIAL,
    ),
    Fault(
        'losses/adversarial/penalty.py',
        '(norm - 1).square()',
        'norm.square()',
        'the penalty pulls slopes to 0, not to 1',
        ADVERSARIAL,
    ),
    Fault(
        'utils/resize.py',
        "mode='bilinear', align_corners=False",
        "mode='nearest'",
        'maps are resized in another way',
        ('tests/connectors',),
    ),
    Fault(
        'utils/resize.py',
        'return any(old > 2 * new for',
        'return any(old > 99 * new for',
        'a map that shrinks by more than 2 loses places',
        ('tests/connectors',),
    ),
    Fault(
        'distiller/objectives/objective.py',
        'self.weight * self._call(self.loss, record)',
        'self._call(self.loss, record)',
        'weights of objectives are ignored',
        ('tests/distiller/objectives', 'tests/distiller/test_distiller.py'),
    ),
    Fault(
        'distiller/members/teacher.py',
        'member.build() if model is None else model).eval()',
        'member.build() if model is None else model)',
        'a teacher in train mode',
        ('tests/distiller/members/test_teacher.py',),
    ),
    Fault(
        'distiller/members/teacher.py',
        '    def __deepcopy__(self,',
        '    def _deepcopy(self,',
        'a copy of the Distiller copies its teachers',
        ('tests/distiller/test_distiller.py',),
    ),
    Fault(
        'distiller/members/renormalise.py',
        'x = inputs.flip(1) if self.flip else inputs',
        'x = inputs',
        'a teacher of RGB sees BGR',
        ('tests/distiller/members',),
    ),
    Fault(
        'distiller/taps/taps.py',
        '        handle.remove()',
        '        handle',
        'hooks stay installed after a forward',
        ('tests/distiller/taps',),
    ),
    Fault(
        'distiller/draws.py',
        '            np.random.set_state(states[1])',
        '            pass',
        "numpy's generator is not restored",
        ('tests/distiller/test_draws.py',),
    ),
    Fault(
        'distiller/phases/gradients.py',
        'g if b is None else b if g is None else b + g',
        'g if b is None else b if g is None else g',
        'accumulated gradients are lost',
        PHASES,
    ),
    Fault(
        'distiller/phases/gradients.py',
        '        for phase in due:\n            wrapper =',
        '        for phase in reversed(due):\n            wrapper =',
        'optimizers step in the other order',
        PHASES,
    ),
    Fault(
        'tasks/labels.py',
        '((labels < 0) | (labels >= num_classes))',
        '(labels < 0)',
        'a label that no class has is not refused',
        ('tests/tasks', 'tests/structures'),
    ),
    Fault(
        'tasks/base.py',
        'return batch.labels != self.ignored(batch)',
        'return batch.labels == batch.labels',
        'ignored labels count',
        ('tests/tasks', 'tests/structures'),
    ),
    Fault(
        'noise/label_flip.py',
        'valid & (chance < self.rate)',
        '(chance < self.rate)',
        'ignored labels are flipped',
        ('tests/noise/test_noise.py',),
    ),
    Fault(
        'models/decode_heads/depth_head.py',
        '(places.view(-1, 1, 1) + 0.5)',
        'places.view(-1, 1, 1)',
        'depth is that of the near edge of a bin, not of its centre',
        ('tests/models/decode_heads',),
    ),
    Fault(
        'engine/hooks/exact_resume.py',
        'sampler.skip(runner.iter * loop.dataloader.batch_size)',
        'sampler.skip(runner.iter)',
        'a resumed run begins at other images',
        ('tests/engine/hooks/test_exact_resume.py',),
    ),
    Fault(
        'engine/hooks/exact_resume.py',
        'TRAIN_STEP, get_rank(), runner.iter)',
        'TRAIN_STEP, get_rank(), 0)',
        'every step draws the same numbers',
        ('tests/engine/hooks/test_exact_resume.py',),
    ),
    Fault(
        'engine/hooks/exact_resume.py',
        'unit = epoch if hook.by_epoch else 1',
        'unit = 1',
        'an accumulation that an epoch cuts is not seen',
        ('tests/engine/hooks/test_exact_resume.py',),
    ),
    Fault(
        'distiller/distiller.py',
        'if not self.task_weight:',
        'if False:',
        'a task loss that is left out and NaN ends the run',
        ('tests/distiller/test_distiller.py',),
    ),
    Fault(
        'distiller/distiller.py',
        'any(id(p) in moved for p in run.student.parameters())',
        'bool(moved)',
        "a copy follows another student's optimizer",
        ('tests/distiller/members/test_kinds.py',),
    ),
    Fault(
        'noise/input_mixup.py',
        'larger = tuple(map(max,',
        'larger = tuple(map(min,',
        'a mixture is as small as the smaller of its images',
        ('tests/noise/test_input_mixup.py',),
    ),
    Fault(
        'apis/compare/rows.py',
        'base = statistics.fmean(alone[seed] for seed in seeds)',
        'base = statistics.fmean(alone.values())',
        'the gap closed is of all seeds, whoever has them',
        ('tests/apis/test_compare.py',),
    ),
    Fault(
        'engine/hooks/schedule.py',
        'value = self.schedules[text](runner.iter)',
        'value = self.schedules[text](runner.iter + 1)',
        'schedules run one iteration ahead',
        ('tests/engine/hooks/test_schedule.py',),
    ),
    Fault(
        'engine/hooks/nan_stop.py',
        '        if bad:',
        '        if len(bad) > 1:',
        'a single loss that is NaN stops no run',
        ('tests/engine/hooks/test_nan_stop.py',),
    ),
    Fault(
        'evaluation/functional/calibration.py',
        '(confidence - right).abs().sum()',
        '(confidence - right).sum().abs()',
        'bins that are too sure make up for those that are not sure enough',
        ('tests/evaluation/functional/test_calibration.py',),
    ),
    Fault(
        'evaluation/functional/uncertainty.py',
        'torch.digamma(alpha + 1)',
        'torch.digamma(alpha)',
        'the uncertainty of data is that of another Dirichlet',
        ('tests/evaluation/functional/test_uncertainty.py',),
    ),
    Fault(
        'evaluation/functional/pgd.py',
        'moved.detach() + step',
        'moved.detach() - step',
        'the attack helps',
        ('tests/evaluation/functional', 'tests/engine/runner/test_pgd_loop.py'),
    ),
    Fault(
        'utils/checkpoints.py',
        '        return read_torch_file(file)',
        "        return torch.load(file, map_location='cpu', weights_only=False)",
        'checkpoints run their code',
        ('tests/utils/test_torch_file.py', 'tests/utils/test_checkpoints.py'),
    ),
    Fault(
        'utils/atomic.py',
        '        os.replace(part, path)',
        '        path.write_bytes(data)',
        'a file is written where the old one still lies',
        ('tests/engine/hooks/test_safe_checkpoint.py', 'tests/utils/test_checkpoints.py'),
    ),
    Fault(
        'utils/averages.py',
        'statistics.stdev(values)',
        'statistics.pstdev(values)',
        "the standard deviation of the whole, not a sample's",
        ('tests/apis/test_report.py',),
    ),
    Fault(
        'losses/divergence/instance_temperature.py',
        'torch.cat([theirs, ours], 1)',
        'torch.cat([ours, theirs], 1)',
        "what says an image's temperature takes the student for the teacher",
        ('tests/losses/divergence/test_instance_temperature.py',),
    ),
    Fault(
        'losses/ensemble/proxy_dirichlet.py',
        'slope.sub_(y * trigamma)',
        'slope',
        'half of the gradient between Dirichlet distributions is lost',
        ('tests/losses/test_second_derivatives.py',),
    ),
    Fault(
        'methods/ctkd.py',
        'pair.iterations // 24',
        'pair.iterations // 2',
        'the curriculum of CTKD takes half of the run',
        ('tests/methods/test_divergence_presets.py',),
    ),
    Fault(
        'methods/fitnet.py',
        'weight / ratio ** (last - n)',
        'weight / ratio ** (n - 1)',
        'the first stage has the weight of the last',
        ('tests/methods/test_point_wise.py', 'tests/methods/test_presets.py'),
    ),
    Fault(
        'methods/plan.py',
        "return f'{names.get(name, name)}{dot}{rest}'",
        "return f'{name}{dot}{rest}'",
        'a schedule names an objective that was renamed',
        ('tests/methods/test_expand.py', 'tests/methods/test_divergence_presets.py'),
    ),
    Fault(
        'methods/ramps.py',
        'points.append((end, 0.0))',
        'points.append((end, 1.0))',
        'a weight that should fall stays',
        ('tests/methods/test_ramps.py',),
    ),
    Fault(
        'apis/deploy/check.py',
        'return self.agreement >= LEAST_AGREEMENT and near',
        'return self.agreement >= LEAST_AGREEMENT',
        'a file whose outputs differ is kept where its labels agree',
        ('tests/apis/test_deploy.py',),
    ),
    Fault(
        'apis/deploy/check.py',
        'self.difference <= LARGEST_SHARE * self.largest',
        'self.difference <= LARGEST_SHARE',
        'how far outputs may differ does not depend on their size',
        ('tests/apis/test_deploy.py',),
    ),
    Fault(
        'apis/page/curves.py',
        '[known for known in values if known >= step]',
        '[known for known in values if known > step]',
        'of a run begun anew the old value of its first iteration stays',
        ('tests/apis/test_page.py',),
    ),
    Fault(
        'apis/page/curves.py',
        'set.intersection(*map(set, values))',
        'set.union(*map(set, values))',
        'the mean is over runs that are not there yet',
        ('tests/apis/test_page.py',),
    ),
    Fault(
        'apis/page/differences.py',
        'math.inf if math.isnan(disagreement) else -disagreement',
        'math.inf if math.isnan(disagreement) else disagreement',
        'the images that are most alike are shown',
        ('tests/apis/test_page.py',),
    ),
    Fault(
        'apis/commands/report.py',
        '(args.into is None) != (args.name is None)',
        'args.into is None and args.name is not None',
        'a report is written into a place without a name',
        ('tests/test_main.py::test_a_wrong_command_line',),
    ),
    Fault(
        'apis/commands/store.py',
        'if args.out and args.work_dir:',
        'if args.out and not args.work_dir:',
        'two folders are taken for what is stored, one is refused',
        ('tests/apis/test_store.py', 'tests/apis/test_bad_input_tools.py'),
    ),
]


def misplaced(faults: Iterable[Fault]) -> list[str]:
    """Return what is wrong with the places of faults: each stands once in its file."""
    found = []
    for fault in faults:
        path = ROOT / 'mmkd' / fault.file
        times = path.read_text().count(fault.old) if path.is_file() else 0
        if times != 1:
            found.append(f'{fault.file} holds {times} times: {fault.old.strip()!r}')
    return found


def run(package: Path, tests: Iterable[str]) -> subprocess.CompletedProcess:
    """Run tests with the package of a folder in place of the checkout's."""
    command = [sys.executable, '-m', 'pytest', '-x', '-p', 'no:cacheprovider', '-n', '0']
    command += ['-m', 'not slow', '-o', f'pythonpath={package} . tests', *dict.fromkeys(tests)]
    env = {**os.environ, 'PYTHONPATH': str(package)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if f'mmkd: {package}' not in done.stdout:
        raise RuntimeError(f'pytest did not use the copy:\n{done.stdout[-2000:]}{done.stderr}')
    return done


def copy_of(folder: Path, fault: Fault | None = None) -> Path:
    """Copy the package, with a fault in it."""
    ignored = shutil.ignore_patterns('__pycache__', '.mim')
    shutil.copytree(ROOT / 'mmkd', folder / 'mmkd', ignore=ignored)
    (folder / 'mmkd' / '.mim').symlink_to(ROOT / 'mmkd' / '.mim')
    if fault:
        path = folder / 'mmkd' / fault.file
        path.write_text(path.read_text().replace(fault.old, fault.new))
    return folder


def catcher(fault: Fault) -> str:
    """Return the first test that fails; '' where none does."""
    with tempfile.TemporaryDirectory() as folder:
        done = run(copy_of(Path(folder), fault), fault.tests)
    if not done.returncode:
        return ''
    lines = [line for line in done.stdout.splitlines() if line.startswith(('FAILED', 'ERROR'))]
    return lines[0].split(' - ')[0].partition(' ')[2] if lines else done.stdout[-300:]


def main(wanted: list[str]) -> int:
    faults = [f for f in FAULTS if not wanted or any(w in f.file or w in f.why for w in wanted)]
    wrong = misplaced(faults)
    if wrong:
        print('\n'.join(['These places are not found:', *wrong]))
        return 1
    with tempfile.TemporaryDirectory() as folder:
        whole = run(copy_of(Path(folder)), [test for fault in faults for test in fault.tests])
    if whole.returncode:
        print(f'Without a fault the tests fail:\n{whole.stdout[-3000:]}')
        return 1
    survivors = 0
    with ThreadPoolExecutor(int(os.environ.get('WORKERS', '2'))) as pool:
        for fault, test in zip(faults, pool.map(catcher, faults), strict=True):
            survivors += not test
            print(f'{fault.file}: {fault.why}\n    {test or "SURVIVES"}', flush=True)
    print(f'{len(faults) - survivors} of {len(faults)} faults are caught')
    return int(survivors > 0)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
