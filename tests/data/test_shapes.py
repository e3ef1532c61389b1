"""The signed distance of a shape as a single signal: closed forms for spheres and cubes, and the messages about bad files."""

import tracemalloc

import numpy as np
import pytest
import torch
import trimesh

from genrep.coords import grid
from genrep.data.single import PointsSpec, ShapeSourceSpec
from genrep.data.single.base import Share
from genrep.data.single.shapes import BYTES_PER_POINT, open_shape
from genrep.errors import InputError
from genrep.signals import raster
from genrep.signals.meshes import Mesh, chamfer_distance, extract_mesh, inside, intersection_over_union
from genrep.specs import validate
from genrep.training.specs import FieldRun
from tests.scripts import PROJECT


def opened(path, **keys):
    return open_shape(
        validate(
            ShapeSourceSpec,
            {"type": "shape", "source": str(path), "grid_size": 32, "num_surface_points": 20_000, **keys},
        )
    )


def cloud(path, points, normals=None):
    """Write a PLY of points, with normals if they are given."""
    rows = points if normals is None else np.hstack([points, normals])
    names = ["x", "y", "z", "nx", "ny", "nz"][: rows.shape[1]]
    head = ["ply", "format ascii 1.0", f"element vertex {len(rows)}", *[f"property float {name}" for name in names]]
    path.write_text("\n".join([*head, "end_header", *[" ".join(f"{x:.7g}" for x in row) for row in rows]]) + "\n")
    return path


class Field:
    """A function of coordinates that renders like a field."""

    def __init__(self, function, size=32):
        self.function, self.size = function, size

    def render(self, size=None):
        shape = (self.size,) * 3
        return self.function(grid(shape)).view(1, *shape)


def sphere_distance(coords, radius=0.9):
    """Signed distance of a sphere in [-1, 1]³, in units of the cube's side."""
    return (coords.norm(dim=-1) - radius) / 2


@pytest.fixture(scope="module")
def sphere(tmp_path_factory):
    """A sphere of radius 3 around (5, -2, 1), which becomes one of radius 0.9 in the cube."""
    path = tmp_path_factory.mktemp("shapes") / "sphere.ply"
    mesh = trimesh.creation.icosphere(5, radius=3)
    mesh.apply_translation([5, -2, 1])
    mesh.export(path)
    return path


@pytest.mark.parametrize("size", [100_000, 10**9])
def test_a_grid_that_exceeds_the_memory_is_refused(tmp_path, size):
    message = rf"signal.grid_size {size}: measuring .* points would take [\d,]+ GiB, but cpu has [\d,]+ GiB: lower signal.grid_size$"
    with pytest.raises(InputError, match=message):  # before the file is read
        opened(tmp_path / "missing.ply", grid_size=size)


def test_the_interior_of_a_mesh_takes_less_memory_than_is_checked(sphere, monkeypatch):
    monkeypatch.setattr(raster, "CANDIDATES", 10_000)  # what does not depend on the grid is small
    single = opened(sphere, grid_size=128)
    tracemalloc.start()
    try:
        assert single.is_inside.shape == (128, 128, 128)
        peak = tracemalloc.get_traced_memory()[1] / 128**3
    finally:
        tracemalloc.stop()
    assert 5 < peak < BYTES_PER_POINT - 4  # the render takes 4


def test_the_distance_of_a_sphere_is_its_closed_form(sphere, tmp_path):
    ball = trimesh.creation.icosphere(6).vertices
    coords = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    coords = coords[coords.norm(dim=-1) > 0.2]  # all points of the surface are equally far from the centre
    for path in (sphere, cloud(tmp_path / "ball.ply", 7 * ball + 1, ball)):
        single = opened(path)
        assert single.distances(coords).numpy() == pytest.approx(sphere_distance(coords).numpy(), abs=1e-3)
        points = single.points(PointsSpec(num_coords=500), torch.Generator().manual_seed(0))
        assert points.values[:, 0].numpy() == pytest.approx(sphere_distance(points.coords).numpy(), abs=2e-2)


