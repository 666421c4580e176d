#!/bin/bash
# A private Docker engine for tests, with one image made from this machine's own files (no registry).
#
#   .ci/engine.sh up DIR     starts it (installing Debian's docker.io when missing); last line: DOCKER_HOST=...
#   .ci/engine.sh down DIR   removes its containers and networks, stops it, deletes DIR
#
# The engine touches neither netfilter nor forwarding: containers reach each other, nothing leaves the
# machine. Everything it writes lies under DIR, which must not exist, be empty, or be ours.
set -euo pipefail

readonly IMAGE=${ENGINE_IMAGE:-firebreak-test/python:1}
readonly CLI=/usr/bin/docker PYTHON=/usr/bin/python3.11 STDLIB=/usr/lib/python3.11
readonly FORWARD=/proc/sys/net/ipv4/ip_forward

usage() {
  echo "usage: $0 up|down DIR" >&2
  exit 2
}

[ $# -eq 2 ] || usage
DIR=$(realpath -m -- "$2")
SOCKET=$DIR/docker.sock
export DOCKER_CONFIG=$DIR/cli

docker() { "$CLI" --host "unix://$SOCKET" "$@"; }

answers() { [ -S "$SOCKET" ] && timeout 5 "$CLI" --host "unix://$SOCKET" version >/dev/null 2>&1; }

engine_pid() { # prints the pid only while it is really our engine: pids are used again
  local pid
  pid=$(cat "$DIR/docker.pid" 2>/dev/null) || return 1
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ] || return 1
  tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qxF -- "unix://$SOCKET" || return 1
  echo "$pid"
}

install_packages() {
  local missing=()
  [ -x /usr/sbin/dockerd ] && [ -x "$CLI" ] || missing+=(docker.io)
  [ -x /bin/busybox ] || missing+=(busybox-static)
  [ -x /usr/sbin/iptables ] || missing+=(iptables)
  [ -x "$PYTHON" ] && [ -d "$STDLIB/json" ] || missing+=(python3.11)
  [ ${#missing[@]} -gt 0 ] || return 0
  echo "installing ${missing[*]}" >&2
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -yqq \
    --no-install-recommends "${missing[@]}" >/dev/null
}

note_state() { # what this machine has before, so that `down` leaves nothing else behind
  local place
  cat "$FORWARD" >"$DIR/ip_forward.was"
  for place in /etc/docker/key.json /run/docker; do
    [ -e "$place" ] || echo "$place" >>"$DIR/leaves"
  done
}

start_engine() {
  rm -f "$DIR/docker.pid"
  setsid /usr/sbin/dockerd --data-root "$DIR/data" --exec-root "$DIR/exec" --pidfile "$DIR/docker.pid" \
    --host "unix://$SOCKET" --iptables=false --ip-forward=false --ip-masq=false \
    --bip 10.213.0.1/24 --default-address-pool base=10.214.0.0/16,size=24 \
    </dev/null >"$DIR/dockerd.log" 2>&1 &
  for _ in $(seq 300); do
    answers && return 0
    sleep 0.1
  done
  echo "the engine does not answer; its log ends:" >&2
  tail -n 20 "$DIR/dockerd.log" >&2
  return 1
}

build_image() {
  docker image inspect "$IMAGE" >/dev/null 2>&1 && return 0
  local root=$DIR/rootfs applet libraries
  rm -rf "$root"
  mkdir -p "$root"/{bin,usr/bin,etc,tmp,proc,sys,dev,lib64}
  chmod 1777 "$root/tmp"
  cp /bin/busybox "$root/bin/"
  for applet in $(/bin/busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
  done
  printf 'root:x:0:0:root:/:/bin/sh\nmodel:x:1000:1000:model:/tmp:/bin/sh\n' >"$root/etc/passwd"
  printf 'root:x:0:\nmodel:x:1000:\n' >"$root/etc/group"
  libraries=$( (ldd "$PYTHON" "$STDLIB"/lib-dynload/*.so || true) 2>/dev/null |
    awk '/^[[:space:]]/ { for (i = 1; i <= NF; i++) if ($i ~ /^\// && $i !~ /lib-dynload/) print substr($i, 2) }' | sort -u)
  # shellcheck disable=SC2086 # one word per library
  tar --create --dereference --exclude='*/test' --exclude='*/__pycache__' --exclude='*/dist-packages' \
    --exclude='config-3.11*' --directory / $libraries "${PYTHON#/}" "${STDLIB#/}" |
    tar --extract --directory "$root"
  ln -s python3.11 "$root/usr/bin/python3"
  tar --directory "$root" --create . |
    docker import --change 'ENV PATH=/usr/bin:/bin' --change 'CMD ["/bin/sleep","3600"]' - "$IMAGE" >/dev/null
  rm -rf "$root"
}

up() {
  if [ -e "$DIR" ] && [ ! -e "$DIR/engine.ours" ] && [ -n "$(ls -A -- "$DIR")" ]; then
    echo "$DIR is not empty and not an engine of this script" >&2
    exit 1
  fi
  install_packages
  mkdir -p "$DIR"
  if [ ! -e "$DIR/engine.ours" ]; then
    note_state
    : >"$DIR/engine.ours"
  fi
  answers || start_engine
  build_image
  echo "DOCKER_HOST=unix://$SOCKET"
}

down() {
  [ -e "$DIR/engine.ours" ] || return 0
  local pid left
  if answers; then # networks must go while the engine lives, or their bridges stay on the host
    left=$(docker ps --all --quiet)
    [ -z "$left" ] || docker rm --force --volumes $left >/dev/null
    left=$(docker network ls --quiet --filter type=custom)
    [ -z "$left" ] || docker network rm $left >/dev/null
  fi
  if pid=$(engine_pid); then
    kill -TERM "$pid"
    for _ in $(seq 300); do
      engine_pid >/dev/null || break
      sleep 0.1
    done
    if engine_pid >/dev/null; then kill -KILL "$pid"; fi
  fi
  umount "$DIR"/exec/netns/* 2>/dev/null || true
  ip link del docker0 2>/dev/null || true
  [ ! -s "$DIR/ip_forward.was" ] || cat "$DIR/ip_forward.was" >"$FORWARD"
  local place
  while read -r place; do rm -rf -- "$place"; done < <(cat "$DIR/leaves" 2>/dev/null || true)
  rmdir /sys/fs/cgroup/*/docker 2>/dev/null || true
  rm -rf -- "$DIR"
}

case $1 in
  up) up ;;
  down) down ;;
  *) usage ;;
esac
