"""Who is told what happens: a person at a terminal (bars, sentences, a summary) or, with ``--json``, a program."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from ddfm_monai.errors import DDFMError, ExitCode

if TYPE_CHECKING:
    from ddfm_monai.fusion.pipeline import Meeting
    from ddfm_monai.progress import Progress
    from ddfm_monai.protocol import EventWriter
    from ddfm_monai.volumes import Source

__all__ = ["Host", "host", "in_lines"]


def in_lines(text: str, stream: TextIO) -> str:
    """A sentence broken between words for a terminal, never within a path; for a file or a program it stays whole."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


@dataclass
class Tally:
    """What became of the pairs of a run."""

    fused: int = 0
    kept: int = 0
    failed: int = 0
    left_out: int = 0
    noisy: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def sentence(self) -> str:
        """For example ``2 fused, 1 failed, 3 without a partner; noise found in a.nii.gz (reference); 12.3 s``."""
        parts = [f"{self.fused} fused"]
        parts += [f"{self.kept} done before and kept"] if self.kept else []
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.left_out} without a partner"] if self.left_out else []
        more = f" and {len(self.noisy) - 3} more" if len(self.noisy) > 3 else ""
        noise = f"noise found in {', '.join(self.noisy[:3])}{more}" if self.noisy else "no noise found"
        seconds = f"{time.monotonic() - self.started:.1f} s"
        return "; ".join([", ".join(parts), *([noise] if self.fused else []), seconds])


class Host:
    """Tells a person or a program what happens.

    Args:
        events: where a program listens, or None.
        quiet: a person is told of doubts and errors only.
        verbose: a person is told more of each result.
    """

    def __init__(self, events: EventWriter | None, quiet: bool = False, verbose: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.events, self.quiet, self.verbose = events, quiet, verbose
        self.console = Console(stderr=True, highlight=False, markup=False)  # file names may look like markup
        self.tally = Tally()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
                   TimeRemainingColumn())  # fmt: skip
        self.bar = Bar(
            *columns,
            console=self.console,
            transient=True,
            disable=events is not None or quiet or not self.console.is_terminal,
        )
        self.pairs = self.bar.add_task("pairs", total=None, visible=False)
        self.task = self.bar.add_task("", total=None)
        self._told: dict[Path, set[str]] = {}
        self._target = Path()

    def begin(self, name: str, target: Path, number: int = 1, total: int = 1, title: str = "") -> None:
        """One pair of ``total`` begins; its result is told when the next one has begun already."""
        from rich.markup import escape

        self._target = target
        if total > 1 and not self.events:
            self.say(f"{number} of {total}: {title}")
        self.bar.reset(self.task, description=escape(name), total=None)
        if total > 1:
            self.bar.update(self.pairs, description=f"{number} of {total} pairs", completed=number - 1, total=total)
            self.bar.update(self.pairs, visible=True)

    def progress(self, progress: Progress) -> None:
        """One step of the pair that was begun last."""
        if self.events:
            self.events(progress)
        else:
            self.bar.update(self.task, completed=progress.done, total=progress.total)

    def say(self, text: str, level: str = "info") -> None:
        """A sentence; ``level`` is ``"info"`` or ``"warning"``, which a quiet person is told as well."""
        if self.events:
            self.events.log(text, level)
        elif not (self.quiet and level == "info"):
            self.console.print(in_lines(text, sys.stderr), soft_wrap=True)

    def warn(self, text: str, target: Path | None = None) -> None:
        """A doubt about a pair (by default the one that was begun last), each once."""
        told = self._told.setdefault(target or self._target, set())
        if text not in told:
            told.add(text)
            self.say(f"warning: {text}", "warning")

    def taken(self, reference: Source, second: Source) -> None:
        """What the sources were taken for; a program finds that in the provenance, and hears of doubts alone."""
        for role, source in (("reference", reference), ("second", second)):
            if not self.events:
                self.say(f"{role}: {source.decision}")
            for warning in source.warnings:
                self.warn(f"{role}: {warning}")

    def met(self, meeting: Meeting) -> None:
        """How the two lie, and what is doubtful about it."""
        if not self.events:
            self.say(f"together: {meeting.sentence()}")
        if meeting.registration is not None:
            self.say(f"registration: {meeting.registration.sentence()}")
        for remark in meeting.remarks:
            self.warn(remark)

    def result(self, outputs: dict[str, Path], provenance: dict[str, Any], seconds: dict[str, float]) -> None:
        """One pair is done: what was found in it, and its files."""
        self.tally.fused += 1
        self.tally.noisy += [
            f"{outputs['fused'].name} ({role})" for role in ("reference", "second") if provenance[role].get("noise")
        ]
        for warning in provenance["warnings"]:
            self.warn(warning, outputs["fused"])
        if self.events:
            self.events.result(outputs, provenance, seconds)
            return
        for role, found in provenance.get("values", {}).items():
            self.say(f"{role}: black is {found['black']:.4g} and white {found['white']:.4g}, {found['unit']}")
        if self.verbose:
            for line in _details(provenance, seconds):
                self.say(line)
        if not self.quiet:
            for role, path in outputs.items():
                typer.echo(f"{role}: {path}")

    def kept(self, outputs: dict[str, Path], provenance: dict[str, Any]) -> None:
        """A pair was done before, from the same files in the same way."""
        self.tally.kept += 1
        if self.events:
            self.events.result(outputs, provenance, {})
        else:
            self.say(f"kept: {outputs['fused']}, done before from the same files with the same settings")

    def failed(self, error: DDFMError) -> None:
        """One pair of several could not be fused."""
        self.tally.failed += 1
        if self.events:
            self.events.error(error.code, str(error), ExitCode.ALL_FAILED)
        else:
            from rich.text import Text

            text = Text(in_lines(f"failed {error}", sys.stderr))
            text.stylize("red", 0, len("failed"))
            self.console.print(text, soft_wrap=True)

    def nothing_to_do(self, reason: str) -> None:
        """The run ends without a pair; a program must not take that for a crash."""
        if self.events:
            self.events.error("E_NOTHING_TO_DO", reason, ExitCode.NOTHING_TO_DO)
        else:
            self.say(reason, "warning")

    def summary(self) -> None:
        """The last line; a program counts for itself."""
        if not self.events:
            self.say(self.tally.sentence())


