#!/usr/bin/env bash
# Installs snn_sparse as a user does, into a fresh environment: the wheel, then the source distribution, then `-e`. After
# each the README's first block runs, and the C++ operators must be there. Several GB, half an hour: `make test-install`.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${1:-python3}
work=$root/build/install
rm -rf "$work"
mkdir -p "$work/tmp" "$work/dist" "$work/elsewhere"
export TMPDIR=$work/tmp PYTHONPATH=

"$python" -m venv "$work/env"
pip=("$work/env/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install build
awk '/^```python/ {on = 1; next} /^```/ && on {exit} on' "$root/README.md" > "$work/elsewhere/first_block.py"

check() {
    echo "test-install: $1"
    cd "$work/elsewhere"
    "$work/env/bin/python" first_block.py
    "$work/env/bin/snn-sparse" doctor
    "$work/env/bin/python" -c "from snn_sparse.ops.backend import need_library; need_library()"
    "${pip[@]}" uninstall --yes snn_sparse
    cd "$root"
}

"$work/env/bin/python" -m build --outdir "$work/dist" "$root"  # the source distribution, and from it the wheel
ls -l "$work/dist"
"${pip[@]}" install "$work"/dist/*.whl "spikingjelly>=2.0,<2.1"
check "the wheel"
"${pip[@]}" install "$work"/dist/*.tar.gz
check "the source distribution"
"${pip[@]}" install -e "$root"
check "editable"
rm -rf "$work"
echo "test-install: all three run"
