/* SHA-256 and SHA-512 of several messages at once.
 *
 * All messages of a call have the same length, a multiple of HASH_UNIT bytes: blocks of a Merkle
 * tree and fs-verity descriptors are such messages. Reference: FIPS 180-4.
 */
#ifndef CFSREPO_HASHES_H
#define CFSREPO_HASHES_H

#include <stddef.h>
#include <stdint.h>

#define HASH_UNIT 128      /* bytes; both algorithms' block sizes divide it */
#define MAX_LANES 16       /* messages that one call of a hash_lanes function takes, at most */
#define MAX_DIGEST_SIZE 64 /* bytes */

/* The digests of as many messages as the function has lanes, each `length` bytes. */
typedef void hash_lanes(const uint8_t *const *messages, size_t length, uint8_t *const *digests);

/* A function of an engine. With fewer than `least` messages the next, narrower one is faster. */
struct width {
    unsigned lanes;
    unsigned least;
    hash_lanes *run;
};

/* A way to hash on some processors; the last of its widths has one lane. */
struct engine {
    const char *name;
    int (*usable)(void);
    struct width widths[2];
};

struct algorithm {
    int kernel_id; /* FS_VERITY_HASH_ALG_* */
    size_t digest_size;
    const struct engine *engines; /* the fastest first; the last one runs everywhere */
    size_t engine_count;
};

/* Look at the processor. To be called before all else. */
void find_engines(void);

/* The algorithm of an FS_VERITY_HASH_ALG_*; NULL for another number. */
const struct algorithm *find_algorithm(long kernel_id);

/* The digests of `count` messages of `length` bytes. */
void hash_messages(const struct engine *engine, size_t count, const uint8_t *const *messages,
                   size_t length, uint8_t *const *digests);

#endif
