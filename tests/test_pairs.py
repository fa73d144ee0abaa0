"""Pairs are a pure function of seed and epoch, and every partner is as likely as the next."""

import numpy as np
import pytest

from rtnet.data import pairs

# Four groups: of 7 rows, of 1, of 40 and of 2; the ids are neither sorted nor dense.
LENGTHS = (7, 1, 40, 2)
GROUPS = np.repeat([9, 3, 4, 0], LENGTHS)
STARTS = np.repeat(np.cumsum((0, *LENGTHS[:-1])), LENGTHS)

PINNED_PAIRS = [[3, 2], [6, 7], [0, 2], [7, 6], [4, 5], [2, 1], [5, 7], [1, 2]]
PINNED_HEIGHTS = [256, 256, 384, 256, 256, 256, 320, 320]


@pytest.mark.parametrize("seed", [0, 1, 2**40])
@pytest.mark.parametrize("epoch", [0, 1, 98])
@pytest.mark.parametrize("reach", [1, 3, 10])
def test_every_row_is_anchor_once_with_another_row_of_its_group_within_reach(seed: int, epoch: int, reach: int) -> None:
    table = pairs.epoch_pairs(GROUPS, seed, epoch, reach)
    anchor, partner = table.T
    assert table.dtype == np.int64
    assert np.array_equal(np.sort(anchor), np.arange(len(GROUPS)))
    assert np.array_equal(GROUPS[anchor], GROUPS[partner])
    distance = np.abs(anchor - partner)
    assert distance.max() <= reach
    assert np.array_equal(distance == 0, GROUPS[anchor] == 3)


def test_the_same_seed_and_epoch_give_the_same_pairs_whatever_was_drawn_before() -> None:
    expected = pairs.epoch_pairs(GROUPS, 5, 7)
    np.random.default_rng(1).random(3)
    pairs.epoch_pairs(GROUPS, 5, 8)
    assert np.array_equal(pairs.epoch_pairs(GROUPS, 5, 7), expected)


def test_these_pairs_are_drawn_on_every_machine_and_numpy() -> None:
    assert pairs.epoch_pairs(np.repeat([0, 1], 4), seed=3, epoch=2, reach=2).tolist() == PINNED_PAIRS
    assert [pairs.step_height((256, 320, 384), 3, step) for step in range(8)] == PINNED_HEIGHTS


@pytest.mark.parametrize("other", [(6, 7), (5, 8)], ids=["seed", "epoch"])
def test_another_seed_or_epoch_gives_other_orders_and_partners(other: tuple[int, int]) -> None:
    one, two = pairs.epoch_pairs(GROUPS, 5, 7), pairs.epoch_pairs(GROUPS, *other)
    assert (one[:, 0] != two[:, 0]).mean() > 0.8
    assert (one[one[:, 0].argsort(), 1] != two[two[:, 0].argsort(), 1]).mean() > 0.6


def test_pairs_are_shuffled_over_the_whole_set_not_within_groups() -> None:
    anchor = pairs.epoch_pairs(np.repeat(np.arange(50), 40), 0, 0)[:, 0]
    assert abs(np.corrcoef(anchor, np.arange(len(anchor)))[0, 1]) < 0.08
    assert len(np.unique(anchor[:200] // 40)) > 40


def test_all_partners_within_reach_are_equally_likely() -> None:
    group = np.zeros(30, int)
    counts = np.zeros((30, 30), int)
    epochs = 4000
    for epoch in range(epochs):
        counts[tuple(pairs.epoch_pairs(group, 0, epoch, reach=4).T)] += 1
    for row in (0, 2, 15, 29):
        candidates = [place for place in range(30) if place != row and abs(place - row) <= 4]
        expected = epochs / len(candidates)
        assert counts[row].sum() == counts[row, candidates].sum() == epochs
        chi_squared = ((counts[row, candidates] - expected) ** 2 / expected).sum()
        assert chi_squared < 30  # seven degrees of freedom at most: beyond its 99.99th percentile


def test_an_epoch_of_davis_in_four_views_is_drawn_in_milliseconds() -> None:
    from time import perf_counter

    group = np.arange(8316) // 69
    pairs.epoch_pairs(group, 0, 0)
    start = perf_counter()
    for epoch in range(5):
        pairs.epoch_pairs(group, 0, epoch)
    assert (perf_counter() - start) / 5 < 0.1  # about a millisecond; the bound is for a busy machine


def test_fixed_partners_follow_the_same_rule() -> None:
    partner = pairs.fixed_partners(GROUPS, seed=4, reach=5)
    rows = np.arange(len(GROUPS))
    assert np.array_equal(GROUPS[partner], GROUPS)
    assert np.abs(partner - rows).max() <= 5
    assert np.array_equal(partner == rows, GROUPS == 3)


def test_a_fixed_partner_does_not_depend_on_the_other_groups() -> None:
    together = pairs.fixed_partners(GROUPS, seed=4) - STARTS
    for group in np.unique(GROUPS):
        rows = group == GROUPS
        assert np.array_equal(pairs.fixed_partners(GROUPS[rows], seed=4), together[rows])


def test_fixed_partners_change_with_the_seed() -> None:
    assert (pairs.fixed_partners(GROUPS, 1) != pairs.fixed_partners(GROUPS, 2)).mean() > 0.6


def test_heights_are_equally_likely_and_change_with_step_and_seed() -> None:
    heights = (256, 320, 384)
    drawn = [pairs.step_height(heights, 0, step) for step in range(3000)]
    assert all(920 < drawn.count(height) < 1080 for height in heights)
    assert drawn != [pairs.step_height(heights, 1, step) for step in range(3000)]
    assert drawn[17] == pairs.step_height(heights, 0, 17)


def test_rows_of_a_group_that_lie_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="do not lie together"):
        pairs.epoch_pairs(np.array([0, 1, 0]), 0, 0)


def test_no_rows_give_no_pairs() -> None:
    assert pairs.epoch_pairs(np.zeros(0, int), 0, 0).shape == (0, 2)
    assert pairs.fixed_partners(np.zeros(0, int), 0).shape == (0,)
