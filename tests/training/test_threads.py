"""A run uses the number of CPU threads that was fastest in its first steps."""

import pytest
import torch

from genrep.training import threads
from genrep.training.threads import ThreadSearch, candidates, is_fixed


@pytest.fixture(autouse=True)
def as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [2, 1]), (6, [6, 3, 1]), (16, [16, 8, 4, 2, 1])])
def test_numbers_of_threads_to_try(most, counts):
    assert candidates(most) == counts


@pytest.mark.parametrize(
    ("seconds", "best"), [({4: 0.014, 2: 0.001, 1: 0.0015}, 2), ({4: 0.01, 2: 0.018, 1: 0.035}, 4), ({1: 0.02}, 1)]
)
def test_the_fastest_number_of_threads_is_kept(seconds, best):
    search, steps, total = ThreadSearch(list(seconds)), 0, 0.0
    while search.chosen is None:
        count = torch.get_num_threads()
        # the first step after a change takes longer and is not counted
        took = seconds[count] * (5 if search._fresh else 1)
        search.step_took(took)
        steps, total = steps + 1, total + took
    assert search.chosen == torch.get_num_threads() == best
    if len(seconds) > 1:
        assert search.rates == pytest.approx({count: 1 / second for count, second in seconds.items()})
        assert total < 2.5 * threads.BLOCK_SECONDS * threads.ROUNDS * len(seconds)
    assert not search.step_took(1.0)


def test_a_burst_of_load_does_not_decide():
    """Two threads are ten times slower throughout the first round, and still win by the second."""
    search, round_of_two = ThreadSearch([2, 1]), 0
    while search.chosen is None:
        count, blocks = torch.get_num_threads(), len(search._blocks)
        round_of_two = 1 if count == 2 and blocks == 4 else 2
        search.step_took({2: 0.01 if round_of_two == 1 else 0.001, 1: 0.006}[count])
    assert search.chosen == 2


def test_long_steps_keep_all_cores():
    search = ThreadSearch([2, 1])
    assert not search.step_took(3.0) and search.step_took(1.5)
    assert search.chosen == torch.get_num_threads() == 2


def test_the_environment_fixes_the_number(monkeypatch):
    for name in threads.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert not is_fixed()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert is_fixed()
