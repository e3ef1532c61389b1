"""Train a classifier on the data set itself, as the feature network of sample/evaluate.py's fd_classifier metric.

    python train/classifier.py configs/digits/classifier.yaml
    python sample/evaluate.py runs/digits/diffusion --metrics fd_classifier,agreement --classifier runs/digits/classifier

Inception's features, learned on ImageNet photographs, say little about digits, curves or clips; those of a classifier
trained on the data say more. The data set must have labels. The run folder receives config.yaml, metrics.jsonl (loss,
held-out accuracy), checkpoints/ and, at the end, model/. Re-running the command resumes from the latest checkpoint.
"""

from typing import TYPE_CHECKING, Any

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import ClassifierRun

if TYPE_CHECKING:
    from genrep.models.classifier import ImageClassifier


def build(config: ClassifierRun, num_classes: int, signal: dict[str, Any] | None = None) -> "ImageClassifier":
    """The model of a run. `signal` is the spec of its kind of signals, as plain data; None means images."""
    from genrep.models.classifier import ImageClassifier

    return ImageClassifier(
        config.image_size, config.channels, num_classes, **config.classifier.model_dump(), signal=signal
    )


def train(config: ClassifierRun, restart: bool = False) -> None:
    import torch
    import torch.nn.functional as F

    from genrep.data.signals import check_whole
    from genrep.errors import InputError
    from genrep.files import replacing
    from genrep.metrics.fidelity import classifier_accuracy
    from genrep.randomness import stream_seed, uniform_at
    from genrep.training.augment import cut_out, shifted
    from genrep.training.optimizer import learning_rate
    from genrep.training.order import SignalStream
    from genrep.training.run import Run
    from genrep.training.state import TrainingState

    # data
    shape = config.image_shape
    data, held_out = (config.data.open(split, shape, config.channels) for split in ("train", "held_out"))
    if data.labels is None:
        raise InputError(
            f"{data.name} has no labels, which a classifier needs: set data.label_column (images) or data.labels_key (arrays)"
        )
    check_whole(data, "a classifier")

    # run
    settings = config.run
    run = Run(config, settings, restart, identity={"data": data.fingerprint()})
    stream = SignalStream(data, settings.seed, data.flips)

    # models
    torch.manual_seed(settings.seed)  # the initial weights depend on the seed alone
    classifier = build(config, len(data.class_names), data.signal.spec.model_dump()).to(run.device)
    forward = run.prepare(classifier)

    # optimizer
    state = TrainingState(classifier, config.optimizer, config.ema)
    optimizer, average = state.optimizer, state.average

    # resume
    state.restore(run.checkpoint)

    def augmented(batch):
        """A batch's signals, randomly shifted and with a part cut out; their positions key the random numbers."""
        signals = data.signal.values(batch.signals.to(run.device, non_blocking=True))
        draws = uniform_at(batch.positions, (len(shape),), settings.seed, "shift")
        signals = shifted(signals, config.shift, draws)
        if config.cutout:
            draws = uniform_at(batch.positions, (len(shape),), settings.seed, "cutout")
            signals = cut_out(signals, config.cutout, draws)
        if run.device.type == "cuda" and len(shape) == 2:
            return signals.to(memory_format=torch.channels_last)  # the layout of the fast convolutions on GPUs
        return signals

    def evaluate() -> None:
        """Accuracy on all held-out signals."""
        if run.is_main:
            with average.applied():
                accuracy = classifier_accuracy(classifier.eval(), held_out)
            classifier.train()
            run.write({"accuracy": accuracy, "held_out_images": len(held_out)})

    # loop
    classifier.train()
    for step, parts in run.training_steps(stream, config.data.num_workers):
        for batch in parts:
            # dropout draws from the global generator: seeded from the position, a resumed run drops the same units
            torch.manual_seed(stream_seed(settings.seed, "dropout", batch.positions[0]))
            assert batch.labels is not None
            with run.accelerator.accumulate(forward):
                labels = batch.labels.to(run.device, non_blocking=True)
                loss = F.cross_entropy(forward(augmented(batch)), labels, label_smoothing=config.label_smoothing)
                run.backward(loss)
        rate = learning_rate(config.optimizer, step, run.num_steps)
        gradient_norm = optimizer.clip_gradients()
        optimizer.step(rate)
        average.update(step + 1)
        run.end_step(state, lr=rate, gradient_norm=gradient_norm)

        if run.due(settings.evaluate_every):
            evaluate()
        if run.due(settings.save_every):
            run.save(state)

    # done
    if run.is_main:
        with average.applied():
            with replacing(run.folder / "model") as partial:
                classifier.eval().save_pretrained(partial)
            accuracy = classifier_accuracy(classifier, held_out)
            print(f"classifier: {run.folder / 'model'}: accuracy {accuracy:.2%} on {len(held_out):,} held-out signals")
    run.finish()


def dry_run(config: ClassifierRun) -> None:
    from genrep.training.describe import check_data, on_meta, print_parts

    print(f"run: {config.run.length} of {config.run.batch} signals")
    num_classes = len(check_data(config.data, config.image_shape, config.channels).class_names)
    print_parts("classifier", on_meta(lambda: build(config, num_classes)))


def main() -> None:
    config, options = parse_command_line(ClassifierRun, __doc__, add_options=add_training_options)
    dry_run(config) if options.dry_run else train(config, options.restart)


if __name__ == "__main__":
    run_script(main)
