"""A generated catalogue with structure, for the quickstart and the tests; needs no download.

What a user buys next follows from the last few items: see `generate`.
"""

import numpy as np

from tiger_jax.artifacts import InputError
from tiger_jax.data.reviews import RawData

# Department -> category -> shelves (sub-categories). Nine shelves each, in the order in which
# a routine of step 1 visits them.
_DEPARTMENTS = {
    "Grooming": {
        "Shaving": ("Safety Razors", "Shaving Foams", "Aftershave Balms"),
        "Hair Care": ("Shampoos", "Conditioners", "Hair Oils"),
        "Skin Care": ("Face Cleansers", "Day Creams", "Night Serums"),
    },
    "Kitchen": {
        "Coffee": ("Coffee Grinders", "Espresso Pots", "Milk Frothers"),
        "Baking": ("Mixing Bowls", "Cake Tins", "Cooling Racks"),
        "Cutlery": ("Chef Knives", "Cutting Boards", "Sharpening Stones"),
    },
    "Outdoors": {
        "Camping": ("Tents", "Sleeping Bags", "Camp Stoves"),
        "Cycling": ("Bike Helmets", "Bike Lights", "Chain Oils"),
        "Running": ("Running Shoes", "Running Socks", "Hydration Belts"),
    },
    "Crafts": {
        "Painting": ("Acrylic Paints", "Painting Easels", "Varnish Sprays"),
        "Knitting": ("Wool Yarns", "Knitting Needles", "Stitch Markers"),
        "Drawing": ("Sketch Pads", "Charcoal Pencils", "Fixative Sprays"),
    },
}
_BRANDS = {
    "Grooming": ("Alderwick", "Brightwater", "Corvane", "Dunmore", "Elmhurst", "Fennimore"),
    "Kitchen": ("Garrick", "Hollinger", "Isbrand", "Jorvik", "Kestrel", "Lindqvist"),
    "Outdoors": ("Marlowe", "Northgate", "Ostrander", "Pellworth", "Quillon", "Ravensby"),
    "Crafts": ("Silverline", "Thornbury", "Underhill", "Vantorre", "Westerly", "Yarrow"),
}
_NUM_SHELVES, _NUM_BRANDS = 9, 6  # of each department
_VARIANTS = (
    *("Amber", "Arctic", "Birch", "Cedar", "Classic", "Coastal", "Compact", "Copper"),
    *("Everyday", "Forest", "Granite", "Heritage", "Indigo", "Ivory", "Linen", "Lunar"),
    *("Meadow", "Midnight", "Nordic", "Olive", "Pearl", "Pro", "Scarlet", "Velvet"),
)

# Steps along a department's nine shelves; prime to nine, so that every routine visits them all.
_ROUTINES = (1, 4)

_INTERRUPTION = 0.15  # chance that an item belongs to no routine
_LOYALTY = 0.8  # chance that an item of a routine is of the user's brand
_SKEW = 0.7  # popularity of the k-th item of a shelf: k ** -_SKEW
_SHORTEST, _LONGEST, _MEAN_EXTRA = 5, 20, 4.0
_SAME_DAY = 0.3  # chance that an item is bought on the day of the one before
_FIRST_DAY, _SECONDS_A_DAY = 16_000, 86_400  # since 1970
_NO_PRICE, _NO_BRAND = 0.1, 0.05  # chances that the metadata lack them


def generate(num_users: int, num_items: int, seed: int) -> RawData:
    """A catalogue and its users' histories.

    A user walks through one department by one of two routines: from each shelf to the one a
    fixed number of steps on (razor, then foam, then balm). The last item alone leaves two
    shelves open; the last two tell. Now and then an item from anywhere interrupts, after which
    the routine goes on where it was. On a shelf the user mostly takes a favourite brand, popular
    items rather than others, and none twice. So popularity and "more like the last item" are
    weak, and a model of the sequence is strong.

    Args:
      num_users: users, each with 5 to 20 items.
      num_items: items, spread evenly over the 36 shelves; at least one each.
      seed: equal seeds give equal data.
    """
    shelves = [
        [department, category, shelf]
        for department, categories in _DEPARTMENTS.items()
        for category, names in categories.items()
        for shelf in names
    ]
    if num_users < 1 or num_items < len(shelves):
        raise InputError(
            f"a synthetic catalogue needs at least 1 user and {len(shelves)} items; asked for "
            f"{num_users} and {num_items}"
        )
    rng = np.random.default_rng(seed)
    place, shelf = np.divmod(np.arange(num_items), len(shelves))
    brand = place % _NUM_BRANDS
    variants = [rng.permutation(_VARIANTS) for _ in shelves]
    popularity = (1 + rng.permuted(np.arange(num_items) // len(shelves))) ** -_SKEW
    metadata = {
        f"item{number + 1:05}": _metadata(
            shelves[shelf[number]], brand[number], variants[shelf[number]], place[number], rng
        )
        for number in range(num_items)
    }
    histories = [_history(shelf, brand, popularity, rng) for _ in range(num_users)]
    lengths = [len(history) for history in histories]
    days = [np.cumsum(rng.random(length) > _SAME_DAY) for length in lengths]
    return RawData(
        name="synthetic",
        user_ids=[f"user{number + 1:05}" for number in range(num_users)],
        item_ids=list(metadata),
        users=np.repeat(np.arange(num_users, dtype=np.int32), lengths),
        items=np.concatenate(histories).astype(np.int32),
        timestamps=(_FIRST_DAY + np.concatenate(days)) * _SECONDS_A_DAY,
        metadata=metadata,
    )


def _metadata(
    path: list[str], brand: int, variants: np.ndarray, place: int, rng: np.random.Generator
) -> dict:
    """Metadata of the item at a place of the shelf at the end of `path`."""
    department, _, shelf = path
    maker = _BRANDS[department][brand]
    edition, variant = divmod(place, len(variants))
    title = f"{maker} {variants[variant]} {shelf.removesuffix('s')}"
    price = round(float(rng.lognormal(2.5 + 0.2 * brand, 0.4)), 2)
    return {
        "title": title if edition == 0 else f"{title} {edition + 1}",
        "price": None if rng.random() < _NO_PRICE else price,
        "brand": None if rng.random() < _NO_BRAND else maker,
        "categories": [path],
        "keywords": None,
    }


def _history(
    shelf: np.ndarray, brand: np.ndarray, popularity: np.ndarray, rng: np.random.Generator
) -> list[int]:
    """Rows of the items of one user, in time order."""
    extra = rng.geometric(1 / (1 + _MEAN_EXTRA)) - 1
    length = min(_SHORTEST + extra, _LONGEST)
    department = rng.integers(len(_DEPARTMENTS))
    favourite = rng.integers(_NUM_BRANDS)
    step = rng.choice(_ROUTINES)
    position = rng.integers(_NUM_SHELVES)
    unseen = np.ones(len(shelf), bool)
    history = []
    while len(history) < length:
        choices = [unseen]
        if rng.random() >= _INTERRUPTION:
            position = (position + step) % _NUM_SHELVES
            here = unseen & (shelf == department * _NUM_SHELVES + position)
            choices = [here, unseen]
            if rng.random() < _LOYALTY:
                choices = [here & (brand == favourite), here, unseen]
        allowed = next(choice for choice in choices if choice.any())
        weights = popularity * allowed
        item = int(rng.choice(len(shelf), p=weights / weights.sum()))
        unseen[item] = False
        history.append(item)
    return history
