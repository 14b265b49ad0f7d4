/* SHA-256 by the processor's SHA extensions, for one message or two.
 *
 * The instruction for two rounds takes four cycles, but one can start every two cycles: the rounds
 * of a second message, interleaved, come for nothing. More messages add nothing.
 */

#include "engines.h"

#ifdef HAVE_X86

#include <immintrin.h>
#include <string.h>

#include "constants.h"

#define SHA_NI __attribute__((target("sha,sse4.1,ssse3")))
#define INLINE static inline __attribute__((always_inline)) SHA_NI

#define UNIT 64 /* bytes that one pass of the rounds takes */

/* The state as the instructions want it: the words a, b, e, f and c, d, g, h, the first on top. */
struct state {
    __m128i abef, cdgh;
};

/* Rounds 4 * group to 4 * group + 3 of all lanes; `w` are the last 16 words of the schedule. */
INLINE void four_rounds(struct state *state, __m128i w[][4], int lanes, int group) {
    const __m128i k = _mm_loadu_si128((const __m128i *)&SHA256_K[4 * group]);
#pragma GCC unroll 2
    for (int lane = 0; lane < lanes; lane++) {
        __m128i *words = &w[lane][group & 3];
        if (group >= 4) {
            const __m128i last = w[lane][(group + 3) & 3];
            const __m128i seventh = _mm_alignr_epi8(last, w[lane][(group + 2) & 3], 4);
            const __m128i sum = _mm_sha256msg1_epu32(*words, w[lane][(group + 1) & 3]);
            *words = _mm_sha256msg2_epu32(_mm_add_epi32(sum, seventh), last);
        }
        const __m128i wk = _mm_add_epi32(*words, k);
        struct state *s = &state[lane];
        s->cdgh = _mm_sha256rnds2_epu32(s->cdgh, s->abef, wk);
        s->abef = _mm_sha256rnds2_epu32(s->abef, s->cdgh, _mm_shuffle_epi32(wk, 0x0e));
    }
}

INLINE void compress(struct state *state, __m128i w[][4], int lanes) {
    struct state before[2];
#pragma GCC unroll 2
    for (int lane = 0; lane < lanes; lane++) before[lane] = state[lane];
#pragma GCC unroll 16
    for (int group = 0; group < SHA256_ROUNDS / 4; group++) four_rounds(state, w, lanes, group);
#pragma GCC unroll 2
    for (int lane = 0; lane < lanes; lane++) {
        state[lane].abef = _mm_add_epi32(state[lane].abef, before[lane].abef);
        state[lane].cdgh = _mm_add_epi32(state[lane].cdgh, before[lane].cdgh);
    }
}

INLINE void store_digest(const struct state *state, uint8_t *digest) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    const __m128i feba = _mm_shuffle_epi32(state->abef, 0x1b);
    const __m128i dchg = _mm_shuffle_epi32(state->cdgh, 0xb1);
    const __m128i dcba = _mm_blend_epi16(feba, dchg, 0xf0);
    const __m128i hgfe = _mm_alignr_epi8(dchg, feba, 8);
    _mm_storeu_si128((__m128i *)digest, _mm_shuffle_epi8(dcba, swap));
    _mm_storeu_si128((__m128i *)(digest + 16), _mm_shuffle_epi8(hgfe, swap));
}

INLINE void hash(const uint8_t *const *messages, size_t length, uint8_t *const *digests,
                 int lanes) {
    const uint32_t *const h = SHA256_INITIAL;
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    struct state state[2];
    __m128i w[2][4];
#pragma GCC unroll 2
    for (int lane = 0; lane < lanes; lane++) {
        state[lane].abef = _mm_set_epi32((int)h[0], (int)h[1], (int)h[4], (int)h[5]);
        state[lane].cdgh = _mm_set_epi32((int)h[2], (int)h[3], (int)h[6], (int)h[7]);
    }
    for (size_t offset = 0; offset < length; offset += UNIT) {
#pragma GCC unroll 2
        for (int lane = 0; lane < lanes; lane++) {
            const __m128i *data = (const __m128i *)(messages[lane] + offset);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                w[lane][i] = _mm_shuffle_epi8(_mm_loadu_si128(data + i), swap);
        }
        compress(state, w, lanes);
    }
#pragma GCC unroll 2
    for (int lane = 0; lane < lanes; lane++) {
        w[lane][0] = _mm_set_epi32(0, 0, 0, (int)0x80000000); /* the padding's one bit */
        w[lane][1] = w[lane][2] = _mm_setzero_si128();
        w[lane][3] = _mm_set_epi32((int)(uint32_t)(length * 8), 0, 0, 0);
    }
    compress(state, w, lanes);
#pragma GCC unroll 2
    for (int lane = 0; lane < lanes; lane++) store_digest(&state[lane], digests[lane]);
}

SHA_NI void sha256_ni_1(const uint8_t *const *messages, size_t length, uint8_t *const *digests) {
    hash(messages, length, digests, 1);
}

SHA_NI void sha256_ni_2(const uint8_t *const *messages, size_t length, uint8_t *const *digests) {
    hash(messages, length, digests, 2);
}

#endif
