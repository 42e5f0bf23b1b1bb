"""Do the tests of this folder notice a wrong program? Each mutation is applied in memory; some check must then fail.

tests/README.md lists the mutations, and how to add one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import test_algorithm
import test_default_golden
import test_default_likelihood
import test_paper

from ddfm_monai.method import DDFMInferer, RespacedDDIM, algorithm, inferer, two_scale
from ddfm_monai.method.likelihoods import LIKELIHOODS
from ddfm_monai.method.paper import PaperEM
from ddfm_monai.method.two_scale import TwoScaleEM

CHECKS: tuple[Callable[[], None], ...] = (
    test_paper.test_two_steps_solve_the_printed_equations,
    partial(test_default_golden.test_the_default_gives_what_was_recorded, "clean"),
    partial(test_default_golden.test_the_default_gives_what_was_recorded, "noisy"),
    partial(test_algorithm.test_the_chain_visits_the_stated_noise_levels, "default", 5),
    test_algorithm.test_the_default_starts_from_its_first_image_with_the_start_s_noise,
    test_default_likelihood.test_an_em_step_never_raises_the_objective,
)

Patch = Callable[[pytest.MonkeyPatch], None]


def default_with(**settings: float) -> Patch:
    """The default with other settings."""
    return lambda patch: patch.setitem(LIKELIHOODS, "default", partial(TwoScaleEM, **settings))


def instead(owner: object, name: str, new: object) -> Patch:
    """Another function or value in place of one."""
    return lambda patch: patch.setattr(owner, name, new)


def swapped(step: Callable) -> Callable:
    """A function of one EM step on exchanged sources."""

    def wrong(self, f, state):
        state.a, state.b = state.b, state.a
        try:
            return step(self, f, state)
        finally:
            state.a, state.b = state.b, state.a

    return wrong


_prepare, _rectify = TwoScaleEM.prepare, TwoScaleEM.rectify

MUTATIONS: dict[str, Patch] = {
    "the default's E-step gives its start weights": instead(
        TwoScaleEM, "_expect", lambda self, parts, weight, f: (weight, 1 - weight)
    ),
    "the default's EM step is left out": instead(TwoScaleEM, "rectify", lambda self, f, state: f),
    "the default's base of f is not carried on": instead(
        TwoScaleEM,
        "rectify",
        lambda self, f, state: (setattr(state, "f_base", self._base(f)), _rectify(self, f, state))[1],
    ),
    "opposite signs cancel": instead(two_scale, "_beside", lambda lead, other, opposition: other),
    "the default does not denoise": instead(
        TwoScaleEM, "prepare", lambda self, a, b, denoise=None, seen=None: _prepare(self, a, b, None, seen)
    ),
    "the default's range is not kept": default_with(tolerance=2.0),
    "the DDIM step is left out": instead(RespacedDDIM, "step", lambda self, f_hat, i, f_t: (f_hat, None)),
    "the DDIM step goes on from the network's estimate": instead(
        inferer, "sample", lambda f, e, r, s, c=None: algorithm.sample(f, e, lambda x: (r(x), x)[1], s, c)
    ),
    "the chain starts from pure noise": instead(DDFMInferer, "_start", lambda self, state, noise: noise.contiguous()),
    "the chain starts without noise": instead(
        DDFMInferer, "_start", lambda self, state, noise: self.likelihood.initial(state)
    ),
    "the paper's E-step exchanges the sources": instead(PaperEM, "rectify", swapped(PaperEM.rectify)),
    "the paper's M-step gives the complement": instead(
        PaperEM, "rectify", lambda self, f, s, step=PaperEM.rectify: s.a + s.b - step(self, f, s)
    ),
    "the paper's psi counts twice": instead(
        PaperEM, "__init__", lambda self, psi, eta: self.__dict__.update(psi=2 * psi, eta=eta)
    ),
} | {
    f"the default's {name} is {value} instead of {getattr(TwoScaleEM, name)}": default_with(**{name: value})
    for name, value in {
        "base_sigma": 9.0,
        "edge": 0.35,
        "base_power": 9.0,
        "detail_sigma": 3.2,
        "detail_limit": 0.09,
        "detail_power": 4.5,
        "brightness_power": 0.5,
        "brightness_sigma": 1.2,
        "lesion_sigma": 1.8,
        "reference_share": 0.6,
        "second_share": 0.9,
        "opposition": 0.25,
        "gain": 0.2,
        "variance_sigma": 1.3,
        "softness": 0.15,
        "tolerance": 0.15,
    }.items()
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_noticed(name, monkeypatch):
    MUTATIONS[name](monkeypatch)
    for check in CHECKS:
        try:
            check()
        except AssertionError:
            return
    pytest.fail(f"no check noticed that {name}")


def test_every_setting_of_the_default_is_mutated():
    mutated = {name.split()[2] for name in MUTATIONS if " instead of " in name}
    assert mutated == set(TwoScaleEM().settings()) - {"start_timestep"}  # the chain's test reads that one


def test_the_list_stands_in_the_readme():
    listed = " ".join((Path(__file__).parents[1] / "README.md").read_text().split())
    for name in MUTATIONS:
        assert (name.split(" is ")[0] if " instead of " in name else name) in listed, name
