"""The shipped recipes follow the papers, and each of our own keys changes only what its name says."""

import pytest
import torch
from ruamel.yaml import YAML
from ruamel.yaml.events import MappingStartEvent
from torch import nn

from genrep.diffusion import NoiseSpec
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.diffusion.schedulers import make_scheduler
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.denoiser import LatentDenoiser
from genrep.specs import validate
from genrep.training.config import dump_config, merge, read_config
from genrep.training.describe import num_parameters
from genrep.training.specs import AutoencoderRun, DiffusionRun
from tests.scripts import PROJECT

CONFIGS = PROJECT / "configs"


def diffusion_run(path: str, **changes) -> DiffusionRun:
    content = read_config(CONFIGS / path)
    merge(content, changes)
    return validate(DiffusionRun, content)


def autoencoder_run(path: str) -> AutoencoderRun:
    return validate(AutoencoderRun, read_config(CONFIGS / path))


def denoiser_of(run: DiffusionRun, stage1: AutoencoderRun, num_classes: int) -> LatentDenoiser:
    spec = stage1.autoencoder
    with torch.device("meta"):
        return LatentDenoiser(spec.num_tokens, spec.latent_dim, num_classes, **run.denoiser.model_dump())


def test_the_papers_generator_is_exact_and_has_458_million_parameters():
    """Locality-aware, appendix A.3; nothing is allocated."""
    run, stage1 = diffusion_run("imagenet/diffusion.yaml"), autoencoder_run("imagenet/locality.yaml")
    assert stage1.autoencoder.image_shape == (256, 256)
    assert (stage1.autoencoder.num_tokens, stage1.autoencoder.latent_dim) == (256, 256)
    denoiser = denoiser_of(run, stage1, num_classes=1000)
    assert num_parameters(denoiser) == pytest.approx(458e6, rel=0.01)
    assert all(parameter.is_meta for parameter in denoiser.parameters())
    assert (run.denoiser.depth, run.denoiser.dim, run.denoiser.num_heads) == (24, 1024, 16)
    levels = NoiseLevels(run.diffusion.noise, (256, 256))
    betas = 1 - levels.alphas_cumprod[1:] / levels.alphas_cumprod[:-1]
    assert len(levels.log_snr) == 1000 and 1 - levels.alphas_cumprod[0] == pytest.approx(1e-4)
    torch.testing.assert_close(betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)[1:])
    assert make_scheduler(run.sampling.scheduler, levels).config.prediction_type == "sample"  # x0
    assert (run.sampling.scheduler, run.sampling.num_inference_steps, run.sampling.guidance_scale) == ("ddim", 250, 2.5)
    assert run.diffusion.label_dropout == 0.1 and run.diffusion.loss == "latents"
    optimizer = run.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.schedule, optimizer.warmup_steps) == ("adamw", 1e-4, "constant", 0)
    assert optimizer.betas == [0.9, 0.999] and optimizer.weight_decay == 0 and optimizer.clip_norm is None
    assert run.run.batch == 256 and run.ema is not None and run.ema.decay == 0.9999
    assert run.run.images == 400 * 1_281_167


def test_ours_samples_with_dpm_solver_and_guides_within_an_interval():
    sampling = diffusion_run("imagenet/diffusion_ours.yaml").sampling
    scheduler = make_scheduler(sampling.scheduler, NoiseLevels(NoiseSpec(), (4, 8)))
    assert (type(scheduler).__name__, scheduler.config.solver_order) == ("DPMSolverMultistepScheduler", 2)
    assert scheduler.config.algorithm_type == "dpmsolver++" and 30 <= sampling.num_inference_steps <= 50
    assert 0 < sampling.guidance_interval[0] < sampling.guidance_interval[1] < 1


