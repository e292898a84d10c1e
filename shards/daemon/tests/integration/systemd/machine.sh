# Becomes a systemd that runs the units of a folder and nothing else. Started with process and mount namespaces of its own, in
# a control group of its own; the machine that the test runs on sees none of it.
#
# Usage: machine.sh FOLDER CONTROL-GROUP BINARY
set -eu
folder=$1

# Its control groups begin here.
if [ "${4:-}" != inside ]; then
    echo 0 >"$2/cgroup.procs"
    exec unshare --cgroup -- sh "$0" "$1" "$2" "$3" inside
fi

mount --make-rprivate /
# Between its own namespaces systemd hands mounts on, as those of credentials.
mount --make-rshared /
umount --lazy /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t proc proc /proc
# A systemd sets up the machine it runs on; this one may not.
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs -o mode=755 tmpfs /usr/lib/systemd/system-generators
mount --bind "$folder/console" /dev/console
mount --bind "$folder/bin" /usr/local/bin
mount --bind "$3" /usr/local/bin/ringpost
mount --bind "$folder/etc" /etc
mount --bind "$folder/var-lib" /var/lib
mount -t tmpfs -o mode=755 tmpfs /run

exec env -i container=ringpost-test PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=/etc/systemd/system \
    /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no
