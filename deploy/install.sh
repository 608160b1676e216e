#!/bin/sh
# Installs rudderd, rudder and their files for systemd, Slurm and the shells, or removes them all. It owns the list of
# what goes where: the Debian package and the container are made from what it installs. It can be run again, and it
# never touches an existing configuration.
set -eu

usage() {
  cat << 'EOF'
usage: deploy/install.sh [--prefix DIR] [--destdir DIR] [--programs DIR] [--uninstall [--purge]]

  --prefix DIR     where programs and units go (default /usr/local; packages use /usr). Below any other prefix systemd does not look:
                   units and its other files then go below /etc
  --destdir DIR    install into this root instead of the running system; nothing is started or created outside of it
  --programs DIR   where the built rudderd and rudder lie (default target/release of this repository)
  --uninstall      remove what was installed (say the same --prefix); /etc/rudder, /etc/default/rudder and the user stay
  --purge          with --uninstall: remove /etc/rudder, /etc/default/rudder and /var/lib/rudder too

The first run on a system creates the user `rudder` and the folder /run/rudder; it enables and starts nothing.
EOF
}

fail() {
  echo "install.sh: $1" >&2
  exit "${2:-1}"
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
prefix=/usr/local
destdir=
programs=$here/../target/release
uninstall=no
purge=no

while [ $# -gt 0 ]; do
  case $1 in
    --prefix | --destdir | --programs)
      [ $# -ge 2 ] || fail "$1 needs a folder; see --help" 2
      case $1 in
        --prefix) prefix=${2%/} ;;
        --destdir) destdir=${2%/} ;;
        --programs) programs=$2 ;;
      esac
      shift ;;
    --uninstall) uninstall=yes ;;
    --purge) purge=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail "unknown argument $1" 2 ;;
  esac
  shift
