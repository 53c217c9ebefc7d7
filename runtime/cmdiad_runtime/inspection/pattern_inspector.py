"""Inspect samples with image, cloud or both: the bundle of the modalities that a sample has decides.

An absent modality is not a defect, and a broken one is never absent. A sample whose file is there and cannot be used
is NG with the reason, and no other pattern is tried.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType

from cmdiad_runtime.bundle.engine_selection import choose_engine
from cmdiad_runtime.bundle.pattern_bundle import open_pattern_bundle
from cmdiad_runtime.envelope.frame import FrameCounter
from cmdiad_runtime.errors import BundleError, InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.inspector import DEFAULT_OPTIONS, Assigned, Inspector, Source, open_bundle
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.inspection.pattern_files import PartFiles, PartFinder
from cmdiad_runtime.names import Modality, Sensors
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.pattern_folder import is_pattern_bundle

_KINDS: Mapping[Modality, str] = {"rgb": "image", "xyz": "cloud"}


class PatternInspector:
    """The bundles of all patterns in an engine each, ready to inspect samples with image, cloud or both.

    >>> with PatternInspector.open("parts.cmdiad", require=["rgb"]) as inspector:  # doctest: +SKIP
    ...     inspection = inspector.inspect(Sample("part 1", rgb=image))

    Args:
        by_pattern: Open inspector of each pattern; all three are there.
        require: Modalities that every sample must have; without one of them a sample is NG.
    """

    def __init__(self, by_pattern: Mapping[Sensors, Inspector], require: Collection[Modality] = ()) -> None:
        self._by_pattern = dict(by_pattern)
        self._require = tuple(require)
        self._finder = PartFinder()

    @staticmethod
    def open(
        path: str | PathLike[str], options: OpenOptions = DEFAULT_OPTIONS, *, require: Collection[Modality] = ()
    ) -> PatternInspector:
        """Verify a bundle for whichever sensors arrive and load the graphs of all patterns.

        Args:
            path: Folder of the bundle.
            options: Choices of engine, false-reject rate, checks and signature; they hold for all patterns.
            require: Modalities that every sample must have.

        Raises:
            BundleError: The bundle is damaged or not signed, or the options name a modality or a threshold, which
                belong to one pattern.
            EngineError: The engine is not installed, does not fit, or has not passed its self-test on this device.
        """
        for value, name in ((options.modality, "modality"), (options.threshold, "threshold")):
            if value is not None:
                raise BundleError(
                    path,
                    found=f"a bundle for whichever sensors arrive, and --{name} {value}",
                    expected=f"no --{name}, which belongs to the bundle of one pattern",
                    action="leave the option out, or pass one of the bundles in the folder",
                )
        opened = open_pattern_bundle(
            path, partial(open_bundle, options=options), require_signature=options.require_signature
        )
        frames, by_pattern = FrameCounter(options.frozen_after), {}
        with ExitStack() as stack:
            for pattern, bundle in opened.bundles.items():
                chosen = choose_engine(bundle, options.engine, rebuild=options.rebuild, server=options.server)
                inspector = Inspector(bundle, chosen.engine, pattern=pattern, frames=frames)
                by_pattern[pattern] = stack.enter_context(inspector)
            stack.pop_all()
        return PatternInspector(by_pattern, require)

    @property
    def inspectors(self) -> tuple[Inspector, ...]:
        """Return the inspectors of all patterns."""
        return tuple(self._by_pattern.values())

    def assign(self, source: Source) -> Assigned:
        """Return the inspector of the modalities that a sample has, and the source to inspect.

        Args:
            source: Sample with image, cloud or both, or the image or cloud of one. The other file is searched.

        Returns:
            The inspector, with a refusal if a required modality is absent, or the files cannot be searched.
        """
        name = source.name if isinstance(source, Sample) else str(source)
        assigned = guarded(name, partial(self._assigned, source))
        if isinstance(assigned, InputError):
            return Assigned(self._by_pattern["both"], source, assigned)
        pattern = assigned.inspector.pattern
        absent = [modality for modality in self._require if pattern not in (modality, "both")]
        return replace(assigned, refusal=_absent(name, absent[0])) if absent else assigned

    def inspect(self, sample: Sample) -> Inspection:
        """Inspect one sample with the detector for the modalities that the sample has.

        A sample that cannot be used is NG with a reason; no content of a sample raises an exception. An array of the
        wrong kind is NG, and only None stands for an absent modality.

        Args:
            sample: Image, cloud or both, see `Inspector.inspect`.

        Raises:
            TypeError: The argument is not a Sample.
            EngineError: The engine failed.
        """
        if not isinstance(sample, Sample):
            raise TypeError(f"inspect takes a cmdiad Sample, not {type(sample).__name__}: Sample(name, rgb=image)")
        assigned = self.assign(sample)
        if assigned.refusal is not None:
            return assigned.inspector.not_inspected(sample.name, assigned.refusal, sample=sample)
        return assigned.inspector.inspect(sample)

    def close(self) -> None:
        """Release the memory of all engines. Idempotent."""
        with ExitStack() as stack:
            for inspector in self.inspectors:
                stack.callback(inspector.close)

    def __enter__(self) -> PatternInspector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _assigned(self, source: Source) -> Assigned:
        if isinstance(source, Sample):
            return Assigned(self._by_pattern[_pattern_of(source)], source)
        if isinstance(source, Path):
            files: PartFiles = self._finder.files_of(source)
            return Assigned(self._by_pattern[files.pattern], files.first)
        raise TypeError("a watched folder cannot distinguish an absent modality from a late one")


def open_inspector(
    path: str | PathLike[str], options: OpenOptions = DEFAULT_OPTIONS, *, require: Collection[Modality] = ()
) -> Inspector | PatternInspector:
    """Verify a bundle of either kind and load its graphs; see `Inspector.open` and `PatternInspector.open`.

    Raises:
        BundleError: See there; or `require` names modalities, and the bundle is for one pattern.
        EngineError: See there.
    """
    if is_pattern_bundle(Path(path)):
        return PatternInspector.open(path, options, require=require)
    if require:
        raise BundleError(
            path,
            found=f"a bundle for one pattern of modalities, and --require {' --require '.join(require)}",
            expected="a bundle for whichever sensors arrive (cmdiad-train --modality any)",
            action="leave --require out: a sample without a modality that this bundle needs is NG",
        )
    return Inspector.open(path, options)


def _pattern_of(sample: Sample) -> Sensors:
    """Return the modalities of a sample; "both" for a sample with neither, which is then NG."""
    if (sample.rgb is None) == (sample.xyz is None):
        return "both"
    return "xyz" if sample.rgb is None else "rgb"


def _absent(name: str, modality: Modality) -> InputError:
    return InputError(
        name,
        found=f"no {_KINDS[modality]} of this sample",
        expected=f"a sample with {_KINDS[modality]}, because of --require {modality}",
        action="check the sensor, or leave --require out to inspect such samples without",
        reason="missing-modality",
    )
