"""Batched clouds: neighbours, thinning, pooling and ordering against plain loops."""

import torch

from genrep.nn.clouds import Cloud, farthest_points, gather, grid_cells, interleave, nearest, pool_cells


def clouds(sizes=(7, 4), seed=0, axes=2, dim=3):
    """Clouds of these sizes, padded with absent points at random places."""
    generator = torch.Generator().manual_seed(seed)
    largest = max(sizes)
    positions = torch.rand(len(sizes), largest, axes, generator=generator) * 2 - 1
    features = torch.randn(len(sizes), largest, dim, generator=generator)
    mask = torch.arange(largest) < torch.tensor(sizes)[:, None]
    return Cloud(positions, features, mask)


def test_nearest_equals_a_sort_of_all_distances():
    cloud = clouds()
    queries = torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    indices, present = nearest(queries, cloud, 5, 0.1)
    for b, size in enumerate((7, 4)):
        for q in range(5):
            distances = (cloud.positions[b, :size] - queries[b, q]).norm(dim=-1)
            expected = distances.argsort()[:5]
            assert indices[b, q, : len(expected)].tolist() == expected.tolist()
            assert present[b, q].sum() == min(5, size)


def test_nearest_returns_all_points_if_there_are_fewer_than_count():
    cloud = clouds((3, 3))
    indices, present = nearest(cloud.positions, cloud, 10, 0.1)
    assert indices.shape == (2, 3, 3) and bool(present.all())


def test_farthest_points_equal_the_greedy_definition():
    cloud = clouds((7, 4))
    indices, mask = farthest_points(cloud, torch.tensor([4, 2]), 0.1)
    assert mask.tolist() == [[True] * 4, [True, True, False, False]]
    for b, (size, count) in enumerate(((7, 4), (4, 2))):
        points = cloud.positions[b, :size]
        chosen = [int((points - points.mean(0)).norm(dim=-1).argmin())]
        while len(chosen) < count:
            chosen.append(int(torch.cdist(points, points[chosen]).amin(1).argmax()))
        assert indices[b, :count].tolist() == chosen


def test_pooled_cells_have_maximum_features_and_mean_positions():
    cloud = clouds((7, 4))
    cells = grid_cells(cloud.positions, 2, -1.0, 1.0)
    pooled = pool_cells(cloud, cells, 2)
    for b, size in enumerate((7, 4)):
        by_cell = {}
        for point in range(size):
            by_cell.setdefault(tuple(cells[b, point].tolist()), []).append(point)
        assert pooled.mask[b].sum() == len(by_cell)
        for row, cell in enumerate(sorted(by_cell)):
            members = by_cell[cell]
            torch.testing.assert_close(pooled.features[b, row], cloud.features[b, members].amax(0))
            torch.testing.assert_close(pooled.positions[b, row], cloud.positions[b, members].mean(0))


def test_cells_and_their_order_along_the_curve():
    positions = torch.tensor([[[-1.0, -1.0], [-1.0, 0.99], [0.0, 0.0], [5.0, -5.0]]])
    cells = grid_cells(positions, 4, -1.0, 1.0)
    assert cells.tolist() == [[[0, 0], [0, 3], [2, 2], [3, 0]]]
    # y has the higher bit of each pair: (0, 0) 0000, (0, 3) 0101, (2, 2) 1100, (3, 0) 1010
    assert interleave(cells, 2).tolist() == [[0, 5, 12, 10]]


def test_gather_takes_rows_of_each_cloud():
    values = torch.arange(12.0).view(2, 3, 2)
    rows = gather(values, torch.tensor([[[2, 0]], [[1, 1]]]))
    assert rows.tolist() == [[[[4, 5], [0, 1]]], [[[8, 9], [8, 9]]]]
