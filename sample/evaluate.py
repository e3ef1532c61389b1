"""Measure a trained generator against a split of its data set.

    python sample/evaluate.py runs/digits/diffusion --metrics fid,kid,prc --num-images 10000
    python sample/evaluate.py runs/digits/diffusion --metrics fd_classifier,agreement --classifier runs/digits/classifier

Metrics:
    fid, kid, is, prc  with Inception-v3's features (prc: precision and recall), for images. torch-fidelity downloads the
                       weights, or --inception-weights names a file of them
    rfid               FID of the autoencoder's reconstructions
    fd_classifier      Fréchet distance with the features of a classifier trained on the data set itself, for any signals;
                       train the classifier with train/classifier.py
    agreement          share of conditional samples that this classifier assigns to their class (class_agreement in the report)
    prc_classifier     precision and recall with this classifier's features

Every Fréchet distance comes with its floors: the distances of reconstructions, and of real images of the other split, to the
reference. Since the number of images biases a distance, the other split contributes as many images as were generated, if it
has them.

Generated images are kept in RUN/evaluation, in the folder `evaluation` next to --out if that is given (the run folder may
then be read-only), or in --images-folder. Re-running the command resumes an interrupted evaluation, and adding a metric
generates no new images.
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

    import torch

    from genrep.data.signals import check_signal, evenly
    from genrep.data.sources import MissingSource
    from genrep.devices import move
    from genrep.files import check_writable, file_hash, folder_hash, write_json
    from genrep.metrics.evaluation import Evaluation, warn_about_few
    from genrep.metrics.fidelity import FEW_IMAGES, INCEPTION_FILE, Chosen, check_enough, prepare_inception
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
        raise InputError("--region: a part of an image cannot be compared with whole images; leave it out")
    out = check_writable(options.out or Path(options.run) / "evaluation" / "report.json")

    # models and data; all that can be wrong is found here, before hours of drawing
    accelerator = make_accelerator(device=options.device)
    device = str(accelerator.device)
    pipeline = move(sampling.load_pipeline(options.run), device, options.dtype)
    autoencoder = pipeline.autoencoder  # None for a GAN of pixels
    shape, channels, signal = sampling.grid(pipeline), pipeline.channels, pipeline.signal
    check_metrics(metrics, pipeline)
    if classifier is not None:
        check_classifier(classifier, options.classifier, shape, pipeline)
    # the reference: the same pixels that the encoder was trained on, at the size of the samples
    data = config.data.without_source()
    data.check_one_size("sample/evaluate.py")
    sampling.refuse_resizing(pipeline, data)
    other_split = "train" if options.reference == "held_out" else "held_out"
    try:
        splits = {split: data.open(split, shape, channels) for split in (options.reference, other_split)}
    except MissingSource as error:  # unlike training, this cannot do with a cache of latents
        raise InputError(f"{options.run}: its samples are measured against the images themselves: {error}") from error
    reference, counterpart = splits[options.reference], splits[other_split]
    for model in (pipeline, *([classifier] if classifier is not None else [])):
        check_signal(model, reference)
    reference_indices = evenly(len(reference), options.reference_images)
    if set(metrics) != {"agreement"}:  # a covariance needs at least two images; a share of right classes does not
        check_enough(options.num_images, len(reference_indices))
    if accelerator.is_main_process and set(metrics) & set(INCEPTION_METRICS):
        prepare_inception(options.inception_weights)

    # images
    started = time.perf_counter()
    # everything that the images depend on: their folder is named by its hash, so that images of another model or other
    # settings are never taken for these
    settings = {
        "pipeline": folder_hash(folder),
        "sampling": sampling.record(pipeline),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }
    images_folder = options.images_folder or (out.parent / "evaluation" if options.out else out.parent)
    generated = GeneratedImages(Path(images_folder), settings, options.num_images, pipeline.num_classes)
    # in the stored form, uint8 for images: metrics see what a saved picture would hold
    generated.make(
        lambda indices, labels: sampling.images(pipeline, indices, labels, "kept"),
        (accelerator.process_index, accelerator.num_processes),
    )
    accelerator.wait_for_everyone()  # for the chunks that the other processes generate
    if not accelerator.is_main_process:
        return

    # distances, on one process: torch-fidelity knows no others
    with_floors = not options.no_floors and bool({"fid", "fd_classifier"} & set(metrics))
    decoded = None
    if autoencoder is not None and ("rfid" in metrics or with_floors):
        originals = reference
        if shape != autoencoder.image_shape:  # encoded at the size it was trained on, rendered at that of the samples
            originals = data.open(options.reference, autoencoder.image_shape, channels)
        decoded = Chosen(reconstructions(autoencoder, originals, reference_indices, shape, sampling.batch_size))
    floor_indices = evenly(len(counterpart), options.num_images)
    results = Evaluation(
        generated=generated,
        reference=Chosen(reference, reference_indices),
        counterpart=Chosen(counterpart, floor_indices),
        reconstructions=decoded,
        held_out=splits["held_out"],
        signal=signal,
        classifier=classifier,
        inception_weights=options.inception_weights,
        device=device,
        batch=options.feature_batch,
    ).measure(metrics, with_floors)

    # report
    warn_about_few(options.num_images, len(floor_indices) if with_floors else None, counterpart.name)
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
        if with_floors
        else None,
        "reconstructions": {"num_images": len(decoded)} if decoded is not None else None,
        # distances compare only between equal features, reference and numbers of images, so the report names them all
        "features": {
            "inception_weights": file_hash(options.inception_weights)[:16]
            if options.inception_weights
            else INCEPTION_FILE,
            "classifier": folder_hash(model_folder(options.classifier)) if options.classifier else None,
        },
        "feature_batch": options.feature_batch,  # results move with it in the last digits
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
    """`fid,kid`: names of metrics, separated by commas."""
    metrics = [name.strip() for name in text.split(",")]
    known = (*INCEPTION_METRICS, *CLASSIFIER_METRICS)
    for name in metrics:
        if name not in known:
            raise InputError(f"--metrics: {name!r} is not one of {', '.join(known)}{did_you_mean(name, known)}")
    return metrics


def check_metrics(metrics: list[str], pipeline: Any) -> None:
    """InputError for metrics that make no sense for a pipeline's samples."""
    import torch

    if "rfid" in metrics and pipeline.autoencoder is None:
        raise InputError("rfid measures reconstructions, and a GAN of pixels makes none: leave it out of --metrics")
    if set(metrics) & set(INCEPTION_METRICS) and pipeline.signal.dtype != torch.uint8:
        raise InputError("Inception's features are for images: measure other signals with fd_classifier and agreement")
    if "agreement" in metrics and not pipeline.num_classes:
        raise InputError("agreement needs classes, and this model was trained without: leave it out of --metrics")


