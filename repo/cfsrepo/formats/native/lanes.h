/* A template: a hash_lanes function in which a vector holds the same word of all messages.
 *
 * Defined before each inclusion, and undefined by it:
 *   NAME      of the function
 *   TARGET    its attribute: the instructions it may use, or nothing
 *   LANES     messages: 1, 4, 8 or 16
 *   BITS      of a word: 32 for SHA-256, 64 for SHA-512
 *   CHOOSE(x, y, z), MAJORITY(x, y, z), XOR3(x, y, z)
 *             where the processor has better than the plain expressions
 */

#define GLUE2(a, b) a##_##b
#define GLUE(a, b) GLUE2(a, b)
#define LOCAL(name) GLUE(NAME, name)
#define INLINE static inline __attribute__((always_inline)) TARGET

#if BITS == 32
#define WORD uint32_t
#define SWAP_WORD BIG_ENDIAN_32
#define ROUNDS SHA256_ROUNDS
#define K SHA256_K
#define INITIAL SHA256_INITIAL
#define BIG0(x) XOR3(ROTATE(x, 2), ROTATE(x, 13), ROTATE(x, 22))
#define BIG1(x) XOR3(ROTATE(x, 6), ROTATE(x, 11), ROTATE(x, 25))
#define SMALL0(x) XOR3(ROTATE(x, 7), ROTATE(x, 18), (x) >> 3)
#define SMALL1(x) XOR3(ROTATE(x, 17), ROTATE(x, 19), (x) >> 10)
#else
#define WORD uint64_t
#define SWAP_WORD BIG_ENDIAN_64
#define ROUNDS SHA512_ROUNDS
#define K SHA512_K
#define INITIAL SHA512_INITIAL
#define BIG0(x) XOR3(ROTATE(x, 28), ROTATE(x, 34), ROTATE(x, 39))
#define BIG1(x) XOR3(ROTATE(x, 14), ROTATE(x, 18), ROTATE(x, 41))
#define SMALL0(x) XOR3(ROTATE(x, 1), ROTATE(x, 8), (x) >> 7)
#define SMALL1(x) XOR3(ROTATE(x, 19), ROTATE(x, 61), (x) >> 6)
#endif

#define ROTATE(x, n) ((x) >> (n) | (x) << (BITS - (n)))
#ifndef CHOOSE
#define CHOOSE(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MAJORITY(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))
#define XOR3(x, y, z) ((x) ^ (y) ^ (z))
#endif
#define UNIT (BITS * 2) /* bytes that one pass of the rounds takes: 16 words */

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define BIG_ENDIAN_32(word) (word)
#define BIG_ENDIAN_64(word) (word)
#else
#define BIG_ENDIAN_32 __builtin_bswap32
#define BIG_ENDIAN_64 __builtin_bswap64
#endif

#if LANES == 1
typedef WORD LOCAL(vector);
#else
typedef WORD LOCAL(vector) __attribute__((vector_size(LANES * BITS / 8)));
#endif
#define VECTOR LOCAL(vector)

/* The 16 words at `offset` of each message. */
INLINE void LOCAL(load)(const uint8_t *const *messages, size_t offset, VECTOR words[16]) {
#if LANES == 1
    memcpy(words, messages[0] + offset, UNIT);
    for (int i = 0; i < 16; i++) words[i] = SWAP_WORD(words[i]);
#else
    for (int start = 0; start < 16; start += LANES) {
        /* Row i holds LANES words of message i; transposed, row i is word i of all messages. */
        VECTOR *rows = words + start;
        for (int lane = 0; lane < LANES; lane++) {
            memcpy(&rows[lane], messages[lane] + offset + (size_t)start * BITS / 8, sizeof(VECTOR));
            rows[lane] = SWAP_BYTES(VECTOR, rows[lane]);
        }
        /* A transposition is as many perfect shuffles as the number of lanes has bits. */
        for (int step = 1; step < LANES; step *= 2) {
            VECTOR shuffled[LANES];
            for (int i = 0; i < LANES / 2; i++) {
                shuffled[2 * i] = INTERLEAVE_LOW(VECTOR, rows[i], rows[i + LANES / 2]);
                shuffled[2 * i + 1] = INTERLEAVE_HIGH(VECTOR, rows[i], rows[i + LANES / 2]);
            }
            memcpy(rows, shuffled, sizeof shuffled);
        }
    }
#endif
}

