#!/bin/sh
# make demo: a disk image with a real file system is replicated, changed, and its delta shipped.  No root, no Kafka.
# Everything lies in ./demo, which every run makes anew.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
demo=demo
name=web-1
image=$demo/source/$name.img
replica=$demo/replica/$name.img
scratch=$demo/.making

title() { printf '\n== %s\n' "$*"; }
shown() {
    printf '$ %s\n' "$*"
    "$@"
}

for tool in mke2fs debugfs e2fsck vmferry; do
    command -v "$tool" >/dev/null && continue
    case $tool in
        vmferry) echo "demo: vmferry is not on PATH; run it as: make demo" >&2 ;;
        *) echo "demo: $tool is missing, which makes the file system; sudo apt-get install e2fsprogs" >&2 ;;
    esac
    exit 1
done

title "1. A disk of 1 GiB with an ext4 file system and about 100 MiB of files"
rm -rf "$demo"
mkdir -p "$demo/source" "$demo/replica" "$scratch/home" "$scratch/srv"
for number in 1 2 3 4 5 6; do
    dd if=/dev/urandom of="$scratch/srv/data-$number.bin" bs=1M count=16 2>/dev/null
done
cp CHANGELOG.md LICENSE schemas/*.py "$scratch/home/"
shown mke2fs -q -t ext4 -L "$name" -d "$scratch" "$image" 1G
ls -lhs "$image"

title "2. The first run ships the whole disk: what is not zero travels, and the replica is proved equal"
shown vmferry replicate "$image" "$replica" --name "$name" --bus "log:$demo/bus" --state "$demo/state"
shown cmp "$image" "$replica"
echo "equal, byte by byte"

title "3. The disk changes: a file is written into it, another one is removed"
date > "$scratch/note"
dd if=/dev/urandom bs=1M count=3 2>/dev/null >> "$scratch/note"
printf 'cd srv\nwrite %s new-file.bin\nrm data-3.bin\nls -l\n' "$scratch/note" > "$scratch/changes"
shown debugfs -w -f "$scratch/changes" "$image"
shown e2fsck -fn "$image"

title "4. The second run ships only what changed"
shown vmferry replicate "$image" "$replica" --name "$name" --bus "log:$demo/bus" --state "$demo/state"
shown cmp "$image" "$replica"
echo "equal, byte by byte"

title "5. What was proved: the epochs of the stream, and the replica read again from its disk"
shown vmferry epochs "$name" --state "$demo/state"
shown vmferry verify "$name" --state "$demo/state"
shown vmferry status --state "$demo/state"

rm -rf "$scratch"
title "Where everything lies"
cat <<END
$image     the source
$replica    the replica, a plain raw image: start a VM from it, or mount it
$demo/bus               the event log between them
$demo/state             positions, block maps, undo log, receipts
END
