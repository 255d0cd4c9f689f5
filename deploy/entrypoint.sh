#!/bin/sh
# The first command of the container. Without arguments, or with options of `aperture serve`, it serves every app in
# $APPS_FOLDER; anything else is run as it is, so that `docker run IMAGE aperture serve …` and `docker run IMAGE sh` work.
#
# It ends in an exec: the supervisor takes its place as process 1 and gets the signals.
set -eu

case "${1:-}" in
    '' | -*) ;;
    *) exec "$@" ;;
esac

folder=${APPS_FOLDER:-/apps}
options=$#

# Scripts, notebooks and folders that are apps; what else lies there is none of our business.
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

# The options came first and have to be last: the last of them may take everything that follows.
while [ "$options" -gt 0 ]; do
    option=$1
    shift
    set -- "$@" "$option"
    options=$((options - 1))
done

exec aperture serve "$@"
