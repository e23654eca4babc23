#!/bin/bash
# Sourced by check and demo: `need NAME…` sees to it that these Debian packages are there. It says
# what it is about to install, installs only what is missing, and gives up with one sentence where it
# can neither find nor install something.

# How to see that a package is there, also where it was not installed by apt.
package_is_there()
{
    case $1 in
    libc6-dev) echo '#include <stdio.h>' | gcc -fsyntax-only -xc - 2>/dev/null ;;
    ninja-build) command -v ninja >/dev/null ;;
    libjansson-dev) pkg-config --exists 'jansson >= 2.13' 2>/dev/null ;;
    libpcre2-dev) pkg-config --exists libpcre2-8 2>/dev/null ;;
    libutf8proc-dev) pkg-config --exists libutf8proc 2>/dev/null ;;
    liburing-dev) pkg-config --exists liburing 2>/dev/null ;;
    libopenblas0-pthread) # or the kind with OpenMP; the serial one will not do
        local blas
        blas=$(/sbin/ldconfig -p | sed -n 's/.*libopenblas\.so\.0 .*=> //p')
        [ -n "$blas" ] && [[ $(readlink -f "${blas%%$'\n'*}") != *serial* ]]
        ;;
    libevent-dev) pkg-config --exists libevent 2>/dev/null ;;
    libmd-dev) pkg-config --exists libmd 2>/dev/null ;;
    libedit-dev) pkg-config --exists libedit 2>/dev/null ;;
    libclang-rt-dev) echo 'int main(void) { return 0; }' | clang -fsanitize=thread -xc - -o /dev/null 2>/dev/null ;;
    gcc-aarch64-linux-gnu) command -v aarch64-linux-gnu-gcc >/dev/null ;;
    qemu-user) command -v qemu-x86_64 >/dev/null ;;
    python3-jinja2) python3 -c 'import jinja2' 2>/dev/null ;;
    libcmocka-dev) pkg-config --exists cmocka 2>/dev/null ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

missing_of()
{
    local name
    for name; do
        package_is_there "$name" || printf '%s ' "$name"
    done
}

need()
{
    local missing sudo=()
    missing=$(missing_of "$@")
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "Missing: $missing(names of Debian packages). There is no apt-get here: please install them." >&2
        return 1
    fi
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "Missing: $missing. Please run as root: apt-get install $missing" >&2
            return 1
        fi
        sudo=(sudo)
    fi
    echo "About to install with apt-get: $missing"
    mkdir -p build
    # shellcheck disable=SC2086 # a list of words
    if ! { "${sudo[@]}" apt-get update &&
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
    } >build/apt.log 2>&1 </dev/null; then
        tail -n 5 build/apt.log >&2
        echo "apt-get could not install: $missing(all of its output is in build/apt.log)" >&2
        return 1
    fi
    missing=$(missing_of "$@")
    if [ -n "$missing" ]; then
        echo "Installed, but still not found: $missing" >&2
        return 1
    fi
}
