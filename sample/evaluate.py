"""Measure a trained generator against a split of its data set.

    python sample/evaluate.py runs/digits/diffusion --metrics fid,kid,prc --num-images 10000
    python sample/evaluate.py runs/digits/diffusion --metrics fd_classifier,agreement --classifier runs/digits/classifier

Metrics: fid, kid, is, prc (precision and recall) and rfid (reconstructions) use Inception-v3, whose weights torch-fidelity
downloads or --inception-weights names. fd_classifier is the Fréchet distance of the features of a classifier trained on
the data set itself (train/classifier.py); agreement is the share of conditional samples that it assigns to their class.
Beside every Fréchet distance stand its floors: of reconstructions, and of the other split, against the reference. Of the
other split as many images are drawn as were generated, where it has them, since the number of images biases a distance.

The images are kept in RUN/evaluation, or in the folder `evaluation` next to --out, so that the run's folder may be
read-only; --images-folder names another. A run that was stopped goes on there, and a second metric costs no new images.
"""

import argparse
from pathlib import Path
from typing import Any

from genrep.errors import InputError, did_you_mean
from genrep.options import positive
from genrep.sampling import Sampling, parse_sampling
from genrep.training.config import run_script

INCEPTION_METRICS = ("fid", "kid", "is", "prc", "rfid")
CLASSIFIER_METRICS = ("fd_classifier", "agreement", "prc_classifier")