def test_the_papers_epochs_and_splits():
    assert autoencoder_run("celeba/locality.yaml").run.images == 300 * 162_770
    assert autoencoder_run("celeba/locality.yaml").data.train_split == "train[:162770]"
    assert autoencoder_run("celeba/transinr.yaml").data.held_out_split == "train[182637:]"
    assert autoencoder_run("imagenette/locality.yaml").run.images == 4000 * 9_469
    assert autoencoder_run("ffhq/locality_178.yaml").run.images == 1000 * 60_000


def test_ours_has_the_papers_size():
    paper, ours = (
        denoiser_of(diffusion_run(f"imagenet/{name}.yaml"), autoencoder_run(f"imagenet/{stage1}.yaml"), 1000)
        for name, stage1 in (("diffusion", "locality"), ("diffusion_ours", "locality_ours"))
    )
    assert num_parameters(ours) == pytest.approx(num_parameters(paper), rel=0.01)


@pytest.mark.parametrize(
    ("path", "patches", "heads", "bandwidths", "query", "num_coords"),
    [
        ("celeba/locality", 400, 2, [128, 32], 16, 178**2),
        ("imagenette/locality", 400, 2, [128, 32], 16, 178**2),
        ("ffhq/locality_178", 400, 2, [128, 32], 16, 178**2),
        ("ffhq/locality_256", 256, 2, [128, 32], 16, round(0.1 * 256**2)),
        ("ffhq/locality_512", 256, 4, [128, 32], 16, round(0.1 * 512**2)),
        ("ffhq/locality_1024", 484, 4, [256, 64], 32, round(0.1 * 1024**2)),
        ("imagenet/locality", 256, 8, [128, 32], 16, 256**2),
    ],
)
def test_the_papers_reconstruction_settings(path, patches, heads, bandwidths, query, num_coords):
    """Appendix A.1."""
    run = autoencoder_run(f"{path}.yaml")
    spec = run.autoencoder
    with torch.device("meta"):
        model = INRAutoencoder(**spec.model_dump())
    assert model.encoder.tokenizer.num_patches == patches and spec.num_tokens == 256 and spec.latent_dim == 256
    assert [len(model.encoder.blocks), spec.encoder.num_heads, spec.encoder.dim] == [6, 12, 768]
    decoder = spec.decoder
    assert (decoder.num_heads, decoder.bandwidths, decoder.query_bandwidth) == (heads, bandwidths, query)
    assert decoder.hidden_dim == decoder.num_features == 256
    assert (run.run.batch, run.optimizer.lr, run.optimizer.betas) == (16, 1e-4, [0.9, 0.999])
    assert run.num_coords == num_coords


def latents_of(denoiser: LatentDenoiser) -> torch.Tensor:
    torch.manual_seed(0)
    for parameter in denoiser.parameters():  # adaLN-zero starts as nothing
        nn.init.normal_(parameter, std=0.3)
    return denoiser(torch.randn(2, 4, 8), torch.tensor([3, 700]), torch.tensor([0, 1]))


TINY = {"dim": 16, "depth": 1, "num_heads": 2, "head_dim": 8, "mlp_dim": 24}
OURS = {
    key: value
    for key, value in diffusion_run("imagenet/diffusion_ours.yaml").denoiser.model_dump().items()
    if key in ("mlp", "norm", "qk_norm")
}


@pytest.mark.parametrize(
    ("change", "probe"),
    [
        ({"mlp": "gelu"}, lambda d: d.blocks[0].mlp.up.out_features == 24 and d.blocks[0].mlp.gated is False),
        ({"norm": "layer"}, lambda d: isinstance(d.norm, nn.LayerNorm)),
        ({"qk_norm": False}, lambda d: isinstance(d.blocks[0].attention.query_norm, nn.Identity)),
    ],
    ids=["swiglu", "rms", "qk_norm"],
)
def test_each_key_of_the_denoiser_changes_its_part(change, probe):
    ours, without = LatentDenoiser(4, 8, 3, **TINY, **OURS), LatentDenoiser(4, 8, 3, **TINY, **{**OURS, **change})
    assert probe(without) and not probe(ours)
    assert not torch.allclose(latents_of(ours), latents_of(without))


