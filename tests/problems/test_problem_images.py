"""Images of problems: from files, bytes and datasets; checked once, part of what a problem is, never kept in memory."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Picture
from PIL.ImageColor import getrgb
from small_data import data, problems_of, write_jsonl

from npo_core.engines import vllm_worker
from npo_core.errors import DataError
from npo_core.problems.images import check_present, open_image
from npo_core.problems.kept import from_parquet, to_parquet
from npo_core.problems.picture import as_seen

COLOURS = ["red", "green", "blue", "white"]


def png(colour: str) -> bytes:
    sink = io.BytesIO()
    Picture.new("RGB", (4, 3), colour).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for colour in COLOURS:
        (tmp_path / "pictures" / f"{colour}.png").write_bytes(png(colour))
    return tmp_path


def rows(cell) -> list[dict]:
    """Two images in the first row, one in the others."""
    return [
        {"question": f"Which colour, {i}?", "answer": f"#### {i}", "image": [cell(c) for c in colours]}
        for i, colours in enumerate([COLOURS[:2], COLOURS[2:3], COLOURS[3:]])
    ]


def settings(path, **fields):
    columns = {"images": ["image"], **fields.pop("columns", {})}
    return data(train={"path": str(path), "columns": columns, **fields}, held_out_rows=1)


def from_files(folder):
    return write_jsonl(folder / "rows.jsonl", rows(lambda colour: f"pictures/{colour}.png"))


def from_bytes(folder):
    Dataset.from_list(rows(png)).to_parquet(folder / "bytes.parquet")
    return folder / "bytes.parquet"


def from_images(folder):
    kind = Features({"question": Value("string"), "answer": Value("string"), "image": List(Image())})
    Dataset.from_list(rows(lambda c: {"bytes": png(c), "path": None}), features=kind).save_to_disk(folder / "saved")
    return folder / "saved"


def everything(problems):
    return sorted([*problems.train, *problems.held_out], key=lambda p: p.answer)


def colour_of(ref) -> tuple:
    with open_image(ref) as image:
        return image.getpixel((0, 0))


@pytest.mark.parametrize("made", [from_files, from_bytes, from_images])
def test_images_are_referred_to_and_opened_later(pictures, tokenizer, made, monkeypatch):
    monkeypatch.chdir(pictures)
    chosen = settings(Path(made(pictures)).name)
    problems = problems_of(chosen, tokenizer)
    first, second, third = everything(problems)
    assert [len(p.images) for p in (first, second, third)] == [2, 1, 1]
    assert first.prompt == "<|user|><|picture|><|picture|>Which colour, 0?<|end|><|assistant|>"
    monkeypatch.chdir("/")  # a run may be taken up from another folder
    found = [colour_of(ref) for p in (first, second, third) for ref in p.images]
    assert found == [(255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)]
    assert problems.report["train"]["images"] + problems.report["held_out"]["images"] == 4
    assert from_parquet(to_parquet([first, second])) == [first, second]


def test_the_same_images_make_the_same_problems_however_they_are_stored(pictures, tokenizer):
    sets = [problems_of(settings(made(pictures)), tokenizer) for made in (from_files, from_bytes, from_images)]
    assert len({tuple(p.id for p in problems.train) for problems in sets}) == 1


def test_another_image_makes_another_problem(pictures, tokenizer):
    path = from_files(pictures)
    before = {p.id for p in everything(problems_of(settings(path), tokenizer))}
    (pictures / "pictures" / "white.png").write_bytes(png("black"))
    assert len(before & {p.id for p in everything(problems_of(settings(path), tokenizer))}) == 2


def test_an_image_that_changed_or_went_after_it_was_checked(pictures, tokenizer):
    chosen = settings(from_files(pictures))
    ref = everything(problems_of(chosen, tokenizer))[2].images[0]
    (pictures / "pictures" / "white.png").write_bytes(png("black"))
    with pytest.raises(DataError, match="white.png has changed"):
        open_image(ref)
    (pictures / "pictures" / "white.png").unlink()
    with pytest.raises(DataError, match="white.png is gone"):
        open_image(ref)


def test_missing_images_are_found_without_reading_any(pictures, tokenizer):
    problems = everything(problems_of(settings(from_files(pictures)), tokenizer))
    check_present(problems)
    (pictures / "pictures" / "white.png").write_bytes(png("black") + b" ")
    (pictures / "pictures" / "red.png").unlink()
    with pytest.raises(DataError, match=r"2 images are gone or have changed.*\n.*red.png\n.*white.png"):
        check_present(problems)


def test_images_where_the_text_marks_them_and_in_several_columns(pictures, tokenizer):
    base = {"question": "From <image> to <image>?", "answer": "#### 1", "a": "pictures/red.png"}
    others = [base | {"b": "pictures/blue.png"}, base | {"b": "pictures/green.png"}]
    path = write_jsonl(pictures / "rows.jsonl", [*others, base | {"question": "<image>?", "b": None}])
    problems = everything(problems_of(settings(path, columns={"images": ["a", "b"]}), tokenizer))
    prompts = {p.prompt: len(p.images) for p in problems}
    assert prompts == {
        "<|user|>From <|picture|> to <|picture|>?<|end|><|assistant|>": 2,
        "<|user|><|picture|>?<|end|><|assistant|>": 1,
    }
    assert len({p.id for p in problems}) == 3


@pytest.mark.parametrize(
    ("question", "prompt", "shown"),
    [
        ("First <image 2>, then <image 1>.", "First <|picture|>, then <|picture|>.", ["blue", "red"]),
        ("Look at <image 2>.", "<|picture|>Look at <|picture|>.", ["red", "blue"]),
        ("Twice <image 1><image 1>", "<|picture|>Twice <|picture|><|picture|>", ["blue", "red", "red"]),
    ],
)
def test_numbered_marks_say_which_image(pictures, tokenizer, question, prompt, shown):
    row = {"question": question, "answer": "#### 1", "a": "pictures/red.png", "b": "pictures/blue.png"}
    path = write_jsonl(pictures / "rows.jsonl", [row, row | {"question": "Both?"}])
    found = everything(problems_of(settings(path, columns={"images": ["a", "b"]}), tokenizer))
    (problem,) = (p for p in found if "Both" not in p.prompt)
    assert prompt in problem.prompt and [colour_of(ref) for ref in problem.images] == list(map(getrgb, shown))


def test_a_mark_for_an_image_that_is_not_there(pictures, tokenizer):
    row = {"question": "<image 3> and <image 1>", "answer": "#### 1", "a": "pictures/red.png", "b": "pictures/blue.png"}
    path = write_jsonl(pictures / "rows.jsonl", [row, row])
    with pytest.raises(DataError, match="marks for the images 3, 1, and 2 images: rows 1, 2"):
        problems_of(settings(path, columns={"images": ["a", "b"]}), tokenizer)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("pictures/none.png", "cannot be read .No such file"),
        ("rows.jsonl", "cannot be decoded .UnidentifiedImageError"),
        ("pictures/cut.png", "cannot be decoded"),
        ("pictures/cut.jpg", "cannot be decoded .OSError"),
        (7, "is a int, not a path, bytes or an Image"),
    ],
)
def test_broken_images_are_named_by_row(pictures, tokenizer, cell, words):
    (pictures / "pictures" / "cut.png").write_bytes(png("red")[:45])
    whole = io.BytesIO()
    Picture.effect_noise((64, 64), 50).save(whole, "JPEG")
    (pictures / "pictures" / "cut.jpg").write_bytes(whole.getvalue()[:-200])  # its header is fine
    good = rows(lambda colour: f"pictures/{colour}.png")
    path = write_jsonl(pictures / "rows.jsonl", [good[0], good[1] | {"image": cell}, good[2]])
    with pytest.raises(DataError, match=f"an image .column image. {words}.*: row 2$"):
        problems_of(settings(path), tokenizer)


def saved(folder, picture, name="it.png", **options) -> bytes:
    picture.save(folder / name, **options)
    return (folder / name).read_bytes()


def see_through(mode: str):
    """Two pixels: red, or grey, that is half there, and one of it that is not there at all."""
    if mode == "P":
        picture = Picture.new("P", (2, 1), 1)
        picture.putpalette([0, 255, 0, 255, 0, 0])
        picture.putpixel((1, 0), 0)
        picture.info["transparency"] = bytes([0, 128])
        return picture
    picture = Picture.new("RGBA", (2, 1), (255, 0, 0, 128))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    return picture.convert(mode)


@pytest.mark.parametrize(
    ("mode", "expected"), [("RGBA", (255, 127, 127)), ("P", (255, 127, 127)), ("LA", (165, 165, 165))]
)
def test_what_is_transparent_is_on_white(tmp_path, mode, expected):
    image = as_seen(saved(tmp_path, see_through(mode)))
    assert (image.mode, image.getpixel((0, 0)), image.getpixel((1, 0))) == ("RGB", expected, (255, 255, 255))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_colour_that_stands_for_transparency_is_on_white(tmp_path, mode):
    picture = Picture.new(mode, (2, 1), 7 if mode == "L" else (7, 7, 7))
    picture.putpixel((1, 0), 9 if mode == "L" else (9, 9, 9))
    image = as_seen(saved(tmp_path, picture, transparency=7 if mode == "L" else (7, 7, 7)))
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (9, 9, 9)]


def test_a_photograph_is_turned_as_its_exif_says_and_so_is_its_size(pictures, tokenizer):
    photograph = Picture.new("RGB", (16, 8), "white")
    photograph.paste("red", (0, 0, 8, 8))  # the left half, which is the top of what was taken
    exif = Picture.Exif()
    exif[0x112] = 6  # turn a quarter clockwise
    content = saved(pictures / "pictures", photograph, "red.png", exif=exif)
    image = as_seen(content)
    assert (image.size, image.getpixel((4, 2)), image.getpixel((4, 13))) == ((8, 16), (255, 0, 0), (255, 255, 255))
    first = everything(problems_of(settings(from_files(pictures)), tokenizer))[0]
    assert [(ref.width, ref.height) for ref in first.images] == [(8, 16), (4, 3)]
    assert open_image(first.images[0]).tobytes() == image.tobytes()


def test_grey_of_16_bits_keeps_its_shades(tmp_path):
    values = [0, 257 * 100, 257 * 100 + 129, 65535]
    picture = Picture.frombytes("I;16", (4, 1), b"".join(v.to_bytes(2, "little") for v in values))
    image = as_seen(saved(tmp_path, picture))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 100, 101, 255)]


def test_pixels_of_unknown_brightness_are_named(pictures, tokenizer):
    saved(pictures / "pictures", Picture.new("F", (4, 3), 0.5), "red.png", format="TIFF")
    with pytest.raises(DataError, match=r"cannot be read: its pixels are 32-bit numbers: save it with .*: row 1$"):
        problems_of(settings(from_files(pictures)), tokenizer)


def test_damaged_exif_is_ignored(tmp_path):
    content = saved(tmp_path, Picture.new("RGB", (4, 3), "red"), "it.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert as_seen(content).size == (4, 3)


def test_the_process_with_vllm_sees_the_same_pictures(tmp_path, monkeypatch):
    """Without npo_core, which need not be installed there."""
    content = saved(tmp_path, see_through("RGBA"))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(TokensPrompt=dict))
    for name in [name for name in sys.modules if name.partition(".")[0] == "npo_core"]:
        monkeypatch.setitem(sys.modules, name, None)
    vllm_worker.beside.cache_clear()
    (image,) = vllm_worker.prompt([1], [content])["multi_modal_data"]["image"]
    assert image.tobytes() == as_seen(content).tobytes()
