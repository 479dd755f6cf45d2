#!/usr/bin/env bash
# Print a Python that can make virtual environments: of the versions given, the first there is (find_python.sh 3.13 3.12);
# with none given of any supported version, the plain python3 before others.
if [ $# -gt 0 ]; then
    versions=("$@")
    pythons=("${@/#/python}")
else
    versions=(3.11 3.12 3.13)
    pythons=(python3 python3.13 python3.12 python3.11)
fi

usable() {
    [ -x "$(command -v "$1")" ] || return 1
    "$1" -c 'import sys, venv, ensurepip; sys.exit("{}.{}".format(*sys.version_info) not in sys.argv[1:])' \
        "${versions[@]}" 2>/dev/null
}

for python in "${pythons[@]}"; do
    # pyenv puts every version's name on the PATH, but runs only those switched on: its folder has the others.
    prefix=$(pyenv prefix "${python#python}" 2>/dev/null)
    for found in "$python" ${prefix:+"$prefix/bin/$python"}; do
        if usable "$found"; then
            echo "$found"
            exit 0
        fi
    done
done
wanted=$(printf ' or %s' "${versions[@]}")
echo "setup: no Python ${wanted# or } with venv found on the PATH" >&2
exit 1
