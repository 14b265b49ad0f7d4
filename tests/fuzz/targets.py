"""What the fuzzers run, by name: hostile bytes in, an expected error or a consistent answer out.

Anything else is a finding: another exception, an answer that does not agree with itself, a hang,
time or memory out of proportion (`bounds`). Inputs that once were findings are kept in
`corpus/TARGET/`, beside some that are sound.
"""

from __future__ import annotations

from tests.fuzz import archive_targets, document_targets, image_targets
from tests.fuzz.bounds import Target, bounded

TARGETS: dict[str, Target] = {
    name: bounded(target)
    for name, target in {
        "dump": image_targets.check_dump,
        "image": image_targets.check_image,
        "tar": archive_targets.check_tar,
        "gzip": archive_targets.check_gzip,
        "zstd": archive_targets.check_zstd,
        "splitstream": archive_targets.check_splitstream,
        "oci": document_targets.check_oci,
        "registry": document_targets.check_registry,
        "metajson": document_targets.check_metajson,
        "record": document_targets.check_record,
        "pin": document_targets.check_pin,
        "mountinfo": document_targets.check_mountinfo,
    }.items()
}
