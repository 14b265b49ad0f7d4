"""`cfs unpin PIN|IMAGE`: take a person's pins off again."""

from __future__ import annotations

from cfsrepo.errors import NotFoundError
from cfsrepo.images import names
from cfsrepo.store import pins
from cfsrepo.store.pins import PinKind
from cfstools.context import open_repository
from cfstools.options import Arguments


def run(args: Arguments) -> int:
    with open_repository(args) as repository:
        # The pins of mounts go with their mounts; taking one off would endanger its files.
        # Of a damaged one only a person can tell.
        kinds = (PinKind.PERSON, PinKind.DAMAGED)
        people = [pin for pin in pins.read(repository) if pin.kind in kinds]
        found = [pin for pin in people if pin.pin_id == args.pin]
        if not found:
            image_id = names.resolve(repository, args.pin).image_id
            found = [
                pin for pin in people if pin.kind is PinKind.PERSON and pin.image_id == image_id
            ]
        if not found:
            raise NotFoundError(f"{args.pin}: has no pin of a person", hint="'cfs pin' lists pins")
        for pin in found:
            pins.remove(repository, pin)
    return 0
