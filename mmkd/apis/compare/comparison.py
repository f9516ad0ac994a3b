"""The comparison from its settings to its table."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from rich.console import Console

from mmkd.apis.compare.jobs import Job, Slots, run_jobs
from mmkd.apis.compare.recipes import (
    check_files,
    check_same_test,
    check_same_validation,
    digests_of_sets,
    read_recipe_config,
    teaches,
)
from mmkd.apis.compare.records import (
    check_run,
    is_run_of,
    read_note,
    write_config,
    write_note,
)
from mmkd.apis.compare.settings import (
    LABELS_ALONE,
    digest_of_pair,
    digest_of_run,
    is_mixed,
    iterations_of,
    named,
    read_pair_config,
    run_config,
    teacher_configs,
)
from mmkd.apis.compare.specs import Spec
from mmkd.apis.compare.table import NAME, Results, read_results, write_results
from mmkd.apis.compare.tuning import (
    FILE,
    check_validation,
    choose,
    main_metric_of,
    name_of,
    read_tuned,
    validation_of,
)
from mmkd.apis.prepare import has_gpu
from mmkd.apis.report import usual_metric
from mmkd.apis.results import is_finite
from mmkd.utils.checks import nearest
from mmkd.utils.progress import track
from mmkd.utils.tables import print_table
from mmkd.utils.work_dir import hold, release

TEACHER, ON_VALIDATION = 'teacher', 'teacher_on_validation'
PROBED = 40  # iterations that a step is measured by
EVERY = '*'  # of rows to be tuned: all that have weights


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how.

    Args:
        pair: Config of a Distiller: its members, data, schedule and runtime.
        specs: The rows.
        seeds: Of every row.
        work_dir: Folder that everything is written into.
        iters: Length of every run; None: the pair's.
        seconds: Of training steps, in place of a length: of a GPU's wall time, or of the processor.
        jobs: Runs at a time.
        tuned: Texts of the rows whose weights are tuned; :data:`EVERY` is all that have any.
        factors: Of the weights, that are tried.
        options: Settings of the pair that are overridden.
        metric: That is compared; None: the first usual one.
        overwrite: Whether runs of other settings are begun anew.
        shares_every: Iterations between two measurements of gradient shares; None: there is none.
        amp: Mixed precision for every optimizer of every run.
    """

    pair: str
    specs: tuple[Spec, ...]
    seeds: tuple[int, ...]
    work_dir: Path
    iters: int | None = None
    seconds: float | None = None
    jobs: int = 1
    tuned: tuple[str, ...] = ()
    factors: tuple[float, ...] = (0.3, 1.0, 3.0)
    options: dict[str, Any] = field(default_factory=dict)
    metric: str | None = None
    overwrite: bool = False
    shares_every: int | None = None
    amp: bool = False


def compare(
    comparison: Comparison, console: Console, table_only: bool = False, every_seed: bool = False
) -> bool:
    """Run what is missing, and write the table, the plot and the config of the best.

    Args:
        comparison: What is compared.
        console: Where it is told.
        table_only: Whether the records that are there make the table, and nothing is run.
        every_seed: Whether that table is of all seeds that lie there, and not of the comparison's.

    Returns:
        Whether every run has a record; of a table alone nothing is asked.

    Raises:
        FileExistsError: A run of other settings lies in a folder.
        KeyError: There is no such method or metric; names the nearest one.
        ValueError: A pair that cannot be compared, or a method that it is not made for.
    """
    MMLogger.get_instance('mmkd_compare', log_level='ERROR')
    if not table_only:  # of one that is at work the table so far may be had
        hold(comparison.work_dir)
    try:
        work = _Work(comparison, console, table_only)
        if not table_only:
            work.run()
        seeds = None if every_seed else comparison.seeds
        results = read_results(comparison.work_dir, comparison.specs, seeds)
        if not results.all_records:
            raise ValueError(_nothing_there(comparison.work_dir, table_only))
        _finish(results, work, console)
        return not work.died and (table_only or not results.missing)
    finally:
        release(comparison.work_dir)
        with suppress(OSError):  # it holds something; else nothing was run
            comparison.work_dir.rmdir()


def _nothing_there(work_dir: Path, table_only: bool) -> str:
    mend = (
        'the same command without --table-only'
        if table_only
        else 'what the lines of the runs that died say, above and in their train.txt'
    )
    return f'{work_dir} holds no record of a run, so there is no table to write. Mend: {mend}'


def _finish(results: Results, work: '_Work', console: Console) -> None:
    comparison = work.comparison
    table = write_results(results, comparison.work_dir, comparison.metric, work.pair)
    print_table(console, f'{comparison.pair}: {table.metric}', table.titles, table.lines)
    said = [*table.notes, f'Written: {comparison.work_dir}/{NAME}.md, .json, .png, .svg']
    console.print('\n'.join(said), markup=False, highlight=False, soft_wrap=True)


