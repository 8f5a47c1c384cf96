"""miniImageNet (Vinyals et al., 2016): 100 classes of ImageNet, 600 images each, Ravi and Larochelle's split."""

from metalab.data.class_lists import class_splits
from metalab.data.datasets.base.official_split import OfficialSplitDataset
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.layouts import class_folders, csv_images, pickles
from metalab.data.formats.packed_npz import packed

BENCHMARK = PublishedDataset(
    title="miniImageNet",
    option="miniimagenet",
    protocol="ravi",
    prefix="imagenet",
    splits=class_splits("miniimagenet_ravi"),
    whose="Ravi and Larochelle's 64/16/20 classes",
    images=60_000,
    recognise=(csv_images, class_folders, pickles, packed),
    layouts=(
        "  train/ val/ test/, in each a folder a class: train/n01532829/*.jpg (or all 100 class folders side by side)\n"
        "  train.csv val.csv test.csv (columns filename,label) and images/*.jpg\n"
        "  mini-imagenet-cache-train.pkl, -validation.pkl and -test.pkl, learn2learn's\n"
        "  *.npz, each JPEG files packed one after another: blob, offsets, labels, class_names, files"
    ),
    why="its images may not be passed on: no address offers it to all",
)


class MiniImageNet(OfficialSplitDataset):
    """Serve miniImageNet as [3,size,size], 64/16/20 classes."""

    benchmark = BENCHMARK
