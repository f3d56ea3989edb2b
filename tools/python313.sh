#!/bin/sh
# Prints the path of a Python 3.13 that starts: `python3.13` itself (pyenv's shim may not), else one of pyenv's; fails without.
for python in python3.13 "$(pyenv root 2>/dev/null)"/versions/3.13.*/bin/python3.13; do
    "$python" -c 'import sys; print(sys.executable)' 2>/dev/null && exit 0
done
echo "no Python 3.13 was found: install one, or pass NEWEST_PYTHON=PATH" >&2
exit 1
