"""One wave of work: a Beam job over some whole units of a run, in this process or on the runner that was named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import apache_beam as beam
import torch

from ..models import registry
from ..models.devices import best_device
from ..models.weights.files import Weights, WeightsError
from ..transforms.archives.secret_addresses import Secrets, fetch_address, secret_addresses
from ..transforms.commit import CommitUnits, unit_key
from ..transforms.detect import preload
from ..transforms.failures import UsageError, WorldError
from ..transforms.records import MediaFile, MediaOutcome, MediaResult
from ..transforms.storage.output_store import OutputStore
from ..transforms.storage.retries import describe_error
from ..transforms.storage.sources import Planned
from ..transforms.tables.runs import Run, pending_units, plan_of
from ..transforms.tables.staged_weights import stage_weights
from .audit import AssessMedia, build_detector
from .options import AuditConfig, runner_named
from .runners import fault_of_runner, foreseen, make_pipeline, no_traces_of_lost_servers

LOCAL_WAVE, CLUSTER_WAVE = 2, 128
"""Units in a wave: some minutes on one machine; about half an hour on a few dozen cores."""
CLUSTER_JOBS = 8
"""At most so many jobs for a run on a cluster. Each takes minutes to start there, and a million files would be 488 jobs
of CLUSTER_WAVE."""
PART_UNITS = 16
"""Units whose files are read from the plan at a time, where a cluster's workers do that."""


