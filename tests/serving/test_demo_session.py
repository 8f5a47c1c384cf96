"""What the page of metalab demo does, without the page: classes come and go, and pictures are classified."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metalab.core.errors import UserError
from metalab.models.layers import running_statistics
from metalab.serving.demo import session as session_module
from metalab.serving.demo.session import Session, words_of
from metalab.serving.loading import LoadedRun
from metalab.serving.practice import build_practice
from metalab.serving.rejection import Threshold
from tests.serving.demo_runs import ASKED, saved, trained

pytest.importorskip("captum", reason="the extra demo is not installed")


@pytest.fixture(scope="module")
def run(small, tmp_path_factory) -> LoadedRun:
    """ProtoNet after a few steps on tiny data."""
    return trained(small, tmp_path_factory.mktemp("runs") / "protonet", "eval.bn=running")


@pytest.fixture(scope="module")
def files(tiny, tmp_path_factory) -> list[list[Path]]:
    """Six pictures of each of three classes."""
    return saved(tiny["test"], tmp_path_factory.mktemp("pictures"), 3, 6)


@pytest.fixture
def session(run, tmp_path) -> Session:
    """A session without classes."""
    (tmp_path / "copies").mkdir()
    return Session(run, ASKED, 0, tmp_path / "copies")


@pytest.fixture
def filled(session, files) -> Session:
    """A session with three classes of four pictures."""
    for k, some in enumerate(files):
        assert session.add_images(session.add_class(f"c{k}"), some[:4]) == []
    return session


def test_an_answer_is_that_of_the_saved_support_and_of_prototypes_by_hand(filled, files, run, tmp_path):
    found = filled.answer(files[1][5])
    practice = build_practice(run, str(filled.save(str(tmp_path / "saved"))), ASKED, 0)
    image = torch.from_numpy(found.pixels.copy())[None]
    shares = (practice.classifier.logits(image) / practice.temperature).softmax(1)[0]
    assert list(found.probabilities) == ["c0", "c1", "c2"]
    np.testing.assert_allclose(list(found.probabilities.values()), shares.numpy(), rtol=1e-6)
    support = torch.from_numpy(np.stack([each.pixels for some in filled.classes.values() for each in some]))
    with torch.no_grad(), running_statistics():
        net = run.adaptation.net.eval()
        given, asked = (net("features", x.float() / 255).flatten(1).double() for x in (support, image))
    prototypes = given.view(3, 4, -1).mean(1)
    logits = -((asked - prototypes) ** 2).sum(1)
    by_hand = (logits / filled.practice().temperature).softmax(0)
    np.testing.assert_allclose(list(found.probabilities.values()), by_hand.numpy(), rtol=1e-4)
    assert found.label == max(found.probabilities, key=lambda name: found.probabilities[name])
    cosine = (given @ asked[0] / given.norm(dim=1) / asked.norm()).numpy()
    assert [i for i, _ in found.nearest] == np.argsort(-cosine)[:5].tolist()
    np.testing.assert_allclose([s for _, s in found.nearest], np.sort(cosine)[::-1][:5], rtol=1e-4)


def test_a_picture_of_the_support_is_the_nearest_to_itself(filled, files):
    index, similarity = filled.answer(files[2][1]).nearest[0]
    assert (index, round(similarity, 5)) == (9, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("eval.bn=support",), ("eval.bn=batch",), ("algo=maml", "algo.head_init=zero")])
def test_nets_of_other_batch_norm_modes_and_algorithms_answer(small, words, files, tmp_path):
    made = Session(trained(small, tmp_path / "run", *words), ASKED, 0, tmp_path)
    for k, some in enumerate(files):
        made.add_images(made.add_class(f"c{k}"), some[:3])
    found = made.answer(files[0][0])
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.importance.shape == (16, 16)
    assert np.isfinite(found.importance).all()
    assert len(found.nearest) == 5


def test_classes_and_pictures_come_and_go(filled, files, tmp_path):
    before = filled.practice()
    assert filled.practice() is before
    filled.add_images("c0", files[0][4:])
    assert filled.practice().support.count == [6, 4, 4]
    filled.remove_image("c0", 0)
    filled.remove_image("c0", 99)
    assert [each.name for each in filled.classes["c0"]] == ["1.png", "2.png", "3.png", "4.png", "5.png"]
    filled.remove_class("c1")
    filled.remove_class("c1")
    assert filled.practice().classifier.names == ["c0", "c2"]
    assert len(list((tmp_path / "copies").iterdir())) == 9
    filled.remove_class("c0")
    with pytest.raises(UserError, match="c2 alone has pictures: give another class some, too"):
        filled.practice()


def test_without_pictures_a_run_of_no_classes_says_what_to_do(session, files):
    with pytest.raises(UserError, match="Add two classes, and a picture or more of each"):
        session.answer(files[0][0])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (" ", "Type the name of the class first"),
        ("C0", "There is a class C0 already"),
        ("a/b", "A class's name is a folder's"),
        (".x", "A class's name is a folder's"),
        ("x" * 61, "A class's name is a folder's"),
        ("a\nb", "A class's name is a folder's"),
    ],
)
def test_names_that_no_class_can_have(filled, name, words):
    with pytest.raises(UserError, match=words):
        filled.add_class(name)
    assert list(filled.classes) == ["c0", "c1", "c2"]


def bomb(path: Path) -> Path:
    """Write a PNG of a few bytes that says it is 60000 pixels wide and tall."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )
    return path