def _details(provenance: dict[str, Any], seconds: dict[str, float]) -> Sequence[str]:
    """What ``--verbose`` adds: the model, the noise that was found, the time."""
    how, prior = provenance["sampling"], provenance["prior"]
    lines = [
        f"model: {prior['name']} (SHA-256 {prior['sha256'][:12]}...), {provenance['likelihood']['name']}, "
        f"{how['steps']} steps, seed {how['seed']}, {how['precision']} on {how['device']}"
    ]
    for role in ("reference", "second"):
        noise = provenance[role].get("noise")
        found = f"{noise['percent_of_grey_scale']} % of black to white ({noise['spectrum']})" if noise else "none found"
        lines.append(f"noise of the {role}: {found}")
    alignment = provenance.get("alignment")
    if alignment:
        lines.append(
            f"alignment: the best match nearby lies {alignment['apart_mm']} mm off, {alignment['gain']:.0%} better"
        )
    slices = provenance["slices"]
    lines.append(f"slices: {slices['fused']} of {slices['total']} hold something; {seconds.get('total', 0):.1f} s")
    return lines


@contextmanager
def host(json_lines: bool, quiet: bool = False, verbose: bool = False) -> Iterator[Host]:
    """The one who is told, for the length of a command."""
    from ddfm_monai.protocol import events_on_stdout, quiet_libraries, sigterm_as_interrupt

    if json_lines:
        from ddfm_monai._version import __version__

        with events_on_stdout(__version__) as events, quiet_libraries():
            yield Host(events)
    else:
        person = Host(None, quiet, verbose)
        with sigterm_as_interrupt(), quiet_libraries(), person.bar:
            yield person
