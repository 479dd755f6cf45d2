#!/usr/bin/env bash
# Print the first Python of a supported version (3.11 to 3.13) that can make virtual environments.
for python in python3 python3.13 python3.12 python3.11; do
    command -v "$python" >/dev/null 2>&1 || continue
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
        echo "$python"
        exit 0
    fi
done
echo "setup: no Python 3.11, 3.12 or 3.13 with venv found on the PATH" >&2
exit 1
