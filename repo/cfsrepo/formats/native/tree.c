#include "tree.h"

#include <stdlib.h>
#include <string.h>

#define BATCH 64 /* messages whose addresses are made at a time */

void hash_blocks(const struct engine *engine, size_t digest_size, const uint8_t *data, size_t size,
                 uint8_t *hashes) {
    const uint8_t *messages[BATCH];
    uint8_t *digests[BATCH];
    size_t blocks = size / BLOCK_SIZE;
    while (blocks > 0) {
        const size_t count = blocks < BATCH ? blocks : BATCH;
        for (size_t i = 0; i < count; i++) {
            messages[i] = data + i * BLOCK_SIZE;
            digests[i] = hashes + i * digest_size;
        }
        hash_messages(engine, count, messages, BLOCK_SIZE, digests);
        data += count * BLOCK_SIZE;
        hashes += count * digest_size;
        blocks -= count;
    }
    const size_t rest = size % BLOCK_SIZE;
    if (rest > 0) {
        uint8_t block[BLOCK_SIZE];
        memcpy(block, data, rest);
        memset(block + rest, 0, BLOCK_SIZE - rest);
        messages[0] = block;
        digests[0] = hashes;
        hash_messages(engine, 1, messages, BLOCK_SIZE, digests);
    }
}

void tree_init(struct tree *tree, const struct algorithm *algorithm, const struct engine *engine) {
    memset(tree, 0, sizeof *tree);
    tree->algorithm = algorithm;
    tree->engine = engine;
}

void tree_free(struct tree *tree) {
    for (unsigned level = 0; level < TREE_LEVELS; level++) {
        free(tree->hashes[level]);
        tree->hashes[level] = NULL;
    }
}

/* Room for the hashes of some blocks at the end of a level; NULL: no memory. */
static uint8_t *room(struct tree *tree, unsigned level) {
    if (level >= TREE_LEVELS) abort(); /* no file is that large */
    if (tree->hashes[level] == NULL && (tree->hashes[level] = malloc(TREE_PENDING)) == NULL)
        return NULL;
    if (level >= tree->used) tree->used = level + 1;
    return tree->hashes[level] + tree->pending[level];
}

/* Append the hashes of data, or of a level's blocks, to `level`, and upwards where it gets full. */
static int append(struct tree *tree, unsigned level, const uint8_t *data, size_t size) {
    const size_t digest_size = tree->algorithm->digest_size;
    while (size > 0) {
        uint8_t *const hashes = room(tree, level);
        if (hashes == NULL) return -1;
        const size_t fits = (TREE_PENDING - tree->pending[level]) / digest_size * BLOCK_SIZE;
        const size_t taken = size < fits ? size : fits;
        hash_blocks(tree->engine, digest_size, data, taken, hashes);
        tree->pending[level] += (taken + BLOCK_SIZE - 1) / BLOCK_SIZE * digest_size;
        data += taken;
        size -= taken;
        if (tree->pending[level] == TREE_PENDING) {
            /* Of more than one block, so this is not the top. As deep as there are levels. */
            if (append(tree, level + 1, tree->hashes[level], TREE_PENDING) < 0) return -1;
            tree->pending[level] = 0;
        }
    }
    return 0;
}

int tree_add(struct tree *tree, const uint8_t *data, size_t size) {
    tree->size += size;
    return append(tree, 0, data, size);
}

int tree_root(struct tree *tree, uint8_t *root) {
    const size_t digest_size = tree->algorithm->digest_size;
    memset(root, 0, digest_size); /* of an empty file */
    for (unsigned level = 0; level < tree->used; level++) {
        const size_t pending = tree->pending[level];
        if (pending == digest_size && level + 1 == tree->used) {
            memcpy(root, tree->hashes[level], digest_size);
            break;
        }
        if (pending > 0 && append(tree, level + 1, tree->hashes[level], pending) < 0) return -1;
    }
    return 0;
}

void make_descriptor(const struct algorithm *algorithm, uint64_t size, const uint8_t *root,
                     uint8_t descriptor[DESCRIPTOR_SIZE]) {
    memset(descriptor, 0, DESCRIPTOR_SIZE);
    descriptor[0] = 1; /* version */
    descriptor[1] = (uint8_t)algorithm->kernel_id;
    descriptor[2] = 12; /* log2 of the block size; no salt, no signature */
    for (int i = 0; i < 8; i++) descriptor[8 + i] = (uint8_t)(size >> (8 * i));
    memcpy(descriptor + 16, root, algorithm->digest_size);
}
