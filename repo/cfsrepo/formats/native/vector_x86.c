/* As many messages side by side as a vector of AVX2 or AVX-512 has words. */

#include "engines.h"

#ifdef HAVE_X86

#include <immintrin.h>
#include <string.h>

#include "constants.h"

#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))

#define SWAP4(i) i + 3, i + 2, i + 1, i
#define SWAP8(i) SWAP4(i + 4), SWAP4(i)
#define SWAP4_OF_16 SWAP4(0), SWAP4(4), SWAP4(8), SWAP4(12)
#define SWAP8_OF_16 SWAP8(0), SWAP8(8)

/* Within each 16 bytes, since that is how the instruction counts. */
static const uint8_t swap4[64] = {SWAP4_OF_16, SWAP4_OF_16, SWAP4_OF_16, SWAP4_OF_16};
static const uint8_t swap8[64] = {SWAP8_OF_16, SWAP8_OF_16, SWAP8_OF_16, SWAP8_OF_16};

#define SWAP_AVX2(V, table, x)                                                                     \
    (V) _mm256_shuffle_epi8((__m256i)(x), _mm256_loadu_si256((const __m256i *)table))
#define SWAP_AVX512(V, table, x)                                                                   \
    (V) _mm512_shuffle_epi8((__m512i)(x), _mm512_loadu_si512((const void *)table))

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(V, x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SHUFFLE(V, x, y, ...) __builtin_shuffle(x, y, (V){__VA_ARGS__})
#endif

/* Any function of three bits in one instruction: its truth table, x is 0xf0, y 0xcc, z 0xaa. */
#define TERNARY(x, y, z, table)                                                                    \
    (__typeof__(x)) _mm512_ternarylogic_epi32((__m512i)(x), (__m512i)(y), (__m512i)(z), table)

#define NAME sha256_avx2
#define TARGET AVX2
#define LANES 8
#define BITS 32
#define SWAP_BYTES(V, x) SWAP_AVX2(V, swap4, x)
#define INTERLEAVE_LOW(V, x, y) SHUFFLE(V, x, y, 0, 8, 1, 9, 2, 10, 3, 11)
#define INTERLEAVE_HIGH(V, x, y) SHUFFLE(V, x, y, 4, 12, 5, 13, 6, 14, 7, 15)
#include "lanes.h"

#define NAME sha512_avx2
#define TARGET AVX2
#define LANES 4
#define BITS 64
#define SWAP_BYTES(V, x) SWAP_AVX2(V, swap8, x)
#define INTERLEAVE_LOW(V, x, y) SHUFFLE(V, x, y, 0, 4, 1, 5)
#define INTERLEAVE_HIGH(V, x, y) SHUFFLE(V, x, y, 2, 6, 3, 7)
#include "lanes.h"

#define NAME sha256_avx512
#define TARGET AVX512
#define LANES 16
#define BITS 32
#define SWAP_BYTES(V, x) SWAP_AVX512(V, swap4, x)
#define INTERLEAVE_LOW(V, x, y)                                                                    \
    SHUFFLE(V, x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define INTERLEAVE_HIGH(V, x, y)                                                                   \
    SHUFFLE(V, x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define CHOOSE(x, y, z) TERNARY(x, y, z, 0xca)
#define MAJORITY(x, y, z) TERNARY(x, y, z, 0xe8)
#define XOR3(x, y, z) TERNARY(x, y, z, 0x96)
#include "lanes.h"

#define NAME sha512_avx512
#define TARGET AVX512
#define LANES 8
#define BITS 64
#define SWAP_BYTES(V, x) SWAP_AVX512(V, swap8, x)
#define INTERLEAVE_LOW(V, x, y) SHUFFLE(V, x, y, 0, 8, 1, 9, 2, 10, 3, 11)
#define INTERLEAVE_HIGH(V, x, y) SHUFFLE(V, x, y, 4, 12, 5, 13, 6, 14, 7, 15)
#define CHOOSE(x, y, z) TERNARY(x, y, z, 0xca)
#define MAJORITY(x, y, z) TERNARY(x, y, z, 0xe8)
#define XOR3(x, y, z) TERNARY(x, y, z, 0x96)
#include "lanes.h"

#endif
