"""Start one program from a small process and say what it cost.

usage: python -I -S launcher.py DESCRIPTOR PROGRAM [ARGUMENT...]

Linux counts to a program's peak memory what the process had that it was started from, until exec.
So the harness, which may be large, does not start what it measures: this process does, whose own
peak (some 10 MiB) is the least that can be measured. To DESCRIPTOR it writes the program's process
id, a line, and at the end a line of: wall, user and system seconds, peak memory in KiB, exit code.

It imports nothing that it does not need.
"""

import os
import sys
import time


def main() -> None:
    """Run the program to its end."""
    out = int(sys.argv[1])
    os.set_inheritable(out, False)
    began = time.monotonic()
    pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
    os.write(out, b"%d\n" % pid)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - began
    code = os.waitstatus_to_exitcode(status)
    line = f"{wall} {usage.ru_utime} {usage.ru_stime} {usage.ru_maxrss} {code}\n"
    os.write(out, line.encode())


if __name__ == "__main__":
    main()
