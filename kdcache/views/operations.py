"""The operations that a plan can ask for after the crop: one code, one argument and one meaning each.

Levels, signs, ranges and variants ("increasing", "original") are the business of whoever draws a plan; here an
operation's argument is already what it is applied with. Pixels are 8-bit RGB, and so is every result.
"""

from enum import IntEnum

Colour = tuple[int, int, int]
"""Red, green and blue in 0..255."""


class Operation(IntEnum):
    """What is done to a picture; the numbers are part of the format.

    The argument in brackets is `Plan.magnitude`. Geometry is relative to the picture, so one plan serves every size.
    """

    IDENTITY = 0
    """Nothing."""
    AUTO_CONTRAST = 1
    """Stretch each channel to 0..255."""
    EQUALIZE = 2
    """Flatten each channel's histogram."""
    INVERT = 3
    """255 minus the value."""
    ROTATE = 4
    """About the centre, counter-clockwise [degrees]."""
    POSTERIZE = 5
    """Keep the upper bits [how many, 0 to 8]."""
    SOLARIZE = 6
    """Invert values of at least [threshold, 0 to 256]."""
    SOLARIZE_ADD = 7
    """Add to values below 128, up to 255 [how much]."""
    COLOR = 8
    """Blend with the grey picture [factor: 0 grey, 1 unchanged]."""
    CONTRAST = 9
    """Blend with the mean grey [factor]."""
    BRIGHTNESS = 10
    """Blend with black [factor]."""
    SHARPNESS = 11
    """Blend with the smoothed picture [factor]."""
    SHEAR_X = 12
    """Along the rows, about the upper left corner [pixels a pixel]."""
    SHEAR_Y = 13
    """Along the columns, about the upper left corner [pixels a pixel]."""
    TRANSLATE_X = 14
    """Along the rows [share of the width; positive moves the picture to the left]."""
    TRANSLATE_Y = 15
    """Along the columns [share of the height; positive moves the picture up]."""
    GAUSSIAN_BLUR = 16
    """Smooth [standard deviation in pixels, which Pillow calls the radius]."""
    HUE = 17
    """Turn the hue [share of a turn, -0.5 to 0.5, in whole steps of 1/255]."""
