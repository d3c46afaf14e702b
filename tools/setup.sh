#!/usr/bin/env bash
# Installs the Debian 12 packages that Sluice is built from. Says nothing and takes milliseconds when
# none is missing; asks for root (through sudo) only when one is.
#   tools/setup.sh        to build, run and test
#   tools/setup.sh dev    also what `make format` and `make lint` need
set -euo pipefail

packages=(
  build-essential cmake ninja-build ccache pkg-config python3
  libhwy-dev libopenblas-dev nlohmann-json3-dev libcli11-dev libfmt-dev libspdlog-dev
  libonig-dev libutf8proc-dev libxxhash-dev libzstd-dev
  libgtest-dev libgmock-dev librapidcheck-dev libbenchmark-dev gnuplot-nox
)
case "${1:-}" in
  "") ;;
  dev) packages+=(clang-format clang-tidy) ;;
  *)
    echo "tools/setup.sh: unknown argument '$1'; use no argument or 'dev'" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "tools/setup.sh: this is not a Debian system. Install the equivalents of:" >&2
  echo "  ${packages[*]}" >&2
  exit 1
fi

installed=" $(dpkg-query -W -f='${Package}:${db:Status-Status} ' "${packages[@]}" 2>/dev/null || true)"
missing=()
for package in "${packages[@]}"; do
  [[ "$installed" == *" $package:installed "* ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "tools/setup.sh: these packages are missing, and there is no sudo. As root, run:" >&2
    echo "  apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "Installing ${#missing[@]} packages: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
  "${as_root[@]}" apt-get update -q &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -q -y --no-install-recommends "${missing[@]}"
}
if ! install >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "tools/setup.sh: apt-get failed (its last lines are above)" >&2
  exit 1
fi
