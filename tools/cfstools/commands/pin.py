"""`cfs pin IMAGE`: keep an image from collection, whatever happens to its names."""

from __future__ import annotations

from cfsrepo.images import names
from cfsrepo.store import pins
from cfsrepo.store.pins import Pin
from cfsrepo.upkeep import inuse
from cfstools.context import open_repository
from cfstools.options import Arguments
from cfstools.render.jsontext import print_json


def run(args: Arguments) -> int:
    with open_repository(args) as repository:
        if args.image is not None:
            image = names.resolve(repository, args.image)
            made = pins.pin_person(repository, image.image_id, args.reason)
            found = [made]
        else:
            found = inuse.find(repository).live_pins
    if args.json:
        print_json([_record(pin) for pin in found])
    elif args.image is not None:
        print(made.pin_id)
    else:
        for pin in found:
            print(f"{pin.pin_id}  {pin.image_id[:12] or '-':<12}  {pin.describe()}")
    return 0


def _record(pin: Pin) -> dict[str, object]:
    return {
        "pin_id": pin.pin_id,
        "image_id": pin.image_id,
        "kind": str(pin.kind),
        "reason": pin.reason,
        "mount_point": pin.mount_point,
        "pid": pin.pid,
    }
