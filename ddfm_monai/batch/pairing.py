"""The pairs of a scan: which sub-series belong together, what is left out and why, and what options are missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ddfm_monai import rules
from ddfm_monai.batch.pair import Pair, PairingOptions, Relation, Select, relate
from ddfm_monai.dicom.errors import Problem
from ddfm_monai.dicom.scan import ScanResult
from ddfm_monai.dicom.subseries import Kind, SeriesKey, SubSeries

__all__ = [
    "Missing",
    "PairingResult",
    "Skipped",
    "find_pairs",
    "missing_options",
    "options_of",
    "patients_of",
]

# Of what has one of these problems nobody expects that it is fused: pictures, maps in colour, vendors' mosaics.
NEVER_A_VOLUME = ("E_SINGLE_SLICE", "E_COLOUR", "E_NO_GEOMETRY", "E_MOSAIC", "E_NOT_TOMOGRAPHIC")


@dataclass(frozen=True)
class Skipped:
    """A sub-series, or a possible pair, that is not fused, with the reason.

    Args:
        problem: the code and what was found.
        reference: the sub-series (of a pair: the reference).
        second: the second of the pair, or None.
        pair: what it would be as a pair, so that a manifest can offer it; or None.
    """

    problem: Problem
    reference: SubSeries
    second: SubSeries | None = None
    pair: Pair | None = None


def _skip(problem: Problem, pair: Pair) -> Skipped:
    return Skipped(problem, pair.reference, pair.second, pair)


@dataclass(frozen=True)
class PairingResult:
    """What can be fused and why the rest is not.

    Args:
        pairs: ready to run, sorted by case id.
        skipped: sub-series and pairs that a rule leaves out.
        ambiguous: pairs that would be ready if they were the only ones of their patient (code ``S_AMBIGUOUS``; the
            text lists the candidates).
    """

    pairs: tuple[Pair, ...]
    skipped: tuple[Skipped, ...]
    ambiguous: tuple[Skipped, ...]


def find_pairs(scan: ScanResult, options: PairingOptions | None = None) -> PairingResult:
    """Find the pairs of a scan by headers alone.

    Candidates are series that can be volumes, of one patient and of the kinds that are wanted; whether two of them may
    be fused is for :func:`relate` to say. Never the first of several.
    """
    options = options or PairingOptions()
    skipped = [Skipped(reason, item) for item in scan.subseries if (reason := not_a_candidate(item)) is not None]
    candidates = [item for item in scan.subseries if not_a_candidate(item) is None]
    possible: list[Pair] = []
    tried: set[SeriesKey] = set()
    for reference, second in _of_one_patient(candidates, options):
        tried |= {reference.key, second.key}
        pair = relate(reference, second, scan.registrations, options)
        if pair.problem is None:
            possible.append(pair)
        else:
            skipped.append(_skip(pair.problem, pair))
    patients = patients_of(candidates)
    of_a_kind = Counter((patients[item.key], item.kind) for item in candidates)
    for item in candidates:
        if item.key not in tried:
            kinds = {kind: count for (patient, kind), count in of_a_kind.items() if patient == patients[item.key]}
            skipped.append(Skipped(_alone(item, kinds), item))
    closest, further = _closest_relations(possible)
    left_out = [item.pair for item in (*skipped, *further) if item.pair is not None]
    broken = [item for item in scan.subseries if _might_have_been_meant(item)]
    pairs, not_chosen, ambiguous = _choose(closest, options.select, left_out, broken)
    return PairingResult(
        pairs=tuple(sorted(pairs, key=lambda pair: pair.case_id)),
        skipped=tuple(sorted([*skipped, *further, *not_chosen], key=_order)),
        ambiguous=tuple(sorted(ambiguous, key=_order)),
    )


def _alone(item: SubSeries, kinds: Mapping[Kind, int]) -> Problem:
    """What is missing for a series that could be fused, of a patient with so many of each kind."""
    if len({kind == "mr" for kind in kinds}) == 2:
        return Problem("S_NO_PARTNER", "no pair of the kinds that were asked for (--reference-kind, --second-kind)")
    other = "CT, PET or NM series" if item.kind == "mr" else "MR series"
    two = kinds[item.kind] > 1
    hint = f" (for two of a kind: --reference-kind {item.kind} --second-kind {item.kind})" if two else ""
    return Problem("S_NO_PARTNER", f"the patient has no usable {other}{hint}")


@dataclass(frozen=True)
class Missing:
    """What would have to be added to a command for more pairs to run.

    Args:
        options: all of them, in the command's words.
        result: the pairing with them.
    """

    options: tuple[str, ...]
    result: PairingResult


def options_of(pair: Pair, missing: Missing | None) -> tuple[str, ...]:
    """All options with which a pair that is left out would run; empty where none would do."""
    if missing is None:
        return pair.options
    return missing.options if pair.case_id in {other.case_id for other in missing.result.pairs} else ()


def missing_options(scan: ScanResult, options: PairingOptions, found: PairingResult) -> Missing | None:
    """All options that are missing at once, or None where no option makes more pairs run.

    They are found by pairing again with them: what is left out for its frames of reference may be ambiguous once they
    are dealt with.
    """
    wanted = {option for item in found.skipped if item.pair is not None for option in item.pair.options}
    days = [float(option.split()[1]) for option in wanted if option.startswith("--max-days")]
    more = replace(
        options,
        register="rigid" if "--register rigid" in wanted else options.register,
        max_days=max([options.max_days, *days]),
    )
    again = find_pairs(scan, more)
    choices: tuple[Select, ...] = ("best", "all")  # where the best is not clear, all
    for select in choices if again.ambiguous and options.select == "error" else ():
        chosen = find_pairs(scan, replace(more, select=select))
        if len(chosen.pairs) > len(again.pairs):
            more, again = replace(more, select=select), chosen
            break
    if len(again.pairs) <= len(found.pairs):
        return None
    added = {
        f"--register {more.register}": more.register != options.register,
        f"--max-days {more.max_days:g}": more.max_days != options.max_days,
        f"--select {more.select}": more.select != options.select,
    }
    return Missing(tuple(option for option, is_new in added.items() if is_new), again)


def _order(item: Skipped) -> tuple[SeriesKey, bool, SeriesKey]:
    return item.reference.key, item.second is not None, (item.second or item.reference).key


def not_a_candidate(item: SubSeries) -> Problem | None:
    """Why a sub-series is not paired automatically, or None."""
    if item.exclusion is not None or item.problem is not None:
        return item.exclusion or item.problem
    return item.not_as_base if item.kind == "mr" else None


def _might_have_been_meant(item: SubSeries) -> bool:
    """Whether a sub-series would be a candidate if it could be read: no picture, and no single slice."""
    return item.exclusion is None and item.problem is not None and item.problem.code not in NEVER_A_VOLUME


# ------------------------------------------------------------------------------------------------ one patient


def patients_of(series: Sequence[SubSeries]) -> dict[SeriesKey, str]:
    """The patient of each sub-series, by the key of one of this patient's.

    One Patient ID is one patient unless its series name different issuers; then those without an issuer stand apart,
    for nobody can say whose they are. Without a usable ID a study is a patient.
    """
    by_id: dict[str, list[SubSeries]] = defaultdict(list)
    for item in series:
        if patient := item.origin.who.patient:
            by_id[patient].append(item)
    patients = {item.key: item.key.patient_key for item in series}
    for items in by_id.values():
        if len({item.origin.who.issuer for item in items} - {""}) < 2:
            patients |= dict.fromkeys((item.key for item in items), min(item.key.patient_key for item in items))
    return patients


def _of_one_patient(candidates: list[SubSeries], options: PairingOptions) -> Iterator[tuple[SubSeries, SubSeries]]:
    """Twos of one patient whose kinds are wanted; two of a kind once, with the better one as the reference."""
    patients = patients_of(candidates)
    groups: dict[str, dict[SeriesKey, SubSeries]] = defaultdict(dict)
    for item in candidates:
        for group in (patients[item.key], item.key.study_uid):
            groups[group][item.key] = item
    for reference in candidates:
        for second in {**groups[patients[reference.key]], **groups[reference.key.study_uid]}.values():
            who = reference.origin.who, second.origin.who
            of_one = patients[reference.key] == patients[second.key] or (
                not (who[0].patient and who[1].patient) and rules.same_patient(*who)
            )
            if reference.key == second.key or not of_one or not options.wants(reference, second):
                continue
            if reference.kind != second.kind or _rank(reference) < _rank(second):
                yield reference, second


def _rank(item: SubSeries) -> tuple[tuple[float, ...], SeriesKey]:
    return _series_preference(item), item.key


# ------------------------------------------------------------------------------------------------ many pairs

DISTANCE: dict[Relation, int] = {"for": 0, "reg": 1, "trust": 2, "register": 2, "same-patient": 2}


def _closest_relations(possible: list[Pair]) -> tuple[list[Pair], list[Skipped]]:
    """Drop a pair when one of its series has a pair of the same kinds with a closer relation."""
    kept: list[Pair] = []
    further: list[Skipped] = []
    for pair in possible:
        rank = DISTANCE[pair.relation]
        closer = [
            other
            for other in possible
            if DISTANCE[other.relation] < rank
            and other.second.kind == pair.second.kind
            and (other.reference.key == pair.reference.key or other.second.key == pair.second.key)
        ]
        if closer:
            problem = Problem(
                "S_CLOSER_RELATION", f"relation {pair.relation}, but {closer[0].relation} holds elsewhere"
            )
            further.append(_skip(problem, pair))
        else:
            kept.append(pair)
    return kept, further


def _choose(
    possible: list[Pair], select: Select, left_out: Sequence[Pair] = (), broken: Sequence[SubSeries] = ()
) -> tuple[list[Pair], list[Skipped], list[Skipped]]:
    """Pairs, pairs not chosen and ambiguous pairs, cluster by cluster of pairs that compete.

    Two more compete although they cannot be run, for that says nothing of which one is meant: of ``left_out``, another
    volume of the same series (acquisition, phase) that overlaps too little; and ``broken`` series in the place of one.
    """
    pairs: list[Pair] = []
    not_chosen: list[Skipped] = []
    ambiguous: list[Skipped] = []
    for cluster in _clusters(possible):
        ranked = sorted(cluster, key=_preference)
        beside = [pair for pair in left_out if any(_of_one_series(pair, other) for other in ranked)]
        unread = [item for item in broken if any(_in_the_place_of(item, pair) for pair in ranked)]
        clear = len(ranked) == 1 or _preference(ranked[0]) < _preference(ranked[1])
        count = len(ranked) + len(beside) + len(unread)
        if select == "all" or count == 1:
            pairs.extend(ranked)
        elif select == "best" and clear:
            pairs.append(ranked[0])
            problem = Problem("S_NOT_CHOSEN", f"{len(ranked)} candidates, another one was preferred")
            not_chosen.extend(_skip(problem, pair) for pair in ranked[1:])
        else:
            listed = _listed([*ranked, *sorted(beside, key=_preference)], unread)
            problem = Problem("S_AMBIGUOUS", f"{count} candidates: {listed}")
            ambiguous.extend(_skip(problem, pair) for pair in ranked)
    return pairs, not_chosen, ambiguous


def _clusters(pairs: list[Pair]) -> list[list[Pair]]:
    """Pairs that compete: of one kind of second, linked by a series that they share."""
    clusters: list[list[Pair]] = []
    for pair in pairs:
        linked = [cluster for cluster in clusters if any(_compete(pair, other) for other in cluster)]
        clusters = [cluster for cluster in clusters if cluster not in linked]
        clusters.append([pair, *(other for cluster in linked for other in cluster)])
    return clusters


def _compete(first: Pair, second: Pair) -> bool:
    share = first.reference.key == second.reference.key or first.second.key == second.second.key
    return share and first.second.kind == second.second.kind


def _of_one_series(left_out: Pair, possible: Pair) -> bool:
    """Whether a pair lacks overlap alone, and differs from another only in the volume that it takes of a series."""
    if not {problem.code for problem in left_out.obstacles} <= {"S_LITTLE_OVERLAP"}:
        return False
    keys = (left_out.reference.key, possible.reference.key), (left_out.second.key, possible.second.key)
    different = [(one, other) for one, other in keys if one != other]
    return len(different) == 1 and len({replace(key, subseries="") for key in different[0]}) == 1


def _in_the_place_of(broken: SubSeries, pair: Pair) -> bool:
    """Whether a series that cannot be read might have been meant instead of one of a pair."""
    for member in (pair.reference, pair.second):
        if broken.kind == member.kind and broken.key.patient_key == member.key.patient_key:
            if pair.relation == "for":
                return broken.frame_of_reference_uid == member.frame_of_reference_uid
            return broken.key.study_uid == member.key.study_uid
    return False


def _preference(pair: Pair) -> tuple[float, ...]:
    """Smaller is better: T1, 3-D, most slices, smallest voxels, in this order; the reference decides first."""
    return tuple(value for item in (pair.reference, pair.second) for value in _series_preference(item))


def _series_preference(item: SubSeries) -> tuple[float, ...]:
    voxel = float(np.prod(item.grid.spacing)) if item.grid is not None else float("inf")
    return (not item.t1_weighted, not item.three_d, -len(item.slices), round(voxel, 6))


def _listed(pairs: list[Pair], unread: Sequence[SubSeries] = ()) -> str:
    texts = [f"{_described(pair.reference)} with {_described(pair.second)}" for pair in pairs]
    texts += [f"{_described(item)}, cannot be read: {item.problem.code}" for item in unread if item.problem]
    return "; ".join(texts[:10]) + (f"; and {len(texts) - 10} more" if len(texts) > 10 else "")


def _described(item: SubSeries) -> str:
    number = "?" if item.series_number is None else item.series_number
    part = "" if item.key.subseries == "all" else f" ({item.key.subseries})"
    return f"{item.modality} series {number} ...{item.key.series_uid[-8:]}{part}, {len(item.slices)} slices"
