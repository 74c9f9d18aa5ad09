#!/usr/bin/env python3
"""The README's table of accuracy is what the records in results/ come to, to the letter.

usage: readme_accuracy.py PLUMB ROOT

Above the table stands `<!-- accuracy of FILES -->`: the files are given to `plumb validate --summarize`, whose first table
has to be the one that follows. After new measurements: put that command's table there.
"""
import glob
import os
import re
import subprocess
import sys

PLUMB, ROOT = os.path.abspath(sys.argv[1]), sys.argv[2]


def main():
    with open(os.path.join(ROOT, "README.md")) as text:
        readme = text.read()
    claims = re.findall(r"<!-- accuracy of (.+?) -->\n((?:\|.*\n)+)", readme)
    if not claims:
        sys.exit("README.md has no `<!-- accuracy of FILES -->` with a table below")
    for pattern, table in claims:
        files = sorted(f for one in pattern.split() for f in glob.glob(os.path.join(ROOT, one)))
        if not files:
            sys.exit(f"README.md: no record is called {pattern}")
        done = subprocess.run([PLUMB, "validate", "--summarize", *files], capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            sys.exit(done.stderr)
        expected = done.stdout.split("\n\n")[0] + "\n"
        if table != expected:
            sys.exit(f"README.md says of {pattern}\n{table}but the records come to\n{expected}")


if __name__ == "__main__":
    main()
