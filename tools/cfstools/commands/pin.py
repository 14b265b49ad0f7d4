"""`cfs pin IMAGE`: keep an image from collection, whatever happens to its names."""

from __future__ import annotations

from cfsrepo.images import names
from cfsrepo.store import pins
from cfsrepo.upkeep import inuse
from cfstools.context import open_repository
from cfstools.options import Arguments


def run(args: Arguments) -> int:
    with open_repository(args) as repository:
        if args.image is not None:
            image = names.resolve(repository, args.image)
            print(pins.pin_person(repository, image.image_id, args.reason).pin_id)
            return 0
        for pin in inuse.find(repository).live_pins:
            image_id = pin.image_id[:12] or "-"
            print(f"{pin.pin_id}  {image_id:<12}  {pin.describe()}")
    return 0