def evaluate(sampling: Sampling, options: argparse.Namespace) -> None:
    import time
    import warnings

    import torch

    from genrep.data.signals import check_signal, evenly
    from genrep.data.sources import MissingSource
    from genrep.devices import move
    from genrep.files import check_writable, file_hash, folder_hash, write_json
    from genrep.metrics.fidelity import (
        FEW_IMAGES,
        INCEPTION_FILE,
        Chosen,
        Pixels,
        check_enough,
        classifier_accuracy,
        classifier_distance,
        classifier_precision_recall,
        inception_distances,
        predicted_labels,
        prepare_inception,
    )
    from genrep.metrics.generated import GeneratedImages
    from genrep.metrics.reconstruction import reconstructions
    from genrep.models.classifier import ImageClassifier
    from genrep.pipelines import pipeline_name
    from genrep.training.accelerator import make_accelerator
    from genrep.training.folders import model_folder, run_config
    from genrep.training.specs import DiffusionRun, GANRun

    # what to measure
    metrics = parse_metrics(options.metrics)
    is_gan = pipeline_name(options.run) == "GANPipeline"
    config = run_config(options.run, GANRun) if is_gan else run_config(options.run, DiffusionRun)
    folder = model_folder(options.run, "pipeline")
    classifier = None
    if set(metrics) & set(CLASSIFIER_METRICS):
        if options.classifier is None:
            raise InputError(
                "fd_classifier, agreement and prc_classifier need --classifier RUN: train one with train/classifier.py"
            )
        classifier = ImageClassifier.from_pretrained(model_folder(options.classifier))
    if sampling.region is not None:
        raise InputError("--region: a part of an image cannot be compared with whole ones; leave it out")
    out = check_writable(options.out or Path(options.run) / "evaluation" / "report.json")

    # models and data
    accelerator = make_accelerator(device=options.device)
    device = str(accelerator.device)
    pipeline = move(sampling.load_pipeline(options.run), device, options.dtype)
    autoencoder = pipeline.autoencoder  # a GAN of pixels has none
    if "rfid" in metrics and autoencoder is None:
        raise InputError("rfid is of reconstructions, which a GAN of pixels has none of: leave it out of --metrics")
    shape, channels, signal = sampling.grid(pipeline), pipeline.channels, pipeline.signal
    if set(metrics) & set(INCEPTION_METRICS) and signal.dtype != torch.uint8:
        raise InputError("Inception's features are of images: measure other signals with fd_classifier and agreement")
    if classifier is not None:
        check_classifier(classifier, options.classifier, shape, pipeline)
    if "agreement" in metrics and not pipeline.num_classes:
        raise InputError("agreement: this model was trained without classes; leave it out of --metrics")
    data = config.data.without_source()
    sampling.refuse_resizing(pipeline, data)
    other = "train" if options.reference == "held_out" else "held_out"
    try:
        splits = {split: data.open(split, shape, channels) for split in (options.reference, other)}
    except MissingSource as error:  # a cache of latents, which training can do with, is not enough here
        raise InputError(f"{options.run}: its samples are measured against the images themselves: {error}") from error
    reference, counterpart = splits[options.reference], splits[other]
    for model in (pipeline, *([classifier] if classifier is not None else [])):
        check_signal(model, reference)
    reference_indices = evenly(len(reference), options.reference_images)
    if set(metrics) != {"agreement"}:
        check_enough(options.num_images, len(reference_indices))
    if accelerator.is_main_process and set(metrics) & set(INCEPTION_METRICS):
        prepare_inception(options.inception_weights)  # before hours of drawing, not after

    # images
    started = time.perf_counter()
    settings = {
        "pipeline": folder_hash(folder),
        "sampling": sampling.record(pipeline),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }
    place = options.images_folder or (out.parent / "evaluation" if options.out else out.parent)
    generated = GeneratedImages(Path(place), settings, options.num_images, pipeline.num_classes)
    generated.make(
        lambda indices, labels: sampling.images(pipeline, indices, labels, "kept"),
        (accelerator.process_index, accelerator.num_processes),
    )
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return

    # distances
    fakes, reals = Chosen(generated), Chosen(reference, reference_indices)
    floor_indices = evenly(len(counterpart), options.num_images)
    others = Chosen(counterpart, floor_indices)
    results: dict[str, float] = {}
    wants_floors = not options.no_floors and bool({"fid", "fd_classifier"} & set(metrics))
    decoded = None
    if autoencoder is not None and ("rfid" in metrics or wants_floors):
        originals = reference
        if shape != autoencoder.image_shape:
            originals = data.open(options.reference, autoencoder.image_shape, channels)
        decoded = Chosen(reconstructions(autoencoder, originals, reference_indices, shape, sampling.batch_size))

    def inception(images, wanted):
        pixels = Pixels(images), Pixels(reals)
        return inception_distances(*pixels, wanted, options.inception_weights, device, options.feature_batch)

    def classifier_fd(signals):
        assert classifier is not None  # checked above
        return classifier_distance(classifier, signal, signals, reals, options.feature_batch)

    if of_inception := [name for name in metrics if name in ("fid", "kid", "is", "prc")]:
        results |= inception(fakes, of_inception)
    if decoded is not None and ("rfid" in metrics or ("fid" in metrics and wants_floors)):
        results["rfid"] = inception(decoded, ["fid"])["fid"]
    if "fid" in metrics and wants_floors:
        results["fid_floor"] = inception(others, ["fid"])["fid"]
    if classifier is not None:
        results["classifier_accuracy"] = classifier_accuracy(classifier.to(device), splits["held_out"])
    if "fd_classifier" in metrics:
        results["fd_classifier"] = classifier_fd(fakes)
        if wants_floors:
            if decoded is not None:
                results["fd_reconstruction"] = classifier_fd(decoded)
            results["fd_floor"] = classifier_fd(others)
    if "prc_classifier" in metrics:
        assert classifier is not None  # checked above
        results |= classifier_precision_recall(classifier, signal, fakes, reals, options.feature_batch)
    if "agreement" in metrics:
        assert classifier is not None and generated.labels is not None  # checked above
        kept = torch.stack([generated[index] for index in range(len(generated))])
        agrees = torch.eq(predicted_labels(classifier, signal, kept), generated.labels)
        results["class_agreement"] = float(agrees.float().mean())

    # report
    if options.num_images < FEW_IMAGES:
        warnings.warn(
            f"{options.num_images} images: below {FEW_IMAGES:,} a Fréchet distance is biased upwards", stacklevel=1
        )
    if wants_floors and len(floor_indices) < options.num_images:
        warnings.warn(
            f"the floor is of the {len(floor_indices):,} images of {counterpart.name}, fewer than the {options.num_images:,} "
            "generated: it is biased upwards more than the distance of the samples. Generate as many, to compare them",
            stacklevel=1,
        )
    report = {
        "metrics": results,
        "num_images": options.num_images,
        **settings,
        "ema": config.ema.model_dump() if config.ema else None,
        "reference": {
            "name": reference.name,
            "fingerprint": reference.fingerprint(),
            "num_images": len(reference_indices),
            **reference.transform(),
        },
        "floor": {
            "name": counterpart.name,
            "num_images": len(floor_indices),
            "fewer_than_generated": len(floor_indices) < options.num_images,
        }
        if wants_floors
        else None,
        "reconstructions": {"num_images": len(decoded)} if decoded is not None else None,
        "features": {
            "inception_weights": file_hash(options.inception_weights)[:16]
            if options.inception_weights
            else INCEPTION_FILE,
            "classifier": folder_hash(model_folder(options.classifier)) if options.classifier else None,
        },
        "feature_batch": options.feature_batch,
        "kid_subset_size": min(1000, options.num_images, len(reference_indices)) if "kid" in metrics else None,
        "device": device,
        "biased": options.num_images < FEW_IMAGES,
        "torch": torch.__version__,
        "seconds": time.perf_counter() - started,
    }
    write_json(out, report)
    for name, value in results.items():
        print(f"{name}: {value:.6g}")
    print(f"report: {out}")


