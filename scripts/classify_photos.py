"""Classify PACS's photographs by five of each class with a frozen MobileNetV2, and again by the exported file.

python scripts/classify_photos.py --root DATA/pacs --weights mobilenet_v2-b0353104.pth

The numbers of docs/how-to/classify-your-own-images.md: the accuracy, what was expected from the support alone, and
how far the exported file's predictions are from the net's.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def write_photos(packed: Path, out: Path, shot: int, images: int, seed: int) -> None:
    """Write `shot` photos of each class to out/support, and `images` others to out/images, one folder a class."""
    z = np.load(packed)
    blob, ends, draw = z["blob"].tobytes(), z["offsets"], random.Random(seed)
    photos = np.flatnonzero(z["domains"] == list(z["domain_names"]).index("photo")).tolist()
    rest: list[int] = []
    chosen: list[tuple[str, int]] = []
    for label in range(len(z["class_names"])):
        own = [i for i in photos if z["labels"][i] == label]
        draw.shuffle(own)
        chosen += [("support", i) for i in own[:shot]]
        rest += own[shot:]
    draw.shuffle(rest)
    for part, i in [*chosen, *(("images", i) for i in rest[:images])]:
        folder = out / part / str(z["class_names"][z["labels"][i]])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.jpg").write_bytes(blob[ends[i] : ends[i + 1]])


def predictions(folder: Path) -> list[dict[str, str]]:
    """Return the rows of predictions.csv."""
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def metalab(*words: str) -> None:
    """Run metalab; its table stays off the screen."""
    subprocess.run([sys.executable, "-m", "metalab", *words], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the folder of pacs72.npz")
    parser.add_argument("--weights", type=Path, required=True, help="torchvision's file of MobileNetV2, IMAGENET1K_V1")
    for name, value in {"shot": 5, "images": 200, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        write_photos(given.root / "pacs72.npz", out, given.shot, given.images, given.seed)
        net = ("backbone=torchvision", "backbone.name=mobilenet_v2", f"backbone.weights={given.weights.absolute()}")
        words = ("run=null", *net, "backbone.classes=imagenet", f"support={out / 'support'}")
        images = f"images={out / 'images'}"
        metalab("predict", *words, images, f"hydra.run.dir={out / 'net'}")
        metalab("export", *words, f"hydra.run.dir={out / 'export'}")
        metalab("predict", f"run={out / 'export' / 'model.onnx'}", images, f"hydra.run.dir={out / 'file'}")
        ours, theirs = predictions(out / "net"), predictions(out / "file")
        expected = json.loads((out / "net" / "predict.json").read_text(encoding="utf-8"))["expected"]
    right = np.mean([row["file"].split("/")[0] == row["label"] for row in ours])
    low, high = expected["interval"]
    print(f"{100 * right:.1f} % of {len(ours)} photos are right")
    print(f"expected {100 * expected['accuracy']:.0f} % ({100 * low:.0f} to {100 * high:.0f} %)")
    alike = sum(a["label"] == b["label"] for a, b in zip(ours, theirs, strict=True))
    names = [name for name in ours[0] if name not in ("file", "label", "probability")]
    far = max(abs(float(a[n]) - float(b[n])) for a, b in zip(ours, theirs, strict=True) for n in names)
    print(f"the exported file gives {alike} of them the same label, and probabilities within {far:.0e}")


if __name__ == "__main__":
    main()
