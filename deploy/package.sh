#!/bin/sh
# Builds the Debian package from what install.sh installs: files, dependencies, conffiles, scripts of the maintainer. It
# needs dpkg-deb, dpkg-shlibdeps (package dpkg-dev) and strip (binutils), and no root. It never builds the programs.
set -eu

usage() {
  cat << 'EOF'
usage: deploy/package.sh [--out DIR] [--programs DIR]

  --out DIR        folder for rudder_VERSION_ARCHITECTURE.deb (default target/debian of this repository)
  --programs DIR   as in install.sh --help
EOF
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
out=$here/../target/debian
programs=$here/../target/release
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --out | --programs) [ $# -ge 2 ] || { usage >&2; exit 2; } ;;
    *) usage >&2; echo "package.sh: unknown argument $1" >&2; exit 2 ;;
  esac
  case $1 in
    --out) out=$2 ;;
    --programs) programs=$2 ;;
  esac
  shift 2
done
for tool in dpkg-deb dpkg-shlibdeps strip; do
  command -v "$tool" > /dev/null || { echo "package.sh: $tool is missing; on Debian: apt-get install dpkg-dev binutils" >&2; exit 1; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
umask 022
mkdir -p "$root/DEBIAN" "$out"

"$here/install.sh" --prefix /usr --destdir "$root" --programs "$programs"
strip --strip-debug "$root/usr/bin/rudderd" "$root/usr/bin/rudder"
find "$root/usr/share/man" -name '*.1' -exec gzip -9n {} + 2> /dev/null || true

# dpkg-shlibdeps wants a source package around it.
mkdir "$work/debian"
printf 'Source: rudder\n\nPackage: rudder\nArchitecture: any\n' > "$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O -S"$root" "$root/usr/bin/rudderd" "$root/usr/bin/rudder" | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || { echo "package.sh: the libraries of the programs are not known to dpkg-shlibdeps" >&2; exit 1; }

version=$(sed -n '/^\[workspace.package\]/,/^\[/ s/^version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
architecture=$(dpkg --print-architecture)
size=$(du -sk --exclude=DEBIAN "$root" | cut -f1)
sed "s|@version@|$version|; s|@architecture@|$architecture|; s|@size@|$size|; s|@depends@|$depends|" "$here/debian/control.in" > "$root/DEBIAN/control"
(cd "$root" && find etc -type f | sort | sed 's|^|/|') > "$root/DEBIAN/conffiles"
(cd "$root" && find usr -type f | sort | xargs -d '\n' md5sum) > "$root/DEBIAN/md5sums"
for script in postinst prerm postrm; do
  install -m 0755 "$here/debian/$script" "$root/DEBIAN/$script"
done

package=$out/rudder_${version}_${architecture}.deb
dpkg-deb --root-owner-group -Zxz -z1 --build "$root" "$package" > /dev/null
echo "$package"
