#!/bin/sh
# Cargo runs this in rustc's place (.cargo/config.toml). Release builds are compiled with the profile beside this file, which
# says what a proxy under load runs through: that code is laid out together and the rest elsewhere, so that a query passes
# through half as many cache lines. All other builds are left alone. `make profile` makes the profile anew.
#
#   RELEASE_PROFILE=record    compile what records a profile when it runs
#   RELEASE_PROFILE=none      compile without any
# The profile's checksum, which `make profile` puts here. Cargo asks for the compiler's version anew when this file changes,
# and compiles everything anew when the answer does: what was compiled with another profile cannot be linked with the rest.
profile=4129869285
case " $* " in
*" -vV "*) "$@" && echo "profile: $profile" && exit ;;
*" opt-level=3 "*) ;;
*) exec "$@" ;;
esac
case "${RELEASE_PROFILE:-}" in
record) exec "$@" -C profile-generate ;;
none) exec "$@" ;;
esac
# What was changed since the profile was made goes without, and need not be told.
exec "$@" -C "profile-use=$(dirname "$0")/release.profdata" -C llvm-args=-no-pgo-warn-mismatch
