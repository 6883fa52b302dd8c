#!/bin/sh
# What the tests need beyond Python, each step skipped when it is done already:
#   1. Debian packages, as root or by sudo; 2. a real Kafka, from Maven Central, into .tools/kafka-libs;
#   3. a cloud kernel, a static busybox and the guest agent for the test guest, as packages into .tools/guest (never
#   installed).
# What cannot be had is said; tests that need it are skipped by name, and fail where CI=true.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
failed=

say() { echo "test tools: $*" >&2; }

# command or file:package; of packages a|b the first one that this release has
NEEDED='qemu-img:qemu-utils qemu-io:qemu-utils qemu-nbd:qemu-utils qemu-system-x86_64:qemu-system-x86
qemu-storage-daemon:qemu-system-common nbdinfo:libnbd-bin nbdcopy:libnbd-bin nbdkit:nbdkit
fio:fio mke2fs:e2fsprogs debugfs:e2fsprogs e2fsck:e2fsprogs rsync:rsync mvn:maven openssl:openssl systemd-analyze:systemd
systemd-sysusers:systemd systemd-tmpfiles:systemd ip:iproute2 tc:iproute2 faketime:faketime
podman:podman buildah:buildah runc:runc podman-compose:podman-compose debootstrap:debootstrap iptables:iptables
libvirtd:libvirt-daemon virt-qemu-run:libvirt-daemon-driver-qemu virsh:libvirt-clients
gcc:gcc /usr/include/stdlib.h:libc6-dev ldd:libc-bin
virt-xml-validate:libvirt-clients xmllint:libxml2-utils
/usr/lib/podman/netavark:netavark /usr/lib/podman/aardvark-dns:aardvark-dns
java:openjdk-17-jre-headless|openjdk-21-jre-headless|openjdk-25-jre-headless|default-jre-headless'

missing_packages() {
    for pair in $NEEDED; do
        command -v "${pair%%:*}" >/dev/null || [ -e "${pair%%:*}" ] || echo "${pair#*:}"
    done | sort -u
}

java_is_old() {
    command -v java >/dev/null || return 1
    major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    [ "${major:-0}" -lt 17 ]
}

install_packages() {
    packages=$(missing_packages)
    if java_is_old; then
        say "Java $major is too old for Kafka 4 (17 is needed)"
        packages="$packages openjdk-17-jre-headless|openjdk-21-jre-headless|openjdk-25-jre-headless"
    fi
    # shellcheck disable=SC2086  # a list of package names
    [ -z "$packages" ] || sh tools/apt-install.sh $packages
}

fetch_kafka() {
    pom=tests/support/kafka/pom.xml
    stamp=.tools/kafka-libs/.complete
    [ -f "$pom" ] || return 0
    if [ -f "$stamp" ] && cmp -s "$pom" "$stamp"; then return 0; fi
    say "fetching Kafka's jars"
    # Beside the old ones, which stay when this fails.
    fresh=$PWD/.tools/kafka-libs.new
    rm -rf "$fresh"
    mkdir -p "$fresh"
    mvn --quiet --batch-mode --file "$pom" dependency:copy-dependencies -DoutputDirectory="$fresh"
    cp "$pom" "$fresh/.complete"
    rm -rf .tools/kafka-libs
    mv "$fresh" .tools/kafka-libs
}

# The package that a meta package stands for: linux-image-cloud-amd64 -> linux-image-6.1.0-56-cloud-amd64
depends_on() { apt-cache depends --important "$1" | sed -n "s/^ *Depends: \\(<*$2[0-9][^ >]*\\).*/\\1/p" | head -n 1; }

kernel_packages() {
    for meta in linux-image-cloud-amd64 linux-image-virtual; do
        image=$(depends_on "$meta" linux-image-)
        [ -n "$image" ] || continue
        # Ubuntu keeps the modules in a package of their own.
        echo "$image" "$(depends_on "$image" linux-modules-)"
        return
    done
    say "no cloud kernel for amd64 in this release's package lists"
    return 1
}

fetch_guest() {
    [ ! -f .tools/guest/.complete ] || return 0
    command -v apt-get >/dev/null || { say "no apt-get: the test guest needs Debian's kernel package"; return 1; }
    [ -n "$(apt-cache policy busybox-static 2>/dev/null)" ] || sh tools/apt-install.sh
    packages=$(kernel_packages) || return 1
    say "fetching the test guest: busybox-static $packages"
    rm -rf .tools/guest
    mkdir -p .tools/guest/debs
    # shellcheck disable=SC2086  # a list of package names
    (cd .tools/guest/debs && apt-get download -qq -o APT::Sandbox::User=root busybox-static $packages)
    for deb in .tools/guest/debs/*.deb; do dpkg-deb --extract "$deb" .tools/guest; done
    rm -rf .tools/guest/debs .tools/guest/usr/share
    touch .tools/guest/.complete
}

# The libraries that it needs are taken from this machine when the guest is built: QEMU needs the same.
fetch_agent() {
    [ ! -x .tools/guest/usr/sbin/qemu-ga ] || return 0
    command -v apt-get >/dev/null || { say "no apt-get: the test guest needs Debian's qemu-guest-agent package"; return 1; }
    [ -n "$(apt-cache policy qemu-guest-agent 2>/dev/null)" ] || sh tools/apt-install.sh
    say "fetching the test guest's agent"
    mkdir -p .tools/guest/debs .tools/guest/usr/sbin
    (cd .tools/guest/debs && apt-get download -qq -o APT::Sandbox::User=root qemu-guest-agent)
    dpkg-deb --extract .tools/guest/debs/qemu-guest-agent_*.deb .tools/guest/debs/out
    # Its place in the package differs among releases.
    mv "$(find .tools/guest/debs/out -name qemu-ga -type f)" .tools/guest/usr/sbin/qemu-ga
    rm -rf .tools/guest/debs
}

# A step runs in a shell of its own, so that the first command of it that fails ends it (set -e).
if [ $# -gt 0 ]; then
    "$1"
    exit
fi
for step in install_packages fetch_kafka fetch_guest fetch_agent; do
    sh tools/install-test-tools.sh "$step" || { say "$step did not succeed"; failed=yes; }
done
if [ -n "$failed" ] && [ "${CI:-}" = true ]; then exit 1; fi
