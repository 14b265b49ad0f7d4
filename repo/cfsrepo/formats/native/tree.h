/* The Merkle tree of fs-verity above data that comes in pieces.
 *
 * Only the hashes that wait for their block to be complete are kept: TREE_PENDING bytes a level.
 * Reference: Documentation/filesystems/fsverity.rst of the kernel.
 */
#ifndef CFSREPO_TREE_H
#define CFSREPO_TREE_H

#include "hashes.h"

#define BLOCK_SIZE 4096
#define TREE_PENDING (8 * BLOCK_SIZE) /* of which whole blocks are hashed side by side */
#define TREE_LEVELS 10                /* of a file of 2^63 bytes with the larger digests: 9 */

struct tree {
    const struct algorithm *algorithm;
    const struct engine *engine;
    uint64_t size;                 /* bytes of data so far */
    unsigned used;                 /* levels that have hashes, or had some */
    size_t pending[TREE_LEVELS];   /* bytes in `hashes` */
    uint8_t *hashes[TREE_LEVELS];  /* TREE_PENDING bytes each, or NULL */
};

/* Hash `size` bytes of data in blocks, the last one padded with zeros: the hashes to `hashes`. */
void hash_blocks(const struct engine *engine, size_t digest_size, const uint8_t *data, size_t size,
                 uint8_t *hashes);

void tree_init(struct tree *tree, const struct algorithm *algorithm, const struct engine *engine);

/* Append data. All but the last call: whole blocks only. -1: no memory. */
int tree_add(struct tree *tree, const uint8_t *data, size_t size);

/* The root hash of all data; nothing can be added any more. -1: no memory. */
int tree_root(struct tree *tree, uint8_t *root);

/* Free the memory. The tree may be in any state. */
void tree_free(struct tree *tree);

/* The descriptor of a file (struct fsverity_descriptor), whose hash is the file's digest. */
#define DESCRIPTOR_SIZE 256
void make_descriptor(const struct algorithm *algorithm, uint64_t size, const uint8_t *root,
                     uint8_t descriptor[DESCRIPTOR_SIZE]);

#endif
