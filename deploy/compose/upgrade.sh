#!/bin/sh
# Replaces the nodes of docker-compose.yml by nodes of a new build: `docker compose up --build` would stop all of them at
# once, and nginx with them.
#
# As many new nodes as there are old ones are started beside them; nginx finds them by Docker's DNS. Then the old ones
# hand their sessions over and end. COMPOSE_FILE and COMPOSE_PROJECT_NAME mean what they mean to compose.
#
# If the new nodes do not become healthy, or it is interrupted before they have, they are removed and the old ones go on.
# Killed at any moment, it can be run again: there are as many nodes in the end, and all of them are new. NODES=4 says how
# many there are to be.
set -eu
cd "$(dirname "$0")/../.."

# Seconds in which a new node must become healthy.
patience=${PATIENCE:-300}

nodes() { docker compose ps --all --quiet node; }

abandon() {
    started=$(nodes | grep -vxF "$before") && echo "$started" | xargs docker rm --force > /dev/null
    echo "The new nodes do not serve; the old ones go on." >&2
}

before=$(nodes)
[ -n "$before" ] || { echo "There is no node to replace: docker compose up" >&2; exit 1; }

# As many as there are of one kind, by their settings and their image: an earlier run that was killed has left two kinds.
kind='{{index .Config.Labels "com.docker.compose.config-hash"}} {{.Image}}'
count=${NODES:-$(docker inspect --format "$kind" $before | sort | uniq -c | sort -rn | awk 'NR == 1 {print $1}')}

docker compose build --quiet node

trap abandon EXIT
trap 'exit 1' HUP INT TERM
docker compose up --detach --no-deps --no-recreate --scale "node=$(($(echo "$before" | wc -l) + count))" node

# Not by compose's own --wait, which gives up when an old node is busy for a moment.
for container in $(nodes | grep -vxF "$before"); do
    until [ "$(docker inspect --format '{{.State.Health.Status}}' "$container")" = healthy ]; do
        patience=$((patience - 1))
        [ "$patience" -gt 0 ] || exit 1
        sleep 1
    done
done

# From here on there is no way back. All at once, or pages would come back to an old node, and be cut off again.
trap - EXIT HUP INT TERM
docker stop $before > /dev/null
docker rm $before > /dev/null
docker compose up --detach --no-deps --no-recreate --scale "node=$count" node
