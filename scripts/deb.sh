#!/usr/bin/env bash
# Builds the Debian package postgresql-NN-vekter for the PostgreSQL of $PG_CONFIG, and says where it is. DEBFULLNAME and
# DEBEMAIL name who answers for it.
#
#   $libdir/vekter.so                                              no code: it needs libvekter.so
#   $libdir/vekter.libs/libvekter.so                               x86-64-v3: processors with AVX2 and FMA
#   $libdir/vekter.libs/glibc-hwcaps/x86-64-v4/libvekter.so        processors with AVX-512
#
# The loader looks for libvekter.so in the RUNPATH of vekter.so, the variants that the processor supports first
# (ld.so(8), glibc-hwcaps). Run this on the oldest release that is to install the package: it needs the C library of the
# machine that built it, or a newer one.
set -euo pipefail
cd "$(dirname "$0")/.."

export PG_CONFIG=${PG_CONFIG:-pg_config}
scripts/setup.sh install package
major=$("$PG_CONFIG" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
package=postgresql-$major-vekter
architecture=$(dpkg --print-architecture)
root=target/deb/$package
file=target/deb/${package}_$version-1_$architecture.deb
libraries=$root$("$PG_CONFIG" --pkglibdir)
documents=$root/usr/share/doc/$package
# As Debian's own tools do, deb-control(5).
maintainer="${DEBFULLNAME:-the vekter authors} <${DEBEMAIL:-vekter@localhost.localdomain}>"

rm -rf "$root" target/deb/control
mkdir -p "$libraries/vekter.libs/glibc-hwcaps/x86-64-v4" "$documents" "$root/DEBIAN"

build() { # PROCESSORS TO
    make --no-print-directory build MARCH="$1" CARGO_TARGET_DIR="$PWD/target/deb/$1" >&2
    install -m 644 "target/deb/$1/release/libvekter.so" "$2"
    strip --strip-unneeded "$2"
}
build x86-64-v3 "$libraries/vekter.libs/libvekter.so"
build x86-64-v4 "$libraries/vekter.libs/glibc-hwcaps/x86-64-v4/libvekter.so"
# shellcheck disable=SC2016 # $ORIGIN is the loader's
gcc -shared -nostdlib -o "$libraries/vekter.so" -x c /dev/null -L "$libraries/vekter.libs" \
    -Wl,--no-as-needed -lvekter -Wl,--enable-new-dtags,-rpath,'$ORIGIN/vekter.libs',-z,relro,--strip-all
chmod 644 "$libraries/vekter.so"

LIBRARY=$libraries/vekter.so DESTDIR=$PWD/$root scripts/install.sh >&2
chmod 644 "$libraries/vekter.so"

install -m 644 README.md docs/*.md "$documents"
gzip -9n <CHANGELOG.md >"$documents/changelog.gz"
gzip -9n >"$documents/changelog.Debian.gz" <<CHANGES
$package ($version-1) unstable; urgency=medium

  * The release $version: see changelog.gz.

 -- $maintainer  $(date -R -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}")
CHANGES
{
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: vekter\n\n'
    printf 'Files: *\nCopyright: 2026 the vekter authors\nLicense: Expat or Apache-2.0\n\n'
    printf 'Files: vekter.libs/*\nCopyright: Meta Platforms, Inc. and its affiliates (FAISS)\nLicense: Expat\n'
    printf 'Comment: FAISS is linked in, and OpenBLAS (BSD-3-Clause, The OpenBLAS Project).\n\n'
    printf 'License: Expat\n'
    sed 's/^$/./; s/^/ /' LICENSE-MIT
    printf '\nLicense: Apache-2.0\n On Debian systems: /usr/share/common-licenses/Apache-2.0\n'
} >"$documents/copyright"

# dpkg-shlibdeps reads debian/control of a source package.
mkdir -p target/deb/control/debian
printf 'Source: vekter\n\nPackage: %s\nArchitecture: any\n' "$package" >target/deb/control/debian/control
depends=$(cd target/deb/control && find "../$package" -name 'libvekter.so' -print0 |
    xargs -0 dpkg-shlibdeps -O --ignore-missing-info 2>/dev/null | sed 's/^shlibs:Depends=//')
cat >"$root/DEBIAN/control" <<CONTROL
Package: $package
Source: vekter
Version: $version-1
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f 1)
Depends: postgresql-$major, $depends
Section: database
Priority: optional
Description: FAISS indexes over vectors in PostgreSQL $major
 vekter adds a type for vectors and an index access method that builds any
 index of the library FAISS over a column: graphs, inverted lists, scalar and
 product quantisation and their combinations. It serves plain SQL, with
 conditions, and indexes columns of pgvector's types as they are.
CONTROL
mkdir -p "$root/usr/share/lintian/overrides"
printf '# No code: it only needs the library that the loader chooses.\n%s: library-not-linked-against-libc\n' "$package" \
    >"$root/usr/share/lintian/overrides/$package"
chmod 644 "$root/usr/share/lintian/overrides/$package"
(cd "$root" && find usr -type f -exec md5sum {} + >DEBIAN/md5sums)
find "$root" -type d -exec chmod 755 {} +
dpkg-deb --root-owner-group -Zxz --build "$root" "$file" >&2
printf '%s\n' "$file"
