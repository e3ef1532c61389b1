"""Data order as a function of (seed, position): epochs, resuming, and division among processes."""

import pickle

import pytest
import torch

from genrep.data import ImageDataSpec
from genrep.data.images import ImageData
from genrep.errors import InputError
from genrep.randomness import normal_at
from genrep.training.order import DataOrder, PositionBatches, SignalStream, training_loader

NUM_IMAGES = 37


@pytest.fixture(scope="module")
def data():
    spec = ImageDataSpec(train_split=f"train[:{NUM_IMAGES}]", held_out_fraction=0.0, in_memory=True, source_size=12)
    return ImageData(spec, "train", (8, 8), 1)


def test_every_image_occurs_once_per_epoch():
    order = DataOrder(NUM_IMAGES, seed=3)
    epochs = [order.indices(list(range(e * NUM_IMAGES, (e + 1) * NUM_IMAGES))) for e in range(4)]
    assert all(sorted(epoch) == list(range(NUM_IMAGES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_order_depends_only_on_seed_and_position():
    whole = DataOrder(NUM_IMAGES, 3).indices(list(range(200)))
    assert [DataOrder(NUM_IMAGES, 3).indices([position])[0] for position in range(200)] == whole
    assert DataOrder(NUM_IMAGES, 3).indices([199, 0, 36, 37]) == [whole[position] for position in (199, 0, 36, 37)]
    assert DataOrder(NUM_IMAGES, 4).indices(list(range(200))) != whole


def test_workers_get_the_same_order():
    order = DataOrder(NUM_IMAGES, 3)
    assert pickle.loads(pickle.dumps(order)).indices(list(range(100))) == order.indices(list(range(100)))


def positions(batch=12, accumulation=1, process=(0, 1), first_step=0, last_step=5) -> list[list[int]]:
    batches = PositionBatches(batch, accumulation, process, first_step, last_step)
    parts = list(batches)
    assert len(parts) == len(batches)
    return parts


def test_a_step_takes_the_next_batch():
    assert positions(batch=4, last_step=3) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize("accumulation", [1, 3])
def test_batches_continue_after_resuming(accumulation):
    assert (
        positions(accumulation=accumulation, first_step=2) == positions(accumulation=accumulation)[2 * accumulation :]
    )
    assert positions(first_step=5) == []


@pytest.mark.parametrize("num_processes", [1, 2, 4])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_parts_of_all_processes_are_one_processes_batch(num_processes, accumulation):
    """24 images per step, for any number of processes and parts."""
    parts = [positions(24, accumulation, (rank, num_processes)) for rank in range(num_processes)]
    for step, whole in enumerate(positions(24)):
        pieces = [piece for process in parts for piece in process[step * accumulation : (step + 1) * accumulation]]
        assert len(pieces) == num_processes * accumulation and {len(piece) for piece in pieces} == {
            24 // (num_processes * accumulation)
        }
        assert sorted(position for piece in pieces for position in piece) == whole


@pytest.mark.parametrize(
    ("batch", "accumulation", "num_processes", "multiple"), [(10, 3, 1, 3), (10, 1, 4, 4), (12, 2, 4, 8)]
)
def test_a_batch_that_does_not_divide_is_refused(batch, accumulation, num_processes, multiple):
    message = rf"run.batch must be a multiple of {multiple} \(run.accumulation {accumulation} × processes {num_processes}\); got {batch}$"
    with pytest.raises(InputError, match=message):
        PositionBatches(batch, accumulation, (0, num_processes), 0, 1)


def seen(stream, first_step=0, num_workers=0, process=(0, 1)) -> list:
    return list(training_loader(stream, PositionBatches(8, 1, process, first_step, 8), num_workers))


def assert_equal(batch, other):
    assert batch.positions == other.positions and batch.indices == other.indices
    for name in ("mirrored", "signals", "source_signals", "labels"):
        assert torch.equal(getattr(batch, name), getattr(other, name)), name


def test_a_resumed_stream_equals_a_straight_one(data):
    stream = SignalStream(data, seed=0, flips=True, wants_source=True)
    straight, resumed = seen(stream), seen(SignalStream(data, seed=0, flips=True, wants_source=True), first_step=3)
    assert (len(straight), len(resumed)) == (8, 5)
    for batch, other in zip(straight[3:], resumed, strict=True):
        assert_equal(batch, other)


def test_two_processes_together_see_the_batch_of_one(data):
    """Including flips and labels: randomness is keyed by the position, not by the process that reads it."""
    stream = SignalStream(data, seed=0, flips=True)
    for whole, *parts in zip(seen(stream), seen(stream, process=(0, 2)), seen(stream, process=(1, 2)), strict=True):
        assert torch.equal(torch.cat([part.signals for part in parts]), whole.signals)
        assert torch.equal(torch.cat([part.mirrored for part in parts]), whole.mirrored)
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)


def test_a_batch_mirrors_the_images_it_marks(data):
    for batch in seen(SignalStream(data, seed=0, flips=True, wants_source=True)):
        for actual, plain in (
            (batch.signals, data.read(batch.indices)),
            (batch.source_signals, data.read(batch.indices, source=True)),
        ):
            expected = [
                image.flip(-1) if mirrored else image for image, mirrored in zip(plain, batch.mirrored, strict=True)
            ]
            assert torch.equal(actual, torch.stack(expected))
        assert torch.equal(batch.labels, data.labels[batch.indices])


def test_an_image_is_mirrored_in_half_of_the_epochs(data):
    """The draw is keyed by the position: keyed by the image, it would mirror an image always or never."""
    stream = SignalStream(data, seed=0, flips=True, wants_signals=False).__getitems__(list(range(200 * NUM_IMAGES)))
    share = torch.zeros(NUM_IMAGES).index_add_(0, torch.tensor(stream.indices), stream.mirrored.float()) / 200
    assert share.min() > 0.35 and share.max() < 0.65 and abs(share.mean() - 0.5) < 0.02


def test_nothing_unrequested_is_mirrored_or_read(data):
    batch = SignalStream(data, seed=0, flips=False).__getitems__([0, 1, 2])
    assert (
        not batch.mirrored.any()
        and torch.equal(batch.signals, data.read(batch.indices))
        and batch.source_signals is None
    )
    assert SignalStream(data, seed=0, flips=True, wants_signals=False).__getitems__([0]).signals is None


def test_noise_depends_only_on_the_position(data):
    """For any batch size, number of processes and restart; the numbers are those of `normal_at`."""
    noise = {"training noise": (4, 8), "other noise": (3,)}
    stream = SignalStream(data, seed=5, flips=False, wants_signals=False, noise=noise)
    batches = seen(stream)
    for name, shape in noise.items():
        whole = normal_at(range(64), shape, 5, name)
        assert torch.equal(torch.cat([batch.noise[name] for batch in batches]), whole)
        for batch in seen(stream, first_step=3):
            assert torch.equal(batch.noise[name], whole[batch.positions])
        parts = [seen(stream, process=(rank, 2)) for rank in (0, 1)]
        for one, two, batch in zip(*parts, batches, strict=True):
            assert torch.equal(torch.cat([one.noise[name], two.noise[name]]), batch.noise[name])
    assert SignalStream(data, seed=5, flips=False).__getitems__([0]).noise == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU's driver pins memory")
def test_the_loader_pins_every_tensor_of_a_batch(data):
    stream = SignalStream(data, seed=0, flips=True, wants_source=True, noise={"noise": (4, 8)})
    plain = seen(stream)
    loader = training_loader(stream, PositionBatches(8, 1, (0, 1), 0, 8), 1, pin=True)
    for batch, other in zip(loader, plain, strict=True):
        assert_equal(batch, other)
        tensors = [batch.mirrored, batch.signals, batch.source_signals, batch.labels, batch.noise["noise"]]
        assert all(tensor.is_pinned() for tensor in tensors) and not any(t.is_pinned() for t in other.noise.values())


def test_the_loader_leaves_the_global_generator_alone(data):
    before = torch.get_rng_state()
    seen(SignalStream(data, seed=0, flips=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_worker_processes_read_the_same_batches(data):
    stream = SignalStream(data, seed=0, flips=True, wants_source=True)
    for batch, other in zip(seen(stream), seen(stream, num_workers=2), strict=True):
        assert_equal(batch, other)