done
case $prefix in
  *[[:space:]]*) fail "--prefix must be without spaces: units name it" 2 ;;
  /usr | /usr/local) system=$prefix/lib ;;
  /*) system=/etc ;;
  *) fail "--prefix must be an absolute path, not '$prefix'" 2 ;;
esac
# Lists of files are lines of three fields with a | between them: checkouts and roots may have spaces in their names.
case $here$destdir$programs$prefix in
  *'|'* | *"
"*) fail "a | or the end of a line in the name of a folder: $here, $programs, $destdir or $prefix" 2 ;;
esac
[ "$purge" = no ] || [ "$uninstall" = yes ] || fail "--purge goes with --uninstall" 2

# What is made here: completions and man pages, the program's own words (of the built one, or on removal of the
# installed one), and the template for more daemons on a node, which is the unit with its instance's name in the names
# of files and folders.
words=$(mktemp -d)
trap 'rm -rf "$words"' EXIT
mkdir "$words/man"
sed -e 's|/etc/rudder/rudderd\.toml|/etc/rudder/%i.toml|; s|^EnvironmentFile=.*|&-%i|; s|^[A-Z][a-z]*Directory=rudder$|&-%i|' \
  -e 's|^# The daemon of a node|# One more daemon of a node|; s|`systemctl edit rudderd`|`systemctl edit rudderd@NAME`|' \
  -e 's|^Description=.*|& (%i)|' "$here/systemd/rudderd.service" > "$words/rudderd@.service"
for program in "$programs/rudder" "$destdir$prefix/bin/rudder"; do
  if [ -x "$program" ]; then
    "$program" man "$words/man" > /dev/null
    for shell in bash zsh fish; do
      "$program" completions "$shell" > "$words/rudder.$shell"
      "$program" completions "$shell" --program rudderd > "$words/rudderd.$shell"
    done
    break
  fi
done

# Every file: MODE|SOURCE|TARGET, where MODE `link` is a symbolic link. What names the programs gets the prefix in the
# place of /usr.
files() {
  cat << EOF
0755|$programs/rudderd|$prefix/bin/rudderd
0755|$programs/rudder|$prefix/bin/rudder
0755|$here/slurm/rudder-slurm|$prefix/lib/rudder/rudder-slurm
0644|$here/slurm/slurm_node.py|$prefix/lib/rudder/slurm_node.py
link|../lib/rudder/rudder-slurm|$prefix/bin/rudder-slurm
0644|$here/slurm/example.sbatch|$prefix/share/doc/rudder/slurm/example.sbatch
0755|$here/slurm/prolog.sh|$prefix/share/doc/rudder/slurm/prolog.sh
0755|$here/slurm/epilog.sh|$prefix/share/doc/rudder/slurm/epilog.sh
0644|$here/systemd/rudderd.service|$system/systemd/system/rudderd.service
0644|$words/rudderd@.service|$system/systemd/system/rudderd@.service
0644|$here/systemd/rudder.sysusers|$system/sysusers.d/rudder.conf
0644|$here/systemd/rudder.tmpfiles|$system/tmpfiles.d/rudder.conf
0644|$here/systemd/rudder.sysctl|$system/sysctl.d/30-rudder.conf
0644|$here/systemd/rudderd.toml|$prefix/share/doc/rudder/rudderd.toml
0644|$here/../LICENSE|$prefix/share/doc/rudder/copyright
EOF
  for page in "$here"/../docs/*.md; do
    echo "0644|$page|$prefix/share/doc/rudder/$(basename "$page")"
  done
  # For the machines of Prometheus and Grafana: docs/dashboards.md names these folders as they are in the repository.
  below deploy/prometheus '*.yml' '*.json'
  below dashboards '*.json' 'rudder.yml'
  for name in rudder rudderd; do
    cat << EOF
0644|$words/$name.bash|$prefix/share/bash-completion/completions/$name
0644|$words/$name.zsh|$prefix/share/zsh/vendor-completions/_$name
0644|$words/$name.fish|$prefix/share/fish/vendor_completions.d/$name.fish
EOF
  done
  for page in "$words"/man/*.1; do
    echo "0644|$page|$prefix/share/man/man1/$(basename "$page")"
  done
}

# The files of a folder of the repository that match one of two patterns, below share/rudder; their tests stay behind.
below() {
  (cd "$here/.." && find "$1" -type f \( -name "$2" -o -name "$3" \) ! -path '*/tests/*' | sort) | while IFS= read -r file; do
    echo "0644|$here/../$file|$prefix/share/rudder/$file"
  done
}

# Configuration: installed once, then the operator's. Readable by the daemon's group, not by the world: it names keys,
# and the environment may hold one (agent.llm_key_env). rudder.tmpfiles gives both to that group, once there is one.
configuration() {
  cat << EOF
0640|$here/systemd/rudderd.toml|/etc/rudder/rudderd.toml
0640|$here/systemd/rudder.default|/etc/default/rudder
EOF
}

# A target is written beside its place and renamed: a running program is never overwritten.
put() {
  target=$destdir$3
  mkdir -p "$(dirname "$target")"
  if [ "$1" = link ]; then
    ln -sfn "$2" "$target"
    return
  fi
  case $2 in
    *.service)
      sed "s|/usr/bin/rudder|$prefix/bin/rudder|g; s|/usr/share/doc/rudder|$prefix/share/doc/rudder|g" "$2" > "$target.new" ;;
    *) cp "$2" "$target.new" ;;
  esac
  chmod "$1" "$target.new"
  mv -f "$target.new" "$target"
}

# systemd's tools, where systemd runs and the root is the running one.
tell() {
  [ -z "$destdir" ] && [ "$(id -u)" -eq 0 ] && command -v "$1" > /dev/null || return 0
  "$@"
}

reload_manager() {
  [ ! -d /run/systemd/system ] || tell systemctl daemon-reload
}

if [ "$uninstall" = yes ]; then
  if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then
    systemctl stop rudderd.service 'rudderd@*.service' 2> /dev/null || true
    systemctl disable rudderd.service rudderd@.service 2> /dev/null || true
  fi
  files | while IFS='|' read -r _ _ target; do rm -f "$destdir$target"; done
  rm -f "$destdir$prefix"/share/man/man1/rudder.1 "$destdir$prefix"/share/man/man1/rudder-*.1 "$destdir$prefix"/share/man/man1/rudderd.1
  for name in rudder rudderd; do
    rm -f "$destdir$prefix/share/bash-completion/completions/$name" "$destdir$prefix/share/zsh/vendor-completions/_$name" \
      "$destdir$prefix/share/fish/vendor_completions.d/$name.fish"
  done
  rm -rf "$destdir$prefix/share/rudder"
  rmdir "$destdir$prefix/lib/rudder" "$destdir$prefix/share/doc/rudder/slurm" "$destdir$prefix/share/doc/rudder" 2> /dev/null || true
  [ "$purge" = no ] || rm -rf "$destdir/etc/rudder" "$destdir/etc/default/rudder" "$destdir/var/lib/rudder"
  reload_manager
  exit 0
fi

for program in rudderd rudder; do
  [ -x "$programs/$program" ] || fail "$programs/$program is missing: run \`cargo build --release\`, or say --programs DIR"
done
files | while IFS='|' read -r mode source target; do put "$mode" "$source" "$target"; done
mkdir -p "$destdir/etc/rudder"
configuration | while IFS='|' read -r mode source target; do
  [ -e "$destdir$target" ] || put "$mode" "$source" "$target"
done

tell systemd-sysusers "$system/sysusers.d/rudder.conf"
tell systemd-tmpfiles --create "$system/tmpfiles.d/rudder.conf"
reload_manager