def test_points_are_moved_off_the_surface_by_two_scales_of_noise(sphere):
    """The mean absolute value of Laplace noise is its scale; a shift along a sphere's normal mixes those of three axes."""
    points = opened(sphere).points(PointsSpec(num_coords=20_001), torch.Generator().manual_seed(0))
    far, near = points.values[:10_001, 0], points.values[10_001:, 0]
    assert points.coords.shape == (20_001, 3) and points.coords.abs().max() <= 1
    assert 0.0005 < float(near.abs().mean()) < 0.0011 and float(near.abs().max()) < 0.02
    assert 0.05 < float(far.abs().mean()) < 0.11
    single = opened(sphere, uniform=0.5, noise=[0.001])
    uniform = single.points(PointsSpec(num_coords=4000), torch.Generator().manual_seed(0)).coords[2000:]
    assert float(uniform.square().mean()) == pytest.approx(1 / 3, rel=0.05)


def test_the_shares_of_all_processes_are_the_points_of_one(sphere):
    single, how = opened(sphere, uniform=0.1), PointsSpec(num_coords=101)
    whole = single.points(how, torch.Generator().manual_seed(3))
    parts = [single.points(how, torch.Generator().manual_seed(3), Share(rank, 3)) for rank in range(3)]
    for name in ("coords", "values"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    alone = PointsSpec(num_coords=1)  # of two processes one has no point
    shares = [single.points(alone, torch.Generator().manual_seed(3), Share(rank, 2)) for rank in range(2)]
    assert [part.values.shape for part in shares] == [(1, 1), (0, 1)]
    other_seed = single.points(how, torch.Generator().manual_seed(4))
    assert not torch.equal(other_seed.coords, whole.coords) and not single.is_fixed(how)


def test_metrics_of_a_sphere_against_a_smaller_one(sphere):
    """IoU is the ratio of the volumes, the Chamfer distance twice the gap between the surfaces, in units of the side."""
    single = opened(sphere, grid_size=64)
    metrics = single.measure(Field(lambda coords: sphere_distance(coords, 0.6), 64))
    assert metrics["iou"] == pytest.approx((0.6 / 0.9) ** 3, rel=2e-2)
    assert metrics["chamfer"] == pytest.approx(2 * 0.3 / 2, rel=2e-2)
    exact = single.measure(Field(sphere_distance, 64))
    assert exact["iou"] > 0.99 and exact["chamfer"] < 0.012
    assert single.measure(Field(lambda coords: coords[:, 0] + 2, 64)) == {"iou": 0.0}, "nowhere 0"


def box(low, high):
    mesh = trimesh.creation.box(bounds=[low, high])
    return Mesh(np.asarray(mesh.vertices)[:, ::-1], np.asarray(mesh.faces))


def test_cubes_that_overlap_by_half_have_an_iou_of_a_third():
    """The cubes differ along one axis only, so that a swap of axes is noticed."""
    cube, moved = box([-0.5, -0.5, -0.5], [0.5, 0.5, 0.5]), box([0.0, -0.5, -0.5], [1.0, 0.5, 0.5])
    first, second = inside(cube, 32), inside(moved, 32)
    assert first.sum() == 16**3 and first[8:24, 8:24, 8:24].all()
    assert second.sum() == 16**3 and second[8:24, 8:24, 16:].all()
    assert intersection_over_union(first, second) == pytest.approx(1 / 3)
    assert inside(Mesh(cube.vertices, cube.faces[:, ::-1]), 32).sum() == 16**3, "turned inside out"
    assert intersection_over_union(first & False, second & False) == 1


def test_chamfer_distance_is_the_sum_of_both_means():
    point, pair = np.zeros((1, 3)), np.array([[0, 0, 1.0], [0, 0, 2.0]])
    assert chamfer_distance(point, pair) == pytest.approx((1.5 + 1.0) / 2)
    assert chamfer_distance(pair, pair) == 0


def test_marching_cubes_finds_a_plane_at_its_position():
    mesh = extract_mesh(Field(lambda coords: coords[:, 2] - 0.3).render()[0].numpy())
    assert mesh.vertices[:, 2] == pytest.approx(np.full(len(mesh.vertices), 0.3), abs=1e-6)
    assert extract_mesh(np.ones((8, 8, 8), dtype=np.float32)) is None
    a, b, c = (mesh.vertices[mesh.faces[:, corner], ::-1] for corner in range(3))
    assert (np.cross(b - a, c - a)[:, 0] > 0).all(), "seen from outside, where distances are positive"


def test_the_mesh_has_the_size_and_position_of_the_shape(sphere, tmp_path):
    (path,) = opened(sphere).save(Field(sphere_distance), tmp_path)
    mesh = trimesh.load(path)
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * 27, rel=2e-2)
    assert mesh.bounds.mean(0) == pytest.approx([5, -2, 1], abs=1e-3)
    assert opened(sphere).save(Field(lambda coords: coords[:, 0] + 2), tmp_path) == []