@pytest.mark.parametrize(
    ("key", "value", "log_snr_moves", "weight_changes"),
    [("weighting", "plain", False, True), ("shift", 1.0, True, True), ("density", "normal", False, False)],
)
def test_each_key_of_the_noise_changes_its_part(key, value, log_snr_moves, weight_changes):
    run = diffusion_run("imagenet/diffusion_ours.yaml")
    ours, without = (
        NoiseLevels(spec, (256, 32))
        for spec in (run.diffusion.noise, run.diffusion.noise.model_copy(update={key: value}))
    )
    timesteps, draws = torch.arange(0, 1000, 50), torch.linspace(0, 0.999, 50)
    assert torch.equal(ours.log_snr, without.log_snr) != log_snr_moves
    assert torch.equal(ours.weight(timesteps), without.weight(timesteps)) != weight_changes
    assert torch.equal(ours.timesteps(draws), without.timesteps(draws)) == (key != "density")
    assert ours.shift == pytest.approx((256 * 32 / 4096) ** 0.5)


def test_the_bottleneck_narrows_only_the_representation_and_its_keys():
    paper, ours = autoencoder_run("imagenet/locality.yaml").autoencoder, autoencoder_run("imagenet/locality_ours.yaml")
    assert ours.reconstruction.latent_noise > 0 == autoencoder_run("imagenet/locality.yaml").reconstruction.latent_noise
    with torch.device("meta"):
        wide, narrow = INRAutoencoder(**paper.model_dump()), INRAutoencoder(**ours.autoencoder.model_dump())
    shapes = [{name: p.shape for name, p in model.decoder.named_parameters()} for model in (wide, narrow)]
    differ = {name for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    assert differ == {"aggregate.to_key_value.weight"} and shapes[0].keys() == shapes[1].keys()
    assert narrow.latent_shape == (256, 32)


def test_configs_for_gpus_use_bfloat16():
    """The papers' sizes need a GPU; the published code trains in fp32, which is `--run.precision fp32`.

    Clouds are fitted in it; in bfloat16, the size classifier would not see a difference of a pixel; and the configs at 64×64
    are for CPUs, many of which have no bfloat16 units.
    """
    paths = [
        path for name in ("celeba", "ffhq", "imagenet", "imagenette", "pluto") for path in CONFIGS.glob(f"{name}/*")
    ]
    exact = {"arc", "arc_full", "classifier_size", "classifier_64", "locality_64", "diffusion_64"}
    runs = {
        path.name: read_config(path)["run"] for path in paths if path.stem not in exact and "run" in read_config(path)
    }
    assert len(runs) > 20 and {run.get("precision") for run in runs.values()} == {"bf16"}


def flow_mappings(text: str) -> list[int]:
    """The lines on which a mapping in braces starts."""
    events = YAML(typ="safe", pure=True).parse(text)
    return [event.start_mark.line + 1 for event in events if isinstance(event, MappingStartEvent) and event.flow_style]


def test_recipes_are_in_block_style_so_that_they_compare_by_key():
    assert flow_mappings("a: {b: 1}\nc:\n  d: [1, 2]\ne: [{f: 1}]\n") == [1, 4]
    wrong = []
    for path in sorted(CONFIGS.rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        long = [number for number, line in enumerate(text.splitlines(), 1) if len(line) > 100]
        wrong += [f"{path.relative_to(CONFIGS)}:{number}" for number in long + flow_mappings(text)]
    assert not wrong


def test_the_config_of_a_run_folder_is_in_block_style(tmp_path):
    dump_config(diffusion_run("imagenet/diffusion_ours.yaml"), tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert not flow_mappings(text) and "\n  guidance_interval:\n  - 0.1\n  - 0.8\n" in text
