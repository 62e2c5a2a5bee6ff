from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.methods.mae import targets
from vitrail.ops.patches import patchify
from vitrail.viz.reconstruction import (
    UNTRAINED,
    Reconstructed,
    reconstructed_images,
    reconstruction_gallery,
    unnormalized,
)

PATCH = (8, 4)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def photos(count: int = 3) -> torch.Tensor:
    """Normalized images `[B, 3, 32, 24]`, one patch of one color."""
    images = torch.rand(count, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    images[0, :, :8, :4] = 0.25
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def mask(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 24, generator=torch.Generator().manual_seed(1)) < 0.7


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("paste", [True, False])
def test_exact_predictions_give_the_image_back(normalized: bool, paste: bool) -> None:
    """Against what MAE is trained on, whichever it is."""
    images = photos()
    found = Reconstructed(mask(), targets(images, PATCH, normalized))
    made = reconstructed_images(images, found, PATCH, normalized=normalized, paste=paste)
    assert (made - images).abs().max() < 1e-3


def test_a_prediction_of_zeros_is_each_patch_s_mean() -> None:
    images = photos()
    made = unnormalized(torch.zeros(3, 24, 96), images, PATCH)
    assert torch.allclose(made, patchify(images, PATCH).mean(-1, keepdim=True).expand_as(made), atol=1e-6)


def test_visible_patches_are_pasted_and_hidden_ones_are_not() -> None:
    images, hidden = photos(), mask()
    found = Reconstructed(hidden, torch.full((3, 24, 96), 0.5))
    pasted = patchify(reconstructed_images(images, found, PATCH, normalized=False), PATCH)
    assert torch.equal(pasted[~hidden], patchify(images, PATCH)[~hidden])
    assert (pasted[hidden] == 0.5).all()
    whole = reconstructed_images(images, found, PATCH, normalized=False, paste=False)
    assert (whole == 0.5).all()


def drawn(monkeypatch: pytest.MonkeyPatch, **how: object) -> tuple[Image.Image, list[str]]:
    """The gallery, and all that it says."""
    import vitrail.viz.canvas as canvas

    said: list[str] = []
    paragraph = canvas._paragraph

    def listen(text: str, *where: object) -> Image.Image:
        said.append(text.replace("\u00a0", " "))
        return paragraph(text, *where)  # type: ignore[arg-type]

    monkeypatch.setattr(canvas, "_paragraph", listen)
    images, hidden = photos(2), mask(2)
    found = {
        "random": Reconstructed(hidden, targets(images, PATCH, True)),
        "dpp": Reconstructed(~hidden, torch.zeros(2, 24, 96)),
    }
    return reconstruction_gallery(images, found, PATCH, mean=MEAN, std=STD, cell=32, **how), said  # type: ignore[arg-type]


def test_the_gallery_says_what_was_put_back_and_how_far_off_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    _, said = drawn(monkeypatch, normalized=True)
    assert any("Un-normalized with the hidden patches' own mean and spread" in text for text in said)
    share = 100 * mask(2)[0].double().mean()
    assert said[:3] == ["image", f"random, {share:.0f} % hidden", "from it, error 0.000"]
    # Of a prediction of zeros the error is the targets' mean square: 95 / 96, the variance being the unbiased one.
    assert said[9] == f"from it, error {95 / 96:.3f}"
    assert UNTRAINED not in said
    _, plain = drawn(monkeypatch, normalized=False, paste=False)
    assert not any("Un-normalized" in text for text in plain)
    assert any("the visible ones too" in text for text in plain)


def test_an_untrained_decoder_is_told_in_large_words(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, _ = drawn(monkeypatch, normalized=True)
    fresh, said = drawn(monkeypatch, normalized=True, untrained=True)
    assert UNTRAINED in said
    assert fresh.height > trained.height + 30
    assert fresh.width == trained.width


def test_pixels_of_the_gallery_are_the_images_own() -> None:
    """Cells of the images' own size are not resized: image, gray for hidden patches, exact reconstruction."""
    images, hidden = photos(1), mask(1)
    found = {"random": Reconstructed(hidden, targets(images, PATCH, True))}
    page = np.asarray(reconstruction_gallery(images, found, PATCH, normalized=True, mean=MEAN, std=STD, cell=32))
    white = (page[10:42] == 255).all((0, 2))
    starts = [x for x in range(1, len(white)) if white[x - 1] and not white[x]]
    cells = [page[10:42, x : x + 24].astype(int) for x in starts]
    pixels = (images[0] * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)).permute(1, 2, 0).numpy()
    assert np.abs(cells[0] - 255 * pixels).max() <= 1
    assert np.abs(cells[2] - 255 * pixels).max() <= 1
    covered = hidden[0].view(4, 6).repeat_interleave(8, 0).repeat_interleave(4, 1).numpy()
    assert (cells[1][covered] == cells[1][covered][0]).all()
    assert np.array_equal(cells[1][~covered], cells[0][~covered])


def test_parts_that_do_not_fit() -> None:
    images = photos()
    with pytest.raises(ValueError, match=r"want \[3, 24, 96\] and \[3, 24\]"):
        reconstructed_images(images, Reconstructed(mask(2), torch.zeros(3, 24, 96)), PATCH, normalized=True)
    with pytest.raises(ValueError, match=r"predictions are \[3, 24, 95\]"):
        reconstructed_images(images, Reconstructed(mask(), torch.zeros(3, 24, 95)), PATCH, normalized=True)
    for shown, found in ((images, {}), (images[:0], {"random": Reconstructed(mask(0), torch.zeros(0, 24, 96))})):
        with pytest.raises(ValueError, match="nothing to draw"):
            reconstruction_gallery(shown, found, PATCH, normalized=True)
