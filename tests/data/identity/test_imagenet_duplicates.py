"""Images that ImageNet has, too, are known by published lists of file names."""

from metalab.data.class_lists import class_list
from metalab.data.identity.imagenet_duplicates import imagenet_note, in_imagenet, leaves_duplicates_out

BIRD = "086.Pacific_Loon/American_Goldfinch_0062_31921.jpg"  # a file of CUB by its name alone


def test_the_lists_are_meta_datasets():
    files = [line.split()[0] for line in class_list("imagenet_duplicates")]
    birds, objects = [f for f in files if "/" not in f], [f for f in files if f[0].isdigit()]
    assert (len(birds), len(objects), len(files)) == (43, 286, 43 + 92 + 286)
    assert all(
        line.split()[1].startswith("n0") and line.endswith(".JPEG") for line in class_list("imagenet_duplicates")
    )


def test_a_file_is_known_by_its_name_or_with_its_folders():
    files = [BIRD, "cub/001.x/American_Goldfinch_0062_31922.jpg", "101/beaver/image_0003.jpg", "otter/image_0003.jpg"]
    assert in_imagenet(files) == {
        BIRD: "n01531178_12730.JPEG",
        "101/beaver/image_0003.jpg": "n02363005_3962.JPEG",  # mirrored
    }


def test_a_result_of_weights_that_saw_imagenet_says_how_many():
    said = "1 of its images are, by their file names, among ImageNet's of trained classes"
    assert imagenet_note(["imagenet:n01531178"], [BIRD, "x/y.jpg"]) == said
    assert imagenet_note(["imagenet:n01531178"], ["x/y.jpg"]) == ""
    assert imagenet_note(["cub:001"], [BIRD]) == ""
    assert imagenet_note(["imagenet:n01440764"], [BIRD]) == ""  # of a class that was not trained on


def test_ilsvrc_alone_leaves_them_out_as_a_member_too():
    ilsvrc, mini, omniglot = ({"_target_": f"metalab.data.{name}"} for name in ("ILSVRC", "MiniImageNet", "Omniglot"))
    union = {"_target_": "metalab.data.Union", "members": {"a": ilsvrc, "b": omniglot}}
    assert leaves_duplicates_out(ilsvrc)
    assert leaves_duplicates_out(union)
    assert not leaves_duplicates_out(mini)
    assert not leaves_duplicates_out(omniglot)
    assert not leaves_duplicates_out({**union, "members": {"a": ilsvrc, "b": mini}})
