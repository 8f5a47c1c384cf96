"""USPS (Hull, 1994): digits from envelopes, 16x16 grey, in the form in which the LIBSVM page publishes them."""

from dataclasses import dataclass, replace
from typing import ClassVar

from metalab.core.interfaces import Split
from metalab.data.datasets.base.class_split import ClassSplitDataset
from metalab.data.datasets.base.image_split import drawn_image_split
from metalab.data.datasets.base.published import PublishedDataset
from metalab.data.formats.download import Published
from metalab.data.formats.libsvm import LibSVM

DIGITS = tuple("0123456789")
FILES = {"train": "usps", "test": "usps.t"}
SUMS = {"train": "ec16c51db3855ca6c91edd34d0e9b197", "test": "8ea070ee2aca1ac39742fdd1ef5ed118"}
AT = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/"

WHOLE = PublishedDataset(
    title="USPS",
    option="usps",
    protocol="",
    prefix="usps",
    splits=dict.fromkeys(DIGITS, "test"),
    whose="its 10 digits",
    images=9_298,
    recognise=(LibSVM(FILES, DIGITS, 16).recognise,),
    layouts="  usps.bz2 and usps.t.bz2, or one of them, unpacked or not",
    downloads=tuple(
        Published(f"{name}.bz2", (f"{AT}{name}.bz2",), f"md5:{SUMS[part]}") for part, name in FILES.items()
    ),
    channels=1,
    tested="test/",
)


@dataclass(frozen=True)
class USPS(ClassSplitDataset):
    """Serve USPS as [1,size,size], 10 digits of some hundred images each, ink 255 on 0.

    protocol=images with one of the two files alone: there are no published test images, or no others. `seed` then
    draws a fifth of each digit's for the test and a tenth of the rest for validation, and the note says so.
    """

    whole: ClassVar[PublishedDataset] = WHOLE

    size: int = 16

    def load(self, split: str) -> Split:
        """Return the train, val or test images, or classes; UserError with what is wrong with data.root."""
        if self.protocol == "images":
            whole = self._cut(self._all, 0, "test")
            parts = {file.partition("/")[0] for file in whole.files}
            if len(parts) == 1:
                drawn = drawn_image_split(whole, ["all"] * len(whole.files), split, self.seed)
                name = FILES[parts.pop()]
                note = (
                    f"all images are from {name} alone, a fifth of each digit's drawn for the test by seed {self.seed}"
                )
                return replace(drawn, note="; ".join(filter(None, [drawn.note, note])))
        return super().load(split)
