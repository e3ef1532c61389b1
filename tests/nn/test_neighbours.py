"""Nearest points against a sort of all distances, with clusters, ties and points at infinity."""

import pytest
import torch

from genrep.coords import GridChunk, axis_centres, grid
from genrep.nn import neighbours
from genrep.nn.neighbours import NearestPoints


def plain(points, queries, count):
    """Sorted by distance, then by the first coordinate, then by the next. Whole numbers make ties exact."""
    indices = []
    for query in queries.tolist():
        keys = [
            (sum((a - b) ** 2 for a, b in zip(query, point, strict=True)), point, k)
            for k, point in enumerate(points.tolist())
        ]
        indices.append([k for *_, k in sorted(keys)[:count]])
    return torch.tensor(indices)


def whole_numbers(num, axes, low, high):
    return torch.randint(low, high, (num, axes)).float()


CLOUDS = {
    "ties on a grid": lambda: whole_numbers(200, 2, 0, 20),
    "one axis": lambda: whole_numbers(90, 1, 0, 400),
    "three axes": lambda: whole_numbers(150, 3, 0, 9),
    "few distinct points": lambda: whole_numbers(200, 2, 0, 3),
    "two clusters": lambda: torch.cat([whole_numbers(120, 2, 0, 6), 500 + whole_numbers(60, 2, 0, 6)]),
    "all in one place": lambda: torch.zeros(100, 2),
}


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("name", CLOUDS)
def test_nearest_points_equal_a_sort_of_all_distances(name, tree, monkeypatch):
    monkeypatch.setattr(neighbours, "FEW", 10 if tree else 1000)
    torch.manual_seed(0)
    points = CLOUDS[name]()
    queries = torch.cat([whole_numbers(40, points.shape[1], -5, 25), whole_numbers(5, points.shape[1], 400, 900)])
    nearest = NearestPoints(points[None], 5)
    assert (nearest.trees is not None) == tree
    assert torch.equal(nearest(queries)[0], plain(points, queries, 5))


@pytest.mark.parametrize("work", [2**20, 2000])
def test_a_tree_equals_exhaustive_search(work, monkeypatch):
    """Exactly, at arbitrary coordinates, for a batch with masks, however many distances are held at a time."""
    torch.manual_seed(1)
    points, queries = 30 * torch.randn(2, 700, 2), 60 * torch.randn(2, 300, 2)
    mask = torch.rand(2, 700) < 0.5
    monkeypatch.setattr(neighbours, "FEW", 1000)
    expected = NearestPoints(points, 4, mask)(queries)
    monkeypatch.setattr(neighbours, "FEW", 100)
    monkeypatch.setattr(neighbours, "WORK", work)
    assert torch.equal(NearestPoints(points, 4, mask)(queries), expected)
    assert mask.gather(1, expected.flatten(1)).all()


@pytest.mark.parametrize("few", [10, 1000])
def test_masked_points_are_never_returned(few, monkeypatch):
    monkeypatch.setattr(neighbours, "FEW", few)
    torch.manual_seed(0)
    points, mask = torch.rand(1, 60, 2), torch.zeros(1, 60, dtype=torch.bool)
    mask[0, [3, 17, 40, 59]] = True
    index = NearestPoints(points, 4, mask)(torch.rand(50, 2))
    assert (index.sort(dim=-1).values == torch.tensor([3, 17, 40, 59])).all()


def test_the_order_of_a_cloud_does_not_matter():
    """Even for equal distances: the queries include points equally far from several points of the grid."""
    torch.manual_seed(0)
    points = grid(9)[torch.randperm(81)] * 9
    order = torch.randperm(81)
    queries = grid((4, 5)) * 8
    index, of_ordered = NearestPoints(points[None], 4)(queries), NearestPoints(points[order][None], 4)(queries)
    assert torch.equal(points[index], points[order][of_ordered])


def test_shifting_points_and_coordinates_together_changes_nothing():
    """Rounding in float32 changes the distances of points on a grid slightly, but not the order of ties."""
    torch.manual_seed(0)
    pixel = 2 / 24
    points = grid(24)[torch.randperm(576)[:40]]
    queries = grid(24)
    index = NearestPoints(points[None] / pixel, 4)(queries / pixel)
    shift = torch.tensor([3 * pixel, -7 * pixel])
    assert torch.equal(NearestPoints((points + shift)[None] / pixel, 4)((queries + shift) / pixel), index)


@pytest.mark.parametrize("few", [10, 1000])
@pytest.mark.parametrize("coordinate", [torch.nan, torch.inf, -torch.inf, 1e38])
def test_points_at_no_finite_distance_come_last(few, coordinate, monkeypatch):
    monkeypatch.setattr(neighbours, "FEW", few)
    torch.manual_seed(0)
    points = torch.rand(1, 60, 2)
    points[0, ::2, 1] = coordinate
    assert (NearestPoints(points, 4)(torch.rand(30, 2)) % 2 == 1).all()


def test_a_chunk_of_a_grid_equals_its_points():
    torch.manual_seed(0)
    nearest, chunk = NearestPoints(torch.rand(2, 30, 2), 3), GridChunk(tuple(axis_centres((6, 7))), 4, 31)
    assert torch.equal(nearest(chunk), nearest(chunk.points)) and nearest(chunk).shape == (2, 27, 3)


def test_no_coordinates_give_an_empty_result():
    for num in (20, 600):
        assert NearestPoints(torch.rand(2, num, 2), 3)(torch.zeros(0, 2)).shape == (2, 0, 3)