#define ROUND(a, b, c, d, e, f, g, h, i)                                                           \
    do {                                                                                           \
        VECTOR sum = h + BIG1(e) + CHOOSE(e, f, g) + K[t + (i)] + w[i];                            \
        d += sum;                                                                                  \
        h = sum + BIG0(a) + MAJORITY(a, b, c);                                                     \
    } while (0)

#define EIGHT_ROUNDS(i)                                                                            \
    do {                                                                                           \
        ROUND(a, b, c, d, e, f, g, h, (i) + 0);                                                    \
        ROUND(h, a, b, c, d, e, f, g, (i) + 1);                                                    \
        ROUND(g, h, a, b, c, d, e, f, (i) + 2);                                                    \
        ROUND(f, g, h, a, b, c, d, e, (i) + 3);                                                    \
        ROUND(e, f, g, h, a, b, c, d, (i) + 4);                                                    \
        ROUND(d, e, f, g, h, a, b, c, (i) + 5);                                                    \
        ROUND(c, d, e, f, g, h, a, b, (i) + 6);                                                    \
        ROUND(b, c, d, e, f, g, h, a, (i) + 7);                                                    \
    } while (0)

/* Take the 16 words `w` of each message into `state`. */
INLINE void LOCAL(compress)(VECTOR state[8], VECTOR w[16]) {
    VECTOR a = state[0], b = state[1], c = state[2], d = state[3];
    VECTOR e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0;;) {
        EIGHT_ROUNDS(0);
        EIGHT_ROUNDS(8);
        if ((t += 16) == ROUNDS) break;
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            w[i] += SMALL1(w[(i + 14) & 15]) + w[(i + 9) & 15] + SMALL0(w[(i + 1) & 15]);
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

TARGET void NAME(const uint8_t *const *messages, size_t length, uint8_t *const *digests) {
    VECTOR state[8], w[16];
    const VECTOR zero = {0};
    for (int i = 0; i < 8; i++) state[i] = zero + INITIAL[i];
    for (size_t offset = 0; offset < length; offset += UNIT) {
        LOCAL(load)(messages, offset, w);
        LOCAL(compress)(state, w);
    }
    for (int i = 0; i < 16; i++) w[i] = zero;
    w[0] = zero + ((WORD)1 << (BITS - 1)); /* the padding: a bit, zeros, the length in bits */
    w[15] = zero + (WORD)length * 8;
    LOCAL(compress)(state, w);

    WORD words[8][LANES];
    memcpy(words, state, sizeof words);
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 8; i++) {
            WORD word = SWAP_WORD(words[i][lane]);
            memcpy(digests[lane] + (size_t)i * sizeof word, &word, sizeof word);
        }
}

#undef GLUE2
#undef GLUE
#undef LOCAL
#undef INLINE
#undef WORD
#undef SWAP_WORD
#undef ROUNDS
#undef K
#undef INITIAL
#undef BIG0
#undef BIG1
#undef SMALL0
#undef SMALL1
#undef ROTATE
#undef CHOOSE
#undef MAJORITY
#undef XOR3
#undef UNIT
#undef BIG_ENDIAN_32
#undef BIG_ENDIAN_64
#undef VECTOR
#undef ROUND
#undef EIGHT_ROUNDS
#undef NAME
#undef TARGET
#undef LANES
#undef BITS
#undef SWAP_BYTES
#undef INTERLEAVE_LOW
#undef INTERLEAVE_HIGH
