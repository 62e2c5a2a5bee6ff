import numpy as np
import pytest
from PIL import Image

from vitrail.ops.grabcut import OBJECT, ObjectMask, grabcut_mask, trimap
from vitrail.viz.canvas import LEAD, PAPER, Theme
from vitrail.viz.grabcut import MARKS, Stages, grabcut_sheet, marked


def stages(width: int = 80, height: int = 60, title: str = "") -> Stages:
    """A red disk on green, with attention that is too small."""
    y, x = (np.mgrid[:64, :64] + 0.5) / 64
    distance = (x - 0.5) ** 2 + (y - 0.5) ** 2
    picture = Image.fromarray(np.where(distance[..., None] < 0.1, [220, 40, 40], [40, 160, 60]).astype(np.uint8))
    attention = np.exp(-30 * distance)
    return Stages(
        picture.resize((width, height)),
        attention,
        trimap(attention),
        grabcut_mask(np.asarray(picture), attention),
        title,
    )


def test_a_trimap_in_colors_nearest_and_stretched() -> None:
    picture = marked(np.array([[0, 1], [2, 0]], np.uint8), (4, 2))
    assert picture.size == (4, 2)
    assert [picture.getpixel(place) for place in ((0, 0), (1, 0), (2, 0), (0, 1))] == [
        MARKS[0],
        MARKS[0],
        MARKS[1],
        MARKS[2],
    ]


@pytest.mark.parametrize("theme", [PAPER, LEAD])
def test_masks_end_somewhere_on_paper_of_their_color(theme: Theme) -> None:
    """A mask of all is as white as paper, one of nothing nearly as dark as the other theme."""
    own = stages(60, 60)
    for level in (0, 1):
        mask = np.full_like(own.found.plain, level)
        marks = np.full_like(own.marks, OBJECT)
        sheet = np.asarray(
            grabcut_sheet([own._replace(marks=marks, found=ObjectMask(mask, mask))], cell=60, theme=theme)
        )
        framed = (sheet == theme.faint).all(2)
        rows = [y for y in range(len(sheet)) if framed[y].sum() >= 3 * 60]  # trimap and both masks
        assert len(rows) == 2
        assert rows[1] - rows[0] == 59


def test_words_are_kept_whole_below_narrow_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrail.viz import canvas

    lines: list[str] = []
    right = canvas._lines
    monkeypatch.setattr(canvas, "_lines", lambda *a: lines.extend(found := right(*a)) or found)
    grabcut_sheet([stages(20, 120)], cell=100)
    words = {word for line in lines for word in line.split()}
    assert {"attention", "uncertain", "GrabCut", "image,", "pixels"} <= words


def test_a_row_for_each_image_in_its_own_shape() -> None:
    one = grabcut_sheet([stages()], cell=60)
    two = grabcut_sheet([stages(title="a"), stages(40, 80, title="b")], cell=60, theme=LEAD)
    assert one.width >= 6 * 60
    assert two.height > one.height
    assert two.getpixel((0, 0)) == LEAD.background
    assert np.asarray(one).std() > 10


def test_captions_tell_the_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrail.viz import grabcut

    told: list[list[str]] = []
    right = grabcut.sheet
    monkeypatch.setattr(grabcut, "sheet", lambda *a, **more: told.extend(more["captions"]) or right(*a, **more))
    marks = np.array([[1, 2], [2, 0]], np.uint8)
    enhanced, plain = np.array([[1, 1], [0, 0]], np.uint8), np.array([[1, 1], [1, 0]], np.uint8)
    own = stages()._replace(marks=marks, found=ObjectMask(enhanced, plain))
    grabcut_sheet([own, own._replace(found=ObjectMask(plain, plain, "no pixel reaches 0.1"))])
    assert [text.replace("\u00a0", " ") for text in told[0]] == [
        "",
        "",
        "25 % object, 50 % uncertain",
        "75 % of the image",
        "50 % of the image, with 50 % of the uncertain pixels",
        "",
    ]
    assert told[1][4] == "the plain mask: no pixel reaches 0.1"


def test_what_cannot_be_drawn() -> None:
    own = stages()
    with pytest.raises(ValueError, match="at least one image"):
        grabcut_sheet([])
    with pytest.raises(ValueError, match=r"are \(8, 8\), \(64, 64\), \(64, 64\); give one \[S, S\]"):
        grabcut_sheet([own._replace(marks=own.marks[:8, :8])])
    with pytest.raises(ValueError, match="NaN or infinite"):
        grabcut_sheet([own._replace(attention=np.full((4, 4), np.nan))])
