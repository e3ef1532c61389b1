"""Encode a data set once with stage 1's frozen autoencoder, into the latent cache that stage 2 trains on.

    python train/latents.py configs/digits/diffusion.yaml
    accelerate launch --multi_gpu --num_processes 8 train/latents.py configs/imagenet/diffusion.yaml

Takes the config of stage 2, whose training script does the same if the cache is missing. `latents.folder` receives shards,
statistics and a manifest; together with the autoencoder they are enough for training, wherever the images are. A cache that
already exists is kept, and completed if its held-out split is missing; one made from something else is refused (--restart
deletes it). `--latents.verify true` checks every byte against its hash. With several processes, each encodes a share. If the
encoder is a fit, the progress bar shows the mean PSNR of the signals fitted so far, rendered from the first fit of each (with
several processes, those of the main one).
"""

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import DiffusionRun


def encode(config: DiffusionRun, config_path: str, restart: bool = False) -> None:
    from pathlib import Path

    from genrep.data.encoding import write_cache
    from genrep.data.latents import LatentCache, delete_cache, has_cache
    from genrep.errors import InputError
    from genrep.training.accelerator import make_accelerator
    from genrep.training.folders import load_autoencoder
    from genrep.training.latents import held_out_signals, open_for

    if config.latents.folder is None:
        raise InputError(f"{config_path}: latents.folder is null: give the folder to write latents to")
    folder = Path(config.latents.folder)

    # run
    accelerator = make_accelerator()
    if restart and accelerator.is_main_process:
        delete_cache(folder)
    accelerator.wait_for_everyone()

    # models
    autoencoder = load_autoencoder(config.autoencoder, config_path).to(accelerator.device)

    # data
    data = open_for(autoencoder, config.data, "train")

    # encode
    process = (accelerator.process_index, accelerator.num_processes)
    held_out = held_out_signals(data, config.latents)
    write_cache(autoencoder, data, config.latents, folder, process, accelerator.wait_for_everyone, held_out)

    # done
    if accelerator.is_main_process:
        cache = LatentCache(folder, verify=config.latents.verify)
        num_held_out = len(LatentCache(folder, split="held_out")) if has_cache(folder, "held_out") else 0
        print(
            f"latents: {folder}: {len(cache):,} images, {cache.num_views} view(s) of {tuple(cache.manifest['latent_shape'])}, "
            f"{cache.manifest['dtype']}; {num_held_out:,} held-out images"
        )
    accelerator.end_training()


def dry_run(config: DiffusionRun, config_path: str) -> None:
    from genrep.training.describe import check_data
    from genrep.training.folders import describe_autoencoder

    spec = describe_autoencoder(config.autoencoder, config_path)
    config.latents.check_encoder(spec.encoder.type)
    views = config.latents.num_views
    width = 4 if config.latents.dtype == "float32" else 2
    megabytes = views * spec.num_tokens * spec.latent_dim * width / 1e6
    print(
        f"representation: {spec.num_tokens} tokens of {spec.latent_dim}, {views} view(s); {megabytes:.4g} MB per signal in the cache"
    )
    data = check_data(config.data, spec.image_shape, spec.channels)
    print(f"latents: {len(data):,} signals, {megabytes * len(data):,.4g} MB")


def main() -> None:
    config, options = parse_command_line(DiffusionRun, __doc__, add_options=add_training_options)
    dry_run(config, options.config) if options.dry_run else encode(config, options.config, options.restart)


if __name__ == "__main__":
    run_script(main)