class _Work:
    """The runs of a comparison."""

    def __init__(self, comparison: Comparison, console: Console, table_only: bool = False) -> None:
        self.comparison, self.console = comparison, console
        self.pair = read_pair_config(comparison.pair, comparison.options)
        init_default_scope(self.pair.get('default_scope') or 'mmseg')
        self.digest = digest_of_pair(self.pair)
        self.slots = Slots(comparison.jobs)
        self.died: list[str] = []
        # a table is made of records, wherever the files of their recipes are by now
        wanted = [spec for spec in comparison.specs if not table_only or spec.recipe is None]
        self.bases = {spec.text: self._read_base(spec) for spec in wanted}
        self.tuned = self._read_tuned()
        for spec in wanted:
            self._check(spec)
        if not table_only:  # the teachers of the pair are tested whatever the rows are
            check_files(self.pair, comparison.pair)

    def _read_base(self, spec: Spec) -> Config:
        """Return what the runs of a row are made of."""
        return self.pair if spec.recipe is None else read_recipe_config(spec)

    def _read_tuned(self) -> tuple[str, ...]:
        """Return the texts of the rows whose weights are tuned."""
        asked, specs = self.comparison.tuned, self.comparison.specs
        weighted = [spec.text for spec in specs if self._has_weights(spec)]
        if asked == (EVERY,):
            asked = tuple(weighted)
        texts = [spec.text for spec in specs]
        for text in asked:
            if text not in weighted:
                what = 'a row without weights' if text in texts else 'no method of --methods'
                raise ValueError(
                    f'--tune {text}: it is {what}{nearest(text, weighted)} (got '
                    f'{", ".join(texts)}). Mend: one of those with weights'
                )
        if asked:
            check_validation(self.pair)
        return asked

    def _has_weights(self, spec: Spec) -> bool:
        if spec.recipe is None:
            return bool(spec.methods)
        return spec.text in self.bases and teaches(self.bases[spec.text])

    def _check(self, spec: Spec) -> None:
        """Refuse what would end a row in the middle, before anything is run."""
        measured = self.comparison.seconds is not None
        iters = PROBED if measured else self.comparison.iters
        cfg = self._config(spec, self.comparison.seeds[0], iters)
        if spec.folder in self._teacher_folders():
            raise ValueError(
                f'--methods {spec.text}: its folder would be that of the test of a teacher. Mend: '
                f'a name of its own, NAME={spec.recipe}'
            )
        if spec.recipe is None:
            return
        check_same_test(self.pair, cfg, spec)
        if spec.text in self.tuned:
            check_same_validation(self.pair, cfg, spec)

    def run(self) -> None:
        """Run what has no record yet: teacher, probes, weights, then all seeds."""
        comparison = self.comparison
        if is_mixed(self.pair) and any(spec.alone for spec in comparison.specs):
            self._tell(f'alone: {LABELS_ALONE}')
        lengths = {spec.text: comparison.iters for spec in comparison.specs}
        if comparison.seconds is not None:
            lengths = self._probe()
        ready = [spec for spec in comparison.specs if spec.text in lengths]
        tuned = [spec for spec in ready if spec.text in self.tuned]
        plain = [spec for spec in ready if spec not in tuned]
        self._check_metric(comparison.metric)
        for spec in tuned:
            self._check_seeds(spec, lengths[spec.text])
        first = self._tuning_jobs(tuned, lengths)
        for spec in plain:
            first += self._seed_jobs(spec, lengths[spec.text])
        self._run(first)
        then = []
        for spec in tuned:
            factor = self._choose(spec, lengths[spec.text])
            if factor is not None:
                then += self._seed_jobs(spec, lengths[spec.text], factor)
        self._run(then)

    def _check_metric(self, metric: str | None) -> None:
        """Test the teachers, and refuse before anything is trained a metric that none reports."""
        jobs = [*self._teacher_jobs()]
        self._run(jobs, 'tests of teachers')
        for job in jobs:
            found = read_note(job.record)
            if found is not None:
                main_metric_of(found['test'], metric)

    def _check_seeds(self, spec: Spec, iters: int | None) -> None:
        """Refuse runs of other settings before weights are tuned: of none of the factors."""
        for seed in self.comparison.seeds:
            factors = self.comparison.factors
            jobs = [job for one in factors for job in self._seed_jobs(spec, iters, one, [seed])]
            if not any(is_run_of(job.folder, job.digest) for job in jobs):
                check_run(jobs[0].folder, jobs[0].digest, self.comparison.overwrite)

    def _run(self, jobs: Sequence[Job], what: str = 'runs') -> None:
        """Run what has no record yet, a line for each run."""
        for job in jobs:
            check_run(job.folder, job.digest, self.comparison.overwrite)
        missing = [job for job in jobs if not job.record.is_file()]
        if len(missing) < len(jobs):
            self._tell(f'{len(jobs) - len(missing)} of {len(jobs)} {what} are on record already')
        # closed at once where this is left early: the processes end with it
        with closing(run_jobs(missing, self.slots)) as running:
            for ended in track(running, len(missing), what):
                if ended.problem:
                    self.died.append(ended.job.name)
                    self._tell(f'{ended.job.name} died: {ended.problem}')
                else:
                    self._tell(f'{ended.job.name}: {_summary(ended.record or {})}')

    def _tell(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    # ------------------------------------------------------------------ the jobs

    def _folder(self, spec: Spec) -> Path:
        return self.comparison.work_dir / spec.folder

    def _seed_jobs(
        self,
        spec: Spec,
        iters: int | None,
        factor: float = 1.0,
        seeds: Sequence[int] | None = None,
    ) -> list[Job]:
        return [
            self._job(spec, seed, iters, factor, self._folder(spec) / f'seed_{seed}')
            for seed in seeds or self.comparison.seeds
        ]

    def _job(
        self,
        spec: Spec,
        seed: int,
        iters: int | None,
        factor: float,
        folder: Path,
        tests: bool = True,
    ) -> Job:
        cfg = self._config(spec, seed, iters, factor)
        about = dict(
            method=spec.text,
            seed=seed,
            factor=factor,
            tuned=spec.text in self.tuned,
            length=iterations_of(cfg),
            sets=digests_of_sets(cfg),
        )
        if spec.recipe is None:
            about['pair'] = self.digest
        else:
            about['recipe'] = spec.recipe
        if self.comparison.amp:
            about['amp'] = True
        times = '' if factor == 1 else f', weights × {factor:g}'
        return Job(
            f'{spec.text}, seed {seed}{times}', folder, cfg, digest_of_run(cfg), about, tests=tests
        )

    def _teacher_folders(self) -> Iterator[str]:
        for name in named(self.pair.model, 'teacher'):
            suffix = '' if name == 'teacher' else f'_{name}'
            yield from (TEACHER + suffix, ON_VALIDATION + suffix)

    def _teacher_jobs(self) -> Iterator[Job]:
        for name, (cfg, checkpoint) in teacher_configs(self.pair).items():
            if checkpoint is None:  # untrained, as a test may want it
                continue
            suffix = '' if name == 'teacher' else f'_{name}'
            about = dict(method='teacher', name=name, sets=digests_of_sets(cfg))
            yield self._teacher_job(TEACHER + suffix, cfg, checkpoint, about)
            if cfg.get('val_dataloader') is not None:
                there = copy.deepcopy(cfg)
                there.test_dataloader = there.val_dataloader
                there.test_evaluator = there.val_evaluator
                yield self._teacher_job(ON_VALIDATION + suffix, there, checkpoint, about)

    def _teacher_job(self, folder: str, cfg: Config, checkpoint: str, about: dict) -> Job:
        digest = digest_of_run(Config(dict(cfg.to_dict(), model=dict(teacher=dict(
            model=cfg.model.to_dict(), checkpoint=checkpoint)))))  # fmt: skip
        return Job(
            folder.replace('_', ' '),
            self.comparison.work_dir / folder,
            cfg,
            digest,
            about,
            trains=False,
            checkpoint=checkpoint,
        )

    # ------------------------------------------------------------------ seconds

    def _probe(self) -> dict[str, int | None]:
        """Measure a step of each row, one after the other; return how many steps fit."""
        lengths: dict[str, int | None] = {}
        for spec in self.comparison.specs:
            job = self._probe_job(spec)
            self._run([job], 'probes')
            record = read_note(job.record)
            if record is not None:
                ms = record['step_ms' if has_gpu() else 'step_processor_ms']
                if ms is None:
                    raise ValueError(
                        f'no step of {job.name} was timed, so its length is not known. Mend: '
                        f'remove {job.folder}, and it is measured anew'
                    )
                lengths[spec.text] = max(1, math.floor(1000 * (self.comparison.seconds or 0) / ms))
                self._tell(f'{spec.text}: {ms:.1f} ms a step, {lengths[spec.text]} iterations')
        return lengths

    def _probe_job(self, spec: Spec) -> Job:
        base, seed, amp = self.bases[spec.text], self.comparison.seeds[0], self.comparison.amp
        cfg = run_config(base, spec, seed, PROBED, amp=amp)
        for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
            cfg[key] = None
        cfg.train_cfg.pop('val_interval', None)
        hook = (cfg.get('default_hooks') or {}).get('checkpoint')
        if isinstance(hook, dict):
            hook.update(save_best=None, interval=PROBED)
        folder = self._folder(spec) / 'probe'
        about = dict(method=spec.text, seed=self.comparison.seeds[0], length=PROBED)
        return Job(f'{spec.text}, probe', folder, cfg, digest_of_run(cfg), about, tests=False)

    # ------------------------------------------------------------------ weights

    def _tuning_jobs(self, specs: Sequence[Spec], lengths: dict[str, int | None]) -> list[Job]:
        jobs = []
        for spec in specs:
            if self._tuned(spec, lengths[spec.text]) is None:
                jobs += self._factor_jobs(spec, lengths[spec.text])
        return jobs

    def _factor_jobs(self, spec: Spec, iters: int | None) -> list[Job]:
        seed, folder = self.comparison.seeds[0], self._folder(spec)
        jobs = []
        for factor in self.comparison.factors:
            tried = self._tried(spec, factor)
            job = self._job(spec, seed, iters, factor, tried, tests=False)
            taken = folder / f'seed_{seed}'  # where the best of an earlier tuning went
            there = not tried.exists() and is_run_of(taken, job.digest)
            jobs.append(replace(job, folder=taken) if there else job)
        return jobs

    def _tried(self, spec: Spec, factor: float) -> Path:
        return self._folder(spec) / 'tune' / f'factor_{_as_name(factor)}'

    def _base(self, spec: Spec, iters: int | None) -> str:
        """Return what is tuned: the settings of the first seed by the preset's own weights."""
        return digest_of_run(self._config(spec, self.comparison.seeds[0], iters))

    def _config(self, spec: Spec, seed: int, iters: int | None, factor: float = 1.0) -> Config:
        base = self.bases[spec.text]
        shares_every, amp = self.comparison.shares_every, self.comparison.amp
        return run_config(base, spec, seed, iters, factor, shares_every, amp)

    def _tuned(self, spec: Spec, iters: int | None) -> dict[str, Any] | None:
        return read_tuned(self._folder(spec), self._base(spec, iters), self.comparison.factors)

    def _choose(self, spec: Spec, iters: int | None) -> float | None:
        """Return the best factor of a row; note it, and let its run be that of the first seed."""
        note = self._tuned(spec, iters)
        if note is not None:
            return note['factor']
        jobs = dict(zip(self.comparison.factors, self._factor_jobs(spec, iters), strict=True))
        records = {factor: read_note(job.record) for factor, job in jobs.items()}
        there = [record for record in records.values() if record is not None]
        if not there:
            return None
        metric = main_metric_of(there[0]['validation']['last'], self.comparison.metric)
        values = {
            factor: None if one is None else validation_of(one, metric)
            for factor, one in records.items()
        }
        best = choose(values, metric)
        if best is not None:
            self._adopt(spec, best, jobs)
        write_note(self._folder(spec) / FILE, dict(
            settings=self._base(spec, iters), method=spec.text, seed=self.comparison.seeds[0],
            set='validation', metric=metric, factor=best,
            values={name_of(factor): value for factor, value in values.items()},
        ))  # fmt: skip
        said = ', '.join(
            f'× {name_of(f)}: {"none" if v is None else f"{v:.4g}"}' for f, v in values.items()
        )
        self._tell(f'{spec.text}: {metric} on the validation set by weights {said}')
        return best

    def _adopt(self, spec: Spec, best: float, jobs: Mapping[float, Job]) -> None:
        """Take the training of the best factor for that of the first seed: it is the same one."""
        tried, run = jobs[best], self._folder(spec) / f'seed_{self.comparison.seeds[0]}'
        for factor, job in jobs.items():
            if factor != best and job.folder == run:  # the best of an earlier tuning makes way
                back = self._tried(spec, factor)
                write_config(job.cfg, back, job.digest)
                run.rename(back)
        check_run(run, tried.digest, self.comparison.overwrite)
        if not run.exists():
            write_config(tried.cfg, run, tried.digest)  # in place of that of an earlier best
            tried.folder.rename(run)


def _as_name(factor: float) -> str:
    return name_of(factor).replace('.', '_')


def _summary(record: dict[str, Any]) -> str:
    """Return the numbers of a record in a line."""
    parts = []
    for name, metrics in (
        ('test', record.get('test')),
        ('validation', (record.get('validation') or {}).get(record.get('tested') or 'last')),
    ):
        known = {key: value for key, value in (metrics or {}).items() if is_finite(value)}
        if known:
            metric = usual_metric(known) or next(iter(known))
            parts.append(f'{name} {metric} {known[metric]:.4g}')
    if record.get('processor_seconds') is not None:
        parts.append(f'{record["processor_seconds"]:.0f} s of the processor')
        parts.append(f'{record["seconds"]:.0f} s')
    return ', '.join(parts) or 'done'
