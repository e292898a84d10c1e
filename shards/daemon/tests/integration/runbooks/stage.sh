# Becomes the first process of a machine that a runbook is tried on: its files where the pages say they are, and its programs
# for systemctl, journalctl and sudo. Started with process and mount namespaces of its own; the machine that the test runs on
# sees none of it.
#
# Usage: stage.sh FOLDER [DISK]
set -eu
folder=$1

mount --make-rprivate /
mount -t proc proc /proc
mount --bind "$folder/shims" /usr/local/sbin
mount --bind "$folder/bin" /usr/local/bin
mount --bind "$folder/etc" /etc
mount --bind "$folder/var" /var
# A disk that can be filled.
[ -z "${2:-}" ] || mount --bind "$2" /var/lib
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$folder/tmp" /tmp
touch /run/stage-is-up

# Whoever loses their parent is this process's child, and is laid to rest by the wait for the next sleep.
while :; do sleep 0.1; done