def wave_size(config: AuditConfig, units: int, secrets: Mapping[str, str]) -> int:
    """How many units a wave of this command has, where so many are left.

    A wave is committed at its end, because batch runners group only when all elements are there. So fewer jobs are
    fewer starts, and more work to repeat if one fails. If addresses are secret, they travel in the job, which bounds
    its size.
    """
    if config.wave_size is not None or not runner_named(config.beam_args):
        return config.wave_size or LOCAL_WAVE
    return CLUSTER_WAVE if secrets else max(CLUSTER_WAVE, -(-units // CLUSTER_JOBS))


@dataclass(frozen=True, slots=True)
class Wave:
    """What a process has to know to score and commit some units. Picklable."""

    config: AuditConfig
    store: OutputStore
    run: Run
    planned: tuple[Planned, ...]
    """All files of the units, or none if `units` names them. An address in them may hold a secret."""
    spool: str
    """Local folder for staged files."""
    units: tuple[int, ...] = ()
    """Units of which a cluster's workers read the files from the plan: a job cannot carry a hundred thousand files."""


class Waves:
    """Makes the waves of a run."""

    def __init__(self, config: AuditConfig, store: OutputStore, run: Run, spool: Path):
        self._config, self._store, self._run, self._spool = config, store, run, spool
        self._secrets = Secrets(secret_addresses(config.sources))
        self._edition = 0
        """How often the secrets were read anew."""
        self._made_by: dict[int, int] = {}
        """By unit, the edition of the secrets that its wave was made with."""

    def size(self, units: int) -> int:
        """How many units a wave has, where so many are left."""
        return wave_size(self._config, units, self._secrets)

    def of(self, units: Sequence[int]) -> Wave:
        """What is left of these units: some of those that were begun before may be committed."""
        left = list(units)
        if not self._made_by.keys().isdisjoint(left):
            left = sorted(set(left) & set(pending_units(self._store, self._run)))
        self._made_by.update(dict.fromkeys(units, self._edition))
        if runner_named(self._config.beam_args) and not self._secrets:
            return Wave(self._config, self._store, self._run, (), str(self._spool), tuple(left))
        planned = tuple(with_secret(entry, self._secrets) for entry in plan_of(self._store, self._run, left))
        return Wave(self._config, self._store, self._run, planned, str(self._spool))

    def worth_another_try(self, units: Sequence[int]) -> bool:
        """Whether other addresses are known now than when the wave of these units was made, which the store refused.

        Signed addresses expire after hours. The user may have written a listing with new ones since.
        """
        if min(self._made_by[unit] for unit in units) < self._edition:
            return True
        now = Secrets(secret_addresses(self._config.sources)) if self._secrets else self._secrets
        if now == self._secrets:
            return False
        self._secrets, self._edition = now, self._edition + 1
        return True


def with_secret(planned: tuple[MediaFile, MediaOutcome | None], secrets: Mapping[str, str]) -> Planned:
    """The planned file with its secret address, if it has one. The plan holds no secrets: they come from the sources
    that the present command names."""
    file, outcome = planned
    address = fetch_address(file.shard or file.uri, secrets)
    return Planned(replace(file, fetch_uri=address) if address else file, outcome)


def run_wave(wave: Wave) -> None:
    """Scores the files of the wave and commits its units.

    Raises:
        WorldError: storage, disk or runner failed. UsageError: something cannot be used as it was given.
    """
    beam_args = wave.config.beam_args
    try:
        if beam_args:
            no_traces_of_lost_servers()
            with make_pipeline(beam_args) as pipeline:
                _ = pipeline | "Plan" >> _ReadPlan(wave) | "Wave" >> _ScoreAndCommit(wave)
        else:
            _run_here(wave)
    except Exception as error:
        raise foreseen(error) or fault_of_runner(error, beam_args) or error from None


_here: list[tuple[Wave, beam.Pipeline]] = []
"""The last pipeline that ran in this process, and the wave that it was made of, without its files."""
_planned: tuple[Planned, ...] = ()
"""The files of the wave that runs in this process."""


def _run_here(wave: Wave) -> None:
    """In this process, by the pipeline of the wave before where only the files are others: to make one takes half of
    what a wave costs by itself."""
    global _planned
    without = replace(wave, planned=())
    if not _here or _here[0][0] != without:
        pipeline = make_pipeline(())
        files = pipeline | "Start" >> beam.Create([None]) | "Plan" >> beam.FlatMap(_planned_here)
        _ = files | "Wave" >> _ScoreAndCommit(without)
        _here[:] = [(without, pipeline)]
    _planned = wave.planned
    try:
        _here[0][1].run().wait_until_finish()
    except BaseException:
        _here.clear()
        raise
    finally:
        _planned = ()


def _planned_here(_: None) -> Iterator[Planned]:
    yield from _planned


@dataclass
class _ReadPlan(beam.PTransform):
    """Takes the pipeline, yields Planned: the files of the wave, spread over the workers."""

    wave: Wave

    def expand(self, pbegin):
        wave = self.wave
        if not wave.units:
            return pbegin | beam.Create(wave.planned)
        parts = [wave.units[at : at + PART_UNITS] for at in range(0, len(wave.units), PART_UNITS)]
        return pbegin | beam.Create(parts) | beam.FlatMap(_files_of, wave.store, wave.run) | beam.Reshuffle()


def _files_of(units: Sequence[int], store: OutputStore, run: Run) -> Iterator[Planned]:
    for planned in plan_of(store, run, units):
        yield Planned(*planned)


@dataclass
class _ScoreAndCommit(beam.PTransform):
    """Takes Planned, yields the name of each unit's object."""

    wave: Wave

    def expand(self, pcoll):
        config, reading = self.wave.config, self.wave.config.reading
        if not runner_named(config.beam_args):
            reading = replace(reading, device=best_device(reading.device))  # the work is done here
        return (
            pcoll
            | "AssessMedia"
            >> AssessMedia(config.detectors, reading, config.calibration, spool=self.wave.spool, weights=config.weights)
            | "KeyByUnit" >> beam.Map(_by_unit).with_output_types(tuple[str, MediaResult])
            | "GroupByUnit" >> beam.GroupByKey()
            | "CommitUnits" >> CommitUnits(self.wave.store, self.wave.run)
        )


def _by_unit(result: MediaResult) -> tuple[str, MediaResult]:
    return unit_key(result.outcome.file.unit), result


def weights_in_place(config: AuditConfig, store: OutputStore) -> Mapping[str, Weights]:
    """The detectors' files where the runner's workers find them: beside the tables for a cluster, so that none has to
    download; in this process they are loaded at once, so that a file which does not do is refused before a run begins.

    Raises:
        UsageError: a file is not what its detector expects, or does not fit into the device.
        WorldError: storage failed.
    """
    try:
        if runner_named(config.beam_args):
            return stage_weights(store, config.weights)
    except OSError as error:
        raise WorldError(f"cannot read the weights: {describe_error(error)}") from None
    load_detectors(config, config.reading.device)
    return config.weights


def load_detectors(config: AuditConfig, device: str) -> None:
    """Loads the detectors that have files of weights into this process.

    Raises:
        UsageError: a file is not what its detector expects, or does not fit into the device.
        WorldError: storage failed.
    """
    try:
        for spec in config.detectors:
            if (weights := config.weights.get(spec.name)) is not None:
                try:
                    preload(spec, partial(build_detector, registry.make, spec, weights), device)
                except WeightsError as error:
                    paths = ", ".join(file.path for file in weights.files.values())
                    raise UsageError(f"{spec.name} cannot use {paths}: {error}") from None
    except OSError as error:
        raise WorldError(f"cannot read the weights: {describe_error(error)}") from None
    except torch.OutOfMemoryError:
        raise UsageError(
            f"the detectors {', '.join(spec.name for spec in config.detectors)} do not fit into the memory of the "
            "device: choose fewer, or --device=cpu"
        ) from None
