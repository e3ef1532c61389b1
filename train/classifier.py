"""Train a classifier on the data set itself: the feature network of fd_classifier, where Inception's weights mean little.

    python train/classifier.py configs/digits/classifier.yaml

The run folder gets config.yaml, metrics.jsonl, checkpoints/ and model/, which sample/evaluate.py --classifier reads. The
same command goes on from the last checkpoint of a run that was stopped.
"""

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import ClassifierRun


def train(config: ClassifierRun, restart: bool = False) -> None:
    import torch
    import torch.nn.functional as F

    from genrep.data.images import open_images
    from genrep.errors import InputError
    from genrep.files import replacing
    from genrep.metrics.fidelity import classifier_accuracy
    from genrep.models.classifier import ImageClassifier
    from genrep.randomness import stream_seed, uniform_at
    from genrep.render import from_uint8
    from genrep.training.order import ImageStream
    from genrep.training.run import Run
    from genrep.training.state import TrainingState

    # data
    shape = (config.image_size, config.image_size)
    data, held_out = open_images(config.data, shape, config.channels)
    if data.labels is None:
        raise InputError(
            f"{data.name}: a classifier needs labels, and data.label_column {config.data.label_column!r} is not there"
        )

    # run
    settings = config.run
    run = Run(config, settings, restart, identity={"data": data.fingerprint()})
    stream = ImageStream(data, settings.seed, config.data.flip)

    # models
    torch.manual_seed(settings.seed)
    arguments = {"image_size": config.image_size, "channels": config.channels, "num_classes": len(data.class_names)}
    classifier = ImageClassifier(**arguments, **config.classifier.model_dump()).to(run.device)
    forward = run.accelerator.prepare(classifier)
    if settings.compile:
        forward = torch.compile(forward)

    # optimizer
    state = TrainingState(classifier, config.optimizer, config.ema, run.num_steps)

    # resume
    state.restore(run.checkpoint)

    def shifted(images, positions):
        """Images moved by up to `config.shift` pixels each way, the border pixels repeated."""
        span = 2 * config.shift + 1
        moves = (uniform_at(positions, (2,), settings.seed, "shift") * span).long().tolist()
        padded = F.pad(images, [config.shift] * 4, mode="replicate")
        return torch.stack(
            [image[:, y : y + shape[0], x : x + shape[1]] for image, (y, x) in zip(padded, moves, strict=True)]
        )

    def evaluate() -> None:
        if run.is_main:
            with state.average.applied():
                accuracy = classifier_accuracy(classifier.eval(), held_out)
            classifier.train()
            run.write({"accuracy": accuracy, "held_out_images": len(held_out)})

    # loop
    classifier.train()
    for batch in run.training_batches(stream, config.data.num_workers):
        torch.manual_seed(stream_seed(settings.seed, "dropout", batch.positions[0]))
        assert batch.pixels is not None and batch.labels is not None
        with run.accelerator.accumulate(forward):
            images = shifted(from_uint8(batch.pixels.to(run.device)), batch.positions)
            loss = F.cross_entropy(forward(images), batch.labels.to(run.device))
            run.backward(loss)
        if run.finish_step(state):
            if run.due(settings.evaluate_every):
                evaluate()
            if run.due(settings.save_every):
                run.save(state)

    # done
    if run.is_main:
        with state.average.applied():
            with replacing(run.folder / "model") as partial:
                classifier.eval().save_pretrained(partial)
            print(
                f"classifier: {run.folder / 'model'}: {classifier_accuracy(classifier, held_out):.2%} of {len(held_out):,} held-out images right"
            )
    run.finish()


def dry_run(config: ClassifierRun) -> None:
    from genrep.models.classifier import ImageClassifier
    from genrep.training.stages import build_empty, check_data, print_parts

    print(f"run: {config.run.num_steps:,} steps of {config.run.batch} images")
    classes = check_data(config.data, (config.image_size, config.image_size), config.channels)
    sizes = {"image_size": config.image_size, "channels": config.channels, "num_classes": classes}
    print_parts("classifier", build_empty(ImageClassifier, {**sizes, **config.classifier.model_dump()}))


def main() -> None:
    config, options = parse_command_line(ClassifierRun, __doc__, add_options=add_training_options)
    dry_run(config) if options.dry_run else train(config, options.restart)


if __name__ == "__main__":
    run_script(main)
