/* The hash_lanes functions there are. */
#ifndef CFSREPO_ENGINES_H
#define CFSREPO_ENGINES_H

#include "hashes.h"

hash_lanes sha256_portable, sha512_portable;

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_X86 1
hash_lanes sha256_avx2, sha512_avx2;     /* 8 and 4 lanes */
hash_lanes sha256_avx512, sha512_avx512; /* 16 and 8 lanes */
hash_lanes sha256_ni_1, sha256_ni_2;
#endif

#endif
