"""Train a classifier of signals, for the metric fd_classifier of sample/evaluate.py, of their latent clouds, or of their sizes.

    python train/classifier.py configs/digits/classifier.yaml
    python sample/evaluate.py runs/digits/diffusion --metrics fd_classifier,agreement --classifier runs/digits/classifier
    python train/classifier.py configs/digits/classifier_arc.yaml --augment.mix true
    python train/classifier.py configs/imagenette/classifier_size.yaml

Inception's features, learned on ImageNet photographs, say little about digits, curves or clips; those of a classifier
trained on the data say more. The third command trains a point transformer on anchored clouds (ARC) from a latent cache. The
fourth trains on nothing but the images' height and width: as accurate as that is, the sizes give the classes away. The
data set must have labels. The run folder receives config.yaml, metrics.jsonl (loss, held-out accuracy), checkpoints/ and, at
the end, model/ and confusion.png. Re-running the command resumes from the latest checkpoint.
"""

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import ClassifierRun


def train(config: ClassifierRun, config_path: str, restart: bool = False) -> None:
    import torch
    import torch.nn.functional as F

    from genrep.files import replacing
    from genrep.pictures import save_png
    from genrep.plots import draw_confusion
    from genrep.randomness import stream_seed
    from genrep.training.classification import open_classification, predictions, share_equal
    from genrep.training.optimizer import learning_rate
    from genrep.training.run import Run
    from genrep.training.state import TrainingState

    # data
    classification = open_classification(config, config_path)

    # run
    settings = config.run
    run = Run(config, settings, restart, identity=classification.identity)
    stream = classification.open(run)

    # models
    torch.manual_seed(settings.seed)  # the initial weights depend on the seed alone
    classifier = classification.build().to(run.device)
    forward = run.prepare(classifier)

    # optimizer
    state = TrainingState(classifier, config.optimizer, config.ema)
    optimizer, average = state.optimizer, state.average

    # resume
    state.restore(run.checkpoint)

    def evaluate() -> None:
        """Accuracy on the whole held-out split."""
        if run.is_main:
            with average.applied():
                metrics = classification.measure(classifier.eval())
            classifier.train()
            run.write(metrics)

    # loop
    classifier.train()
    for step, parts in run.training_steps(stream, config.data.num_workers):
        for batch in parts:
            # dropout uses the global generator; seeding it from the position makes a resumed run drop the same units
            torch.manual_seed(stream_seed(settings.seed, "dropout", batch.positions[0]))
            with run.accelerator.accumulate(forward):
                inputs, targets = classification.examples(batch)
                run.backward(F.cross_entropy(forward(*inputs), targets, label_smoothing=config.label_smoothing))
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
            labels, predicted = predictions(classifier, classification.held_out())
        names = classification.data.class_names
        matrix = draw_confusion(labels.numpy(), predicted.numpy(), names)
        save_png(torch.from_numpy(matrix).permute(2, 0, 1), run.folder / "confusion.png")
        accuracy = share_equal(labels, predicted)
        print(f"classifier: {run.folder / 'model'}: accuracy {accuracy:.2%} on {len(labels):,} held-out signals")
        print(f"confusion matrix: {run.folder / 'confusion.png'}")
    run.finish()


def dry_run(config: ClassifierRun, config_path: str) -> None:
    from genrep.training.classification import build_of_clouds, build_of_signals, build_of_sizes
    from genrep.training.describe import check_data, on_meta, print_parts
    from genrep.training.folders import describe_autoencoder

    print(f"run: {config.run.length} of {config.run.batch} signals")
    if config.classifier.type == "image_size":
        names = check_data(config.data, (1, 1), config.channels).class_names
        print_parts("classifier", on_meta(lambda: build_of_sizes(config, len(names), num_axes=2)))
    elif config.autoencoder is None:
        classes = check_data(config.data, config.image_shape, config.channels).class_names
        print_parts("classifier", on_meta(lambda: build_of_signals(config, len(classes))))
    else:
        spec = describe_autoencoder(config.autoencoder, config_path)
        config.latents.check_encoder(spec.encoder.type)
        classes = check_data(config.data, spec.image_shape, spec.channels).class_names
        print_parts("classifier", on_meta(lambda: build_of_clouds(config, len(classes), spec)))


def main() -> None:
    config, options = parse_command_line(ClassifierRun, __doc__, add_options=add_training_options)
    dry_run(config, options.config) if options.dry_run else train(config, options.config, options.restart)


if __name__ == "__main__":
    run_script(main)