def check_classifier(classifier: Any, place: str, shape: tuple[int, ...], pipeline: Any) -> None:
    """InputError for a classifier whose grid, channels or number of classes differ from the samples'."""
    classifier_sizes = {**classifier.config, "image_size": classifier.image_shape}
    sample_sizes = {"image_size": shape, "channels": pipeline.channels}
    if pipeline.num_classes:
        sample_sizes["num_classes"] = pipeline.num_classes
    for key, size in sample_sizes.items():
        if classifier_sizes[key] != size:
            raise InputError(
                f"--classifier {place}: its {key} is {_sizes(classifier_sizes[key])}, but the samples have {_sizes(size)}: "
                "train a classifier for these samples"
            )


def _sizes(value: object) -> str:
    """A number, or the lengths of a grid: 32×32."""
    return "×".join(map(str, value)) if isinstance(value, tuple) else str(value)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder of train/diffusion.py or train/gan.py")
    parser.add_argument(
        "--metrics",
        default="fid",
        help=f"metrics, separated by commas: {','.join((*INCEPTION_METRICS, *CLASSIFIER_METRICS))} (default fid)",
    )
    parser.add_argument(
        "--num-images",
        type=positive,
        default=10_000,
        help="number of images to generate, cycling through the classes (default 10000)",
    )
    parser.add_argument(
        "--reference",
        choices=["held_out", "train"],
        default="held_out",
        help="split to compare with (default held_out)",
    )
    parser.add_argument("--reference-images", type=positive, help="number of images from that split (default: all)")
    parser.add_argument(
        "--inception-weights", help="file of torch-fidelity's Inception weights (default: download them)"
    )
    parser.add_argument("--classifier", help="run or model folder of train/classifier.py")
    parser.add_argument(
        "--feature-batch", type=positive, default=64, help="images per batch in the feature network (default 64)"
    )
    parser.add_argument("--no-floors", action="store_true", help="do not measure the floors of the Fréchet distances")
    parser.add_argument("--out", help="JSON report (default RUN/evaluation/report.json)")
    parser.add_argument(
        "--images-folder",
        help="folder to keep generated images in (default RUN/evaluation, or the folder evaluation next to --out)",
    )


def main() -> None:
    evaluate(*parse_sampling(__doc__, add_options))


if __name__ == "__main__":
    run_script(main)
