#!/bin/sh
# The founding ceremony of four organisations, for a rehearsal on one machine: what each of them
# would do at home, one after another. Usage: found.sh FOLDER [HOST...], else the services' names.
set -eu
folder=$1
shift
[ $# -gt 0 ] || set -- ash beech cedar damson
umask 077
mkdir -p "$folder"

invitations= signatures=
for one in "$@"; do
    # A passphrase by chance; a real one is chosen, and kept where no other organisation reads.
    head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$folder/$one.passphrase"
    hansa node init --organisation "$one" --country GB --p2p "$one:26656" \
        --home "$folder/$one" --passphrase-file "$folder/$one.passphrase" > /dev/null
    invitations="$invitations --from $folder/$one/invitation.json"
    signatures="$signatures --signature $folder/$one.signature.json"
done
# shellcheck disable=SC2086 - lists of options
hansa genesis propose --name Rehearsal $invitations --output "$folder/draft.json" > /dev/null
for one in "$@"; do
    hansa genesis sign --draft "$folder/draft.json" --output "$folder/$one.signature.json" \
        --home "$folder/$one" --passphrase-file "$folder/$one.passphrase" > /dev/null
done
# shellcheck disable=SC2086
hansa genesis finish --draft "$folder/draft.json" $signatures --output "$folder/network"
for one in "$@"; do
    hansa node adopt --ceremony "$folder/network/ceremony.json" --listen 0.0.0.0:26656 \
        --home "$folder/$one" --passphrase-file "$folder/$one.passphrase" > /dev/null
done
