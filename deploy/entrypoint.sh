#!/bin/sh
# The first command of the container. Without arguments, or with options of `aperture serve`, it serves every app in
# $APPS_FOLDER; anything else is run as it is, so that `docker run IMAGE aperture serve …` and `docker run IMAGE sh` work.
#
# It ends in an exec, so that the supervisor is process 1 and gets the signals.
set -eu

case "${1:-}" in
    '' | -*) ;;
    *) exec "$@" ;;
esac

folder=${APPS_FOLDER:-/apps}
options=$#

# Scripts, notebooks and folders with a main file are apps; other files are ignored.
for found in "$folder"/*.py "$folder"/*.ipynb "$folder"/*/main.py "$folder"/*/main.ipynb; do
    [ -f "$found" ] || continue
    case "$found" in
        */main.py | */main.ipynb) [ "${found%/*}" = "$folder" ] || found=${found%/*} ;;
    esac
    set -- "$@" "$found"
done

if [ "$#" -eq "$options" ]; then
    echo "There is no app in $folder: mount a folder with scripts (.py), notebooks (.ipynb) or folders with a main.py" >&2
    exit 2
fi

# Move the options behind the apps: --args takes everything that follows it.
while [ "$options" -gt 0 ]; do
    option=$1
    shift
    set -- "$@" "$option"
    options=$((options - 1))
done

exec aperture serve "$@"