def parse_metrics(text: str) -> list[str]:
    """`fid,kid`: names of metrics with commas between them."""
    metrics = [name.strip() for name in text.split(",")]
    known = (*INCEPTION_METRICS, *CLASSIFIER_METRICS)
    for name in metrics:
        if name not in known:
            raise InputError(f"--metrics: {name!r} is not one of {', '.join(known)}{did_you_mean(name, known)}")
    return metrics


def check_classifier(classifier: Any, place: str, shape: tuple[int, ...], pipeline: Any) -> None:
    """InputError for a classifier of signals of another grid, of other channels or classes than the samples have."""
    own = {**classifier.config, "image_size": classifier.image_shape}
    wanted = {"image_size": shape, "channels": pipeline.channels}
    if pipeline.num_classes:
        wanted["num_classes"] = pipeline.num_classes
    for key, value in wanted.items():
        if own[key] != value:
            given = f"{_sizes(own[key])}, the samples have {_sizes(value)}"
            raise InputError(f"--classifier {place}: its {key} is {given}; train one for these images")


def _sizes(value: object) -> str:
    """A number, or the lengths of a grid: 32×32."""
    return "×".join(map(str, value)) if isinstance(value, tuple) else str(value)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder of stage 2")
    parser.add_argument(
        "--metrics", default="fid", help=f"some of {','.join((*INCEPTION_METRICS, *CLASSIFIER_METRICS))} (default fid)"
    )
    parser.add_argument(
        "--num-images", type=positive, default=10_000, help="images to generate, classes in turn (default 10000)"
    )
    parser.add_argument(
        "--reference",
        choices=["held_out", "train"],
        default="held_out",
        help="split to compare with (default held_out)",
    )
    parser.add_argument("--reference-images", type=positive, help="images of it (default: all)")
    parser.add_argument(
        "--inception-weights", help="file of torch-fidelity's Inception weights (default: its own download)"
    )
    parser.add_argument("--classifier", help="run or model folder of train/classifier.py")
    parser.add_argument(
        "--feature-batch", type=positive, default=64, help="images at a time in the feature network (default 64)"
    )
    parser.add_argument("--no-floors", action="store_true", help="leave out the floors of the Fréchet distances")
    parser.add_argument("--out", help="JSON report (default RUN/evaluation/report.json)")
    parser.add_argument(
        "--images-folder",
        help="where generated images are kept (default RUN/evaluation; with --out the folder evaluation next to it)",
    )


def main() -> None:
    evaluate(*parse_sampling(__doc__, add_options))


if __name__ == "__main__":
    run_script(main)
