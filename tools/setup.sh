# shellcheck shell=bash
# What tools/quickstart, tools/test and .ci/run share: which packages of the distribution the build needs, and
# installing those that are missing. It is sourced, never run. Nothing here needs root when nothing is missing.
#
# PLUMB_INSTALL=no forbids installing: the script then prints the line to run, as it does where it may not install.

plumb_root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
plumb_missing=()

say() { printf '%s\n' "$*" >&2; }

# A program counts as present wherever it comes from: cmake may well be newer than the distribution's.
need_command() {  # COMMAND [PACKAGE]
  command -v -- "$1" >/dev/null 2>&1 || plumb_missing+=("${2:-$1}")
}

need_package() {  # PACKAGE...
  local package status
  command -v dpkg-query >/dev/null 2>&1 || return 0  # another distribution: CMake names what it can't find
  for package in "$@"; do
    # dpkg-query fails for a package that it never heard of; one removed but not purged is known and absent.
    # shellcheck disable=SC2016  # ${...} is dpkg-query's own format
    status=$(dpkg-query -W -f '${db:Status-Status} ' -- "$package" 2>/dev/null) || status=absent
    [[ $status == *"installed "* && $status != *"not-installed "* ]] || plumb_missing+=("$package")
  done
}

need_build_packages() {
  need_command cmake
  need_command ninja ninja-build
  need_command c++ g++
  need_package libboost-graph-dev libcli11-dev libfmt-dev nlohmann-json3-dev zlib1g-dev
}

need_test_packages() {
  need_package libgtest-dev libgmock-dev libbenchmark-dev
}

# Installs what is missing, or prints the one line to run and ends with 2.
install_missing() {
  ((${#plumb_missing[@]})) || return 0
  local sudo=() prefix=
  if [[ $(id -u) != 0 ]] && command -v sudo >/dev/null 2>&1; then
    sudo=(sudo)
    prefix='sudo '
  fi
  local line="${prefix}apt-get update && ${prefix}apt-get install -y --no-install-recommends ${plumb_missing[*]}"

  if ! command -v apt-get >/dev/null 2>&1; then
    say "Missing: ${plumb_missing[*]} (as Debian names them; vcpkg.json has the list too). Install them with your package manager."
    exit 2
  fi
  local refusal=
  if [[ ${PLUMB_INSTALL:-yes} == no ]]; then
    refusal="installing is switched off (PLUMB_INSTALL=no)"
  elif [[ $(id -u) != 0 && -z $prefix ]]; then
    refusal="installing needs root, and there is no sudo"
  # sudo may ask for a password only where somebody sits in front of it.
  elif [[ -n $prefix ]] && ! sudo -n true 2>/dev/null && ! { [[ -t 0 && -t 2 ]] && sudo -v; }; then
    refusal="installing needs root, and sudo won't give it"
  fi
  if [[ -z $refusal ]]; then
    say "Installing ${plumb_missing[*]}"
    local apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120
      -o Acquire::Retries=2 -o Acquire::http::Timeout=30)
    # update may fail for a foreign source that has nothing to do with us: install decides.
    "${apt[@]}" update >&2 || say "apt-get update failed; trying with the package lists that are here"
    if "${apt[@]}" install -y --no-install-recommends "${plumb_missing[@]}" >&2; then
      plumb_missing=()
      return 0
    fi
    refusal="apt-get could not install them"
  fi
  local who=
  [[ -n $prefix ]] || who=' as root'
  say "Missing: ${plumb_missing[*]}; $refusal. Run this line$who, then this script again:"
  printf '%s\n' "$line"
  exit 2
}

# The CUDA compiler, where there is one.
cuda_compiler() {
  command -v nvcc || { [[ -x /usr/local/cuda/bin/nvcc ]] && echo /usr/local/cuda/bin/nvcc; }
}

# NVIDIA's libraries with their headers, as Python packages in .venv, where cmake/FindCudaLibraries.cmake looks. They
# come without what they ask for: of all of it only these are linked.
install_cuda_libraries() {
  local site=("$plumb_root"/.venv/lib/python3*/site-packages)
  if [[ -e ${site[0]}/nvidia/cu13/include/cublasLt.h && -e ${site[0]}/nvidia/cudnn/include/cudnn.h &&
    -e ${site[0]}/nvidia/nccl/include/nccl.h && -e ${site[0]}/include/cudnn_frontend.h ]]; then
    return 0
  fi
  need_command python3
  python3 -c 'import ensurepip, venv' 2>/dev/null || plumb_missing+=(python3-venv)
  install_missing
  say "Installing cuBLAS, cuDNN and NCCL into .venv"
  [[ -x $plumb_root/.venv/bin/python ]] || python3 -m venv "$plumb_root/.venv"
  "$plumb_root/.venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps nvidia-cublas==13.1.0.3 \
    nvidia-cudnn-cu13==9.14.0.64 nvidia-nccl-cu13==2.28.9 nvidia-cudnn-frontend==1.15.0 >&2
}

# The build folder lies in the tree; a clone that belongs to somebody else says so instead of a wall of CMake errors.
need_writable_tree() {
  [[ -w $plumb_root ]] && return 0
  say "$plumb_root can't be written by $(id -un); the build goes to its build/ folder. Clone it into a folder of your own:"
  printf 'git clone %q plumb\n' "$plumb_root"
  exit 2
}

# Two jobs at least; never more than one per 1.5 GiB, which is what the heaviest file takes to compile.
build_jobs() {
  local cores memory_kib
  cores=$(nproc 2>/dev/null || echo 2)
  memory_kib=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo 2>/dev/null || true)
  local by_memory=$((${memory_kib:-4194304} / 1572864))
  local jobs=$((cores < by_memory ? cores : by_memory))
  echo $((jobs < 1 ? 1 : jobs))
}

configure() {  # PRESET [CMAKE ARGUMENT]...
  if command -v ccache >/dev/null 2>&1; then
    export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER-ccache}
    export CMAKE_CUDA_COMPILER_LAUNCHER=${CMAKE_CUDA_COMPILER_LAUNCHER-ccache}
  fi
  (cd "$plumb_root" && cmake --preset "$@") >&2
}

build() {  # PRESET
  (cd "$plumb_root" && cmake --build --preset "$1" --parallel "$(build_jobs)") >&2
}
