/* Which functions hash on this processor, and how messages are spread over their lanes. */

#include "hashes.h"

#include "engines.h"

static int always(void) { return 1; }

#ifdef HAVE_X86
#include <cpuid.h>

static int has_avx2(void) { return __builtin_cpu_supports("avx2") != 0; }

static int has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
}

/* By CPUID itself: compilers of before 2022 do not know the name of the SHA extensions. Once: in a
 * virtual machine the instruction costs more than hashing a block. */
static int sha_found;

static int has_sha(void) { return sha_found; }

void find_engines(void) {
    unsigned eax, ebx, ecx, edx;
    sha_found = __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1") &&
                __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & bit_SHA) != 0;
}
#else
void find_engines(void) {}
#endif

static const struct engine sha256_engines[] = {
#ifdef HAVE_X86
    {"sha-ni", has_sha, {{2, 2, sha256_ni_2}, {1, 1, sha256_ni_1}}},
    {"avx512", has_avx512, {{16, 2, sha256_avx512}, {1, 1, sha256_portable}}},
    {"avx2", has_avx2, {{8, 3, sha256_avx2}, {1, 1, sha256_portable}}},
#endif
    {"portable", always, {{1, 1, sha256_portable}}},
};

static const struct engine sha512_engines[] = {
#ifdef HAVE_X86
    {"avx512", has_avx512, {{8, 2, sha512_avx512}, {1, 1, sha512_portable}}},
    {"avx2", has_avx2, {{4, 3, sha512_avx2}, {1, 1, sha512_portable}}},
#endif
    {"portable", always, {{1, 1, sha512_portable}}},
};

static const struct algorithm algorithms[] = {
    {1, 32, sha256_engines, sizeof sha256_engines / sizeof *sha256_engines},
    {2, 64, sha512_engines, sizeof sha512_engines / sizeof *sha512_engines},
};

const struct algorithm *find_algorithm(long kernel_id) {
    for (size_t i = 0; i < sizeof algorithms / sizeof *algorithms; i++)
        if (algorithms[i].kernel_id == kernel_id) return &algorithms[i];
    return NULL;
}

void hash_messages(const struct engine *engine, size_t count, const uint8_t *const *messages,
                   size_t length, uint8_t *const *digests) {
    for (const struct width *width = engine->widths; count > 0; width++) {
        const size_t lanes = width->lanes;
        for (; count >= lanes; count -= lanes, messages += lanes, digests += lanes)
            width->run(messages, length, digests);
        if (count >= width->least && count > 0) {
            /* Lanes that are left over hash the last message again. */
            const uint8_t *filled[MAX_LANES];
            uint8_t *results[MAX_LANES], unused[MAX_DIGEST_SIZE];
            for (size_t i = 0; i < lanes; i++) {
                filled[i] = messages[i < count ? i : count - 1];
                results[i] = i < count ? digests[i] : unused;
            }
            width->run(filled, length, results);
            return;
        }
    }
}
