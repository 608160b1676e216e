#!/bin/sh
# Makes the root file system of the container image out of the built programs and the libraries of this machine: no
# registry, no engine, no root. The image holds rudderd, rudder, the C library and busybox (for the init container that
# prepares the socket's folder), and nothing else.
set -eu

usage() {
  cat << 'EOF'
usage: deploy/container/rootfs.sh [--out DIR] [--programs DIR]

  --out DIR        where DIR/rootfs and DIR/rootfs.tar go (default target/container of this repository)
  --programs DIR   where the built rudderd and rudder lie (default target/release of this repository)

Needs strip (binutils) and a busybox that is linked statically; on Debian: apt-get install binutils busybox-static
EOF
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
out=$here/../../target/container
programs=$here/../../target/release
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --out | --programs) [ $# -ge 2 ] || { usage >&2; exit 2; } ;;
    *) usage >&2; echo "rootfs.sh: unknown argument $1" >&2; exit 2 ;;
  esac
  case $1 in
    --out) out=$2 ;;
    --programs) programs=$2 ;;
  esac
  shift 2
done

fail() {
  echo "rootfs.sh: $1" >&2
  exit 1
}

for program in rudderd rudder; do
  [ -x "$programs/$program" ] || fail "$programs/$program is missing: run \`cargo build --release\`, or say --programs DIR"
done
busybox=$(command -v busybox) || fail "busybox is missing; on Debian: apt-get install busybox-static"
if ldd "$busybox" > /dev/null 2>&1; then
  fail "$busybox is not linked statically; on Debian: apt-get install busybox-static"
fi

root=$out/rootfs
rm -rf "$root"
mkdir -p "$root/usr/bin" "$root/usr/lib" "$root/usr/lib64" "$root/etc/rudder" "$root/run/rudder" "$root/dataset" "$root/tmp" "$root/var/lib/rudder" \
  "$root/proc" "$root/sys" "$root/dev"
ln -s usr/bin "$root/bin"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
for program in rudderd rudder; do
  strip --strip-debug -o "$root/usr/bin/$program" "$programs/$program"
  chmod 755 "$root/usr/bin/$program"
  # Each library keeps its path, which is the one its loader looks at.
  ldd "$programs/$program" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) .*/\1/p'
done | sort -u | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
cp "$busybox" "$root/usr/bin/busybox"
ln -s busybox "$root/usr/bin/sh"

# Numbers outside of what distributions give to people and services: the folder of the socket belongs to them on every
# node.
echo 'root:x:0:0:root:/:/bin/sh
rudder:x:64200:64200:Rudder:/var/lib/rudder:/bin/false' > "$root/etc/passwd"
echo 'root:x:0:
rudder:x:64200:' > "$root/etc/group"
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
chmod 1777 "$root/tmp"
tar --create --file "$out/rootfs.tar" --directory "$root" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 .
echo "$out/rootfs.tar"
