# Before the peer: make the site where there is none, then wait for a charter that all sites have signed. As long as this
# waits, people get in here (`kubectl exec -c prepare`) to sign it; the peer would only end, again and again.
#
# $1 is the site's folder, the rest goes to `swarm init`. Started again, it finds what it made. With PREPARE_RESTORE=true
# nothing is made: the folder is to come from a backup.
set -eu
trap 'exit 143' TERM INT
folder=$1
shift
rest() {
  sleep "${PREPARE_EVERY_S:-10}" &
  wait $!
}
if [ "${PREPARE_RESTORE:-false}" = true ] && [ ! -e "$folder/swarm.toml" ]; then
  echo "waiting for $folder to be restored from a backup"
  until [ -e "$folder/swarm.toml" ]; do
    rest
  done
fi
if [ ! -e "$folder/swarm.toml" ]; then
  swarm init "$folder" "$@"
  cat "$folder/card.toml"
fi
before=
while :; do
  if [ -e "$folder/charter.toml" ]; then
    if now=$(swarm charter check "$folder/charter.toml" 2>&1); then
      break
    fi
  else
    now="waiting for $folder/charter.toml"
  fi
  if [ "$now" != "$before" ]; then
    printf '%s\n' "$now"
    before=$now
  fi
  rest
done
printf '%s\n' "the charter is complete"
