"""One slide to features by a tool as it ships, run by `bench_tools.py` with the Python of the environment that the tool is in.

    PYTHON tool_drivers.py TOOL SLIDE_FOLDER OUT WEIGHTS SOURCE

All run the same backbone, timm's model of that name with the weights of the file (NAME=FILE), on the CPU, on tiles of 256 pixels at
0.5 µm that are resized to 224, where the tool's own tissue mask finds tissue; everything else is as its authors set it. STAMP
cuts the same fields of view straight to 224 pixels. Prints the number of tiles.
"""

import runpy
import subprocess
import sys
from pathlib import Path

TILE_PX, INPUT_PX, MPP = 256, 224, 0.5
MEAN = SD = (0.5, 0.5, 0.5)


def backbone(weights: str):
    import timm
    import torch

    name, _, path = weights.partition("=")
    model = timm.create_model(name, pretrained=False, num_classes=0)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def transform(*, resize: bool = True):
    """Pillow image to tensor, as the tools' own transforms are."""
    from torchvision import transforms

    steps = [transforms.ToTensor(), transforms.Normalize(MEAN, SD)]
    return transforms.Compose([transforms.Resize(INPUT_PX), *steps] if resize else steps)


def rows_of_h5(folder: Path, name: str) -> int:
    """Rows of the data sets of this name in the HDF5 files of a folder."""
    import h5py

    total = 0
    for path in folder.rglob("*.h5"):
        with h5py.File(path) as file:
            total += len(file[name]) if name in file else 0
    return total


def clam(slides: Path, out: Path, weights: str, source: str) -> int:
    """Its two commands, each in a process: segmentation and patches, then features and `.pt` files."""
    command = [sys.executable, "create_patches_fp.py", "--source", slides, "--save_dir", out, "--patch_size", TILE_PX]
    subprocess.run([str(part) for part in [*command, "--seg", "--patch"]], check=True, cwd=source)
    itself = [sys.executable, __file__, "clam-features", slides, out, weights, source]
    subprocess.run([str(part) for part in itself], check=True, cwd=source)
    return rows_of_h5(out / "features", "features")


def clam_features(slides: Path, out: Path, weights: str, source: str) -> int:
    """`extract_features_fp.py`, with the backbone in the place of its encoders, all of which are downloaded."""
    sys.path.insert(0, source)
    import models

    vars(models)["get_encoder"] = lambda name, target_img_size: (backbone(weights), transform())
    sys.argv = ["extract_features_fp.py", "--data_h5_dir", str(out), "--data_slide_dir", str(slides)]
    sys.argv += ["--csv_path", str(out / "process_list_autogen.csv"), "--feat_dir", str(out / "features")]
    runpy.run_path(f"{source}/extract_features_fp.py", run_name="__main__")
    return rows_of_h5(out / "features", "features")


def trident(slides: Path, out: Path, weights: str, source: str) -> int:
    """The three jobs of its README; of its segmenters Otsu's, since the others are downloaded."""
    sys.path.insert(0, source)
    import torch
    from trident import Processor
    from trident.patch_encoder_models.load import CustomInferenceEncoder
    from trident.segmentation_models.load import segmentation_model_factory

    processor = Processor(job_dir=str(out), wsi_source=str(slides))
    segmenter = segmentation_model_factory("otsu")
    processor.run_segmentation_job(segmenter, seg_mag=segmenter.target_mag, batch_size=64, device="cpu")
    processor.run_patching_job(target_magnification=20, patch_size=TILE_PX, overlap=0)
    encoder = CustomInferenceEncoder("lite0", backbone(weights), transform(), torch.float32)
    coords = f"20x_{TILE_PX}px_0px_overlap"
    processor.run_patch_feature_extraction_job(coords_dir=coords, patch_encoder=encoder, device="cpu", batch_limit=64)
    return rows_of_h5(out / coords, "features")


def stamp(slides: Path, out: Path, weights: str, source: str) -> int:
    """Its `preprocess` with the defaults of its configuration, but for the size of a tile."""
    from stamp.preprocessing import extract_
    from stamp.preprocessing.config import ExtractorName, PreprocessingConfig
    from stamp.preprocessing.extractor import Extractor

    extractor = Extractor(model=backbone(weights), transform=transform(resize=False), identifier="lite0")
    config = PreprocessingConfig(
        output_dir=out, wsi_dir=slides, extractor=ExtractorName.EMPTY, tile_size_um=TILE_PX * MPP, device="cpu"
    )
    out.mkdir(parents=True, exist_ok=True)
    extract_(**{**{name: getattr(config, name) for name in type(config).model_fields}, "extractor": extractor})
    return rows_of_h5(out, "feats")


def lazyslide(slides: Path, out: Path, weights: str, source: str) -> int:
    """The three calls of its tutorial for each slide, and the store that they end in."""
    import lazyslide as zs
    from lazyslide_models._utils import get_default_transform
    from wsidata import open_wsi

    model, how = backbone(weights), get_default_transform((INPUT_PX, INPUT_PX), mean=MEAN, std=SD)
    tiles = 0
    for slide in sorted(slides.iterdir()):
        wsi = open_wsi(slide, store=str(out / f"{slide.stem}.zarr"))
        zs.pp.find_tissues(wsi)
        zs.pp.tile_tissues(wsi, TILE_PX, mpp=MPP)
        zs.tl.feature_extraction(wsi, model, model_name="lite0", transform=how, device="cpu")
        wsi.write()
        tiles += len(wsi["tiles"])
    return tiles


def tiatoolbox(slides: Path, out: Path, weights: str, source: str) -> int:
    """Its feature extractor, as its documentation uses it; the input is resized to that of the others."""
    import zarr
    from tiatoolbox.models.architecture.vanilla import TimmBackbone
    from tiatoolbox.models.engine.deep_feature_extractor import DeepFeatureExtractor
    from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig
    from torch.nn.functional import interpolate

    class Resized(TimmBackbone):
        def forward(self, imgs):
            return super().forward(interpolate(imgs, (INPUT_PX, INPUT_PX), mode="bicubic", antialias=True))

    settings = IOPatchPredictorConfig(
        input_resolutions=[{"units": "mpp", "resolution": MPP}],
        patch_input_shape=(TILE_PX, TILE_PX),
        stride_shape=(TILE_PX, TILE_PX),
    )
    model = Resized(weights.partition("=")[0], pretrained=False)
    engine = DeepFeatureExtractor(model=model, batch_size=32, num_workers=2, device="cpu", verbose=False)
    found = engine.run(
        list(slides.iterdir()), patch_mode=False, ioconfig=settings, save_dir=out / "tia", output_type="zarr"
    )
    return sum(zarr.open_group(str(store), mode="r")["coordinates"].shape[0] for store in found.values())


TOOLS = {
    "CLAM": clam,
    "clam-features": clam_features,
    "TRIDENT": trident,
    "STAMP": stamp,
    "LazySlide": lazyslide,
    "tiatoolbox": tiatoolbox,
}

if __name__ == "__main__":
    name, slides, out, weights, source = sys.argv[1:]
    print(TOOLS[name](Path(slides), Path(out), weights, source))