def test_what_is_no_image_or_too_large_is_left_out_and_named(filled, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no image")
    left = filled.add_images("c0", [text, bomb(tmp_path / "bomb.png")])
    assert left[0].startswith("text.png cannot be read and is left out (UnidentifiedImageError: ")
    assert left[1].startswith("bomb.png cannot be read and is left out (DecompressionBombError: ")
    assert str(tmp_path) not in "".join(left)
    assert len(filled.classes["c0"]) == 4
    with pytest.raises(UserError, match=r"text.png cannot be read \(UnidentifiedImageError"):
        filled.answer(text)


def test_too_many_at_once_are_left_out(filled, files, monkeypatch):
    monkeypatch.setattr(session_module, "MOST", 2)
    assert filled.add_images("c0", files[0][:5]) == ["3 pictures are left out: 2 are taken at once, and 1000 in all"]
    monkeypatch.setattr(session_module, "WHOLE", 15)
    assert len(filled.add_images("c0", files[0][:2])) == 1
    assert len(filled.classes["c0"]) == 7
    with pytest.raises(UserError, match="Add a class first"):
        filled.add_images("nowhere", files[0])


def test_a_saved_support_is_loaded_again(filled, session, run, files, tmp_path):
    filled.add_images("c2", files[0][:1])  # another 0.png
    folder = filled.save(str(tmp_path / "deep/saved"))
    assert sorted(path.name for path in (folder / "c2").iterdir()) == ["0-5.png", "0.png", "1.png", "2.png", "3.png"]
    other = Session(run, ASKED, 0, tmp_path / "copies")
    other.add_class("gone")
    assert other.load(str(folder)) == []
    assert {name: len(some) for name, some in other.classes.items()} == {"c0": 4, "c1": 4, "c2": 5}
    np.testing.assert_array_equal(other.classes["c1"][2].pixels, filled.classes["c1"][2].pixels)
    with pytest.raises(UserError, match="is there already and not empty"):
        filled.save(str(folder))
    with pytest.raises(UserError, match="there is no such folder"):
        other.load(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="has no class folder with images"):
        other.load(str(folder / "c0"))
    assert list(other.classes) == ["c0", "c1", "c2"]


def test_another_run_sees_the_same_pictures_in_its_size(filled, small, tmp_path):
    other = trained(small, tmp_path / "run", "data.size=20")
    assert filled.practice().run is not other
    assert filled.switch(other) == []
    assert filled.practice().run is other
    assert filled.practice().support.images.shape == (12, 1, 20, 20)
    assert [each.name for each in filled.classes["c0"]] == ["0.png", "1.png", "2.png", "3.png"]


def test_a_score_below_the_threshold_is_none_of_these(filled, files):
    practice = filled.practice()
    filled._made = replace(practice, threshold=Threshold(float("inf"), "a test"))
    assert filled.answer(files[0][0]).label == ""
    filled._made = replace(practice, threshold=Threshold(-float("inf"), "a test"))
    assert filled.answer(files[0][0]).label in ("c0", "c1", "c2")


def test_a_share_for_none_of_these_that_asks_for_more_pictures_is_said_and_the_rest_works(filled):
    filled.set_reject(0.2)  # needs 4 left-out pictures
    assert filled.practice().threshold is not None
    assert "None of these is set on 12 support images" in words_of(filled.practice())
    filled.run = replace(filled.run, saved={**filled.run.saved, "config": {"data": {}}})
    filled.set_reject(0.01)
    practice = filled.practice()
    assert practice.threshold is None
    assert practice.expected is not None
    assert "no picture is marked as none of these: predict.reject=0.01 needs 99 support images" in words_of(practice)
