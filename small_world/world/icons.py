"""The objects taken from Microsoft's Fluent Emoji (flat): words, families and their role maps.

`icons.png` holds one map of colour roles an icon, made by `small_world.train.make_icons`; the
icons are MIT-licensed, see NOTICE beside this file.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SHEET = Path(__file__).with_name("icons.png")
CELL, COLUMNS = 96, 16


@dataclass(frozen=True)
class Icon:
    """An object drawn from a map: its family word, its place on the sheet, its name there."""

    family: str
    index: int
    source: str

    def roles(self) -> np.ndarray:
        """(CELL, CELL) uint8: 0 is outside, k + 1 the k-th of the ROLES."""
        y, x = (CELL * k for k in divmod(self.index, COLUMNS))
        return _sheet()[y : y + CELL, x : x + CELL]

    def borders(self) -> int:
        """How many neighbouring cells have different roles: how much detail there is to draw."""
        roles = self.roles()
        return sum(int((np.diff(roles.astype(int), axis=axis) != 0).sum()) for axis in (0, 1))


@cache
def _sheet() -> np.ndarray:
    with Image.open(SHEET) as image:
        sheet = np.array(image)
    sheet.setflags(write=False)
    return sheet


# Words of each family; `word=name` where the word differs from the icon's name.
WORDS = {
    "animal": (
        "ant badger bat beaver beetle bison boar camel chicken cow crab crocodile deer dodo dog "
        "dolphin dragon eagle elephant flamingo fox frog giraffe goat goose gorilla hamster "
        "hedgehog hippo=hippopotamus horse jellyfish kangaroo koala lion lizard lobster mammoth "
        "monkey mouse octopus panda parrot peacock penguin pig raccoon rhino=rhinoceros rooster "
        "scorpion seal shark shrimp skunk sloth snake squid swan tiger turkey unicorn wolf zebra"
    ),
    "vehicle": (
        "ambulance canoe ferry helicopter motorcycle ship skateboard sled taxi tractor tram "
        "parachute firetruck=fire-engine truck=delivery-truck scooter=kick-scooter "
        "saucer=flying-saucer"
    ),
    "plant": (
        "blossom bouquet chestnut hibiscus lotus rose sunflower seedling clover=four-leaf-clover"
    ),
    "food": (
        "avocado banana bread broccoli burrito coconut cookie croissant cucumber cupcake doughnut "
        "egg eggplant garlic grapes hamburger hotdog=hot-dog lemon lollipop melon onion "
        "pancakes peach pear pie pineapple popcorn pretzel sandwich strawberry taco tomato "
        "waffle watermelon cheese=cheese-wedge fries=french-fries kiwi=kiwi-fruit"
    ),
    "building": "factory hospital hotel hut mosque fountain",
    "tool": (
        "axe broom bucket crayon dagger flashlight ladder magnet microscope paintbrush pencil "
        "plunger scissors screwdriver shield syringe telescope toothbrush wrench compass"
    ),
    "music": "accordion banjo flute microphone saxophone violin maracas",
    "thing": (
        "abacus backpack basket bathtub bed bomb bone books calendar camera candle chair clipboard "
        "coat coin dress envelope feather fire gear glasses gloves jeans joystick kimono "
        "laptop lipstick luggage mirror moai necktie package printer purse radio rainbow "
        "ribbon ring scarf scroll shorts snowflake snowman soap socks television tooth "
        "tornado trophy volcano watch wheel yarn basketball tennis alien hourglass=hourglass-done "
        "teddy=teddy-bear pumpkin=jack-o-lantern gift=wrapped-gift dice=game-die boot=womans-boot"
    ),
}  # fmt: skip


def _icons() -> dict[str, Icon]:
    named = [
        (family, *entry.partition("=")[::2])
        for family, words in WORDS.items()
        for entry in words.split()
    ]
    return {w: Icon(f, index, name or w) for index, (f, w, name) in enumerate(named)}


ICONS: dict[str, Icon] = _icons()