def test_a_picture_shows_the_surface_the_shape_and_the_error(sphere):
    """A surface that is off by one per cent of the side or more has viridis's brightest colour, yellow."""
    single = opened(sphere)
    whole, wrong = (single.picture(Field(lambda c, r=r: sphere_distance(c, r))) for r in (0.9, 0.86))
    height, width = whole.shape[1] // 2, whole.shape[2] // 6
    middles = [picture[:, height, [width, 3 * width, 5 * width]].T.tolist() for picture in (whole, wrong)]
    assert middles[0][0] == pytest.approx(middles[0][1], abs=12), "the field is the sphere"
    red, green, blue = middles[1][2]
    assert red > 2 * blue and green > 2 * blue and max(middles[0][2][:2]) < middles[0][2][2] + 40


def test_files_that_are_not_shapes_are_refused(tmp_path, sphere):
    ball = trimesh.creation.icosphere(1).vertices
    (tmp_path / "empty.obj").write_text("")
    (tmp_path / "text.ply").write_text("no shape")
    (tmp_path / "cut.ply").write_bytes(sphere.read_bytes()[:5000])
    (tmp_path / "flat.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n")
    (tmp_path / "nan.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\nnan 1 0\n3 0 1 2\n")
    (tmp_path / "point.off").write_text("OFF\n3 1 0\n1 1 1\n1 1 1\n1 1 1\n3 0 1 2\n")
    (tmp_path / "huge.off").write_text("OFF\n3 1 0\n0 0 0\n1e200 0 0\n0 1e200 0\n3 0 1 2\n")
    (tmp_path / "face.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n"
    )
    (tmp_path / "a.txt").write_text("")
    cloud(tmp_path / "bare.ply", ball)
    cloud(tmp_path / "zero.ply", ball, 0 * ball)
    for name, message in (
        ("nowhere.obj", "nowhere.obj' does not exist: give a mesh, or a cloud of points with normals"),
        ("a.txt", "must be one of .obj, .ply, .stl, .off; got .txt"),
        ("empty.obj", "must have points; got none|cannot be read as a shape: it is empty or damaged"),
        ("text.ply", r"cannot be read as a shape: it is empty or damaged \(\S"),
        ("cut.ply", r"cannot be read as a shape: it is empty or damaged \(\S"),
        ("flat.off", "its faces must have an area; got 1 without any"),
        ("nan.off", "coordinates must be finite; got NaN or infinite ones"),
        ("point.off", "must have an extent; all of its points coincide"),
        ("huge.off", r"its extent must be between 1e-30 and 1e\+30; got 1e\+200"),
        ("face.ply", "is damaged: a face refers to vertex 9, and there are 3, counted from 0"),
        ("bare.ply", r"must have faces, or a normal \(nx, ny, nz\) for each point; got 42 points without either"),
        ("zero.ply", "normals must be finite and longer than 0, one for each point"),
    ):
        with pytest.raises(InputError, match=f"^signal.source .*{message}"):
            opened(tmp_path / name)


def test_keys_that_shift_pixels_are_refused_for_a_shape():
    content = {
        "signal": {"type": "shape", "source": "a.obj"},
        "field": {"type": "positional_mlp"},
        "run": {"folder": "x", "batch": 1, "steps": 1},
    }
    with pytest.raises(InputError, match="fitting.coords and fitting.targets apply to signals on a grid"):
        validate(FieldRun, {**content, "fitting": {"coords": "uniform"}})
    assert validate(FieldRun, content).signal.grid_size == 128 and (PROJECT / "train" / "field.py").exists()
