"""Objects and styles that no base model is ever trained on: 24 of each, in two halves.

Settings (strengths, schedules, learning rates) are chosen on the *tuning* half; what is reported,
and every pair that is shown, comes from the *report* half.  A word once listed here stays here.
"""

TUNING_OBJECTS = tuple("owl teapot kite fox violin camera".split())
REPORT_OBJECTS = tuple(
    "spider bee bicycle pine cherry tower sword lamp drum note trumpet gem cloud skull "
    "penguin sunflower banana scissors".split()
)
TUNING_STYLES = tuple("vapor glass charcoal quilt sonar plum".split())
REPORT_STYLES = tuple(
    "knit sepia lava thermal tartan stamp bubblegum copper mosaic riso meadow candy batik "
    "chrome circus lagoon static cork".split()
)

OBJECTS = (*TUNING_OBJECTS, *REPORT_OBJECTS)
STYLES = (*TUNING_STYLES, *REPORT_STYLES)
