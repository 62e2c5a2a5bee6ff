"""The object lit in its image: in color, with all the rest gray and dark, and a line around it.

The line is bright between dark ones, so that it stands out from gray, dark and bright images, too, in which colors or
light do not tell what belongs to the object.
"""

from __future__ import annotations

from PIL import Image, ImageChops, ImageFilter, ImageOps

from vitrail.viz.canvas import Color, grayed

RIM: Color = (0, 215, 255)  # no color of boxes, nor of the colormap of maps
_DARK: Color = (12, 16, 22)
_LIGHT = 0.4  # of what is not the object


def lit(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The image as RGB with the object lit.

    Args:
        image: any mode.
        mask: mode L, the image's size; from 128 on is the object. One that marks nothing gives a dark image without a
            line, one that marks all a line along the edge.

    Raises:
        ValueError: a mask of another size.
    """
    if mask.size != image.size:
        raise ValueError(f"the mask has {mask.size} pixels and the image {image.size}; resize one to the other")
    inside = mask.point([0] * 128 + [255] * 128)
    dark = grayed(image).point([round(_LIGHT * value) for value in range(256)] * 3)
    picture = Image.composite(image.convert("RGB"), dark, inside)
    wide = 2 if max(image.size) >= 160 else 1
    inner = _worn(inside, wide)
    picture.paste(_DARK, mask=ImageChops.subtract(inside.filter(ImageFilter.MaxFilter(3)), _worn(inside, wide + 1)))
    picture.paste(RIM, mask=ImageChops.subtract(inside, inner))
    return picture


def _worn(mask: Image.Image, pixels: int) -> Image.Image:
    """The mask without its outermost pixels; beyond the image there is none."""
    padded = ImageOps.expand(mask, pixels, 0).filter(ImageFilter.MinFilter(2 * pixels + 1))
    return ImageOps.crop(padded, pixels)
