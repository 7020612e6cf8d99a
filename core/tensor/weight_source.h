/* A weight that stays in its files: its parts are read into memory of the caller's when they are needed. */
#ifndef LT_TENSOR_WEIGHT_SOURCE_H
#define LT_TENSOR_WEIGHT_SOURCE_H

#include "core/base/file.h"
#include "core/tensor/weight.h"

enum lt_weight_part {
    LT_PART_DATA,
    LT_PART_ABSMAX, /* codes of the scales where there are nested ones */
    LT_PART_CODE,
    LT_PART_NESTED_ABSMAX,
    LT_PART_NESTED_CODE,
    LT_PART_COUNT
};

struct lt_weight_source {
    struct {
        const struct lt_file_map *file; /* borrowed */
        size_t offset, bytes;           /* bytes 0: the weight has that part elsewhere, or has none */
    } parts[LT_PART_COUNT];
};

enum { LT_WEIGHT_SOURCE_ALIGN = 64 };

/* Memory for all parts, each rounded up to LT_WEIGHT_SOURCE_ALIGN. */
size_t lt_weight_source_bytes(const struct lt_weight_source *s);
/* Into memory aligned so.  The page cache does not keep what was read. */
enum lt_status lt_weight_source_read(const struct lt_weight_source *s, unsigned char *memory,
                                     struct lt_error *err) LT_MUST_USE;
/* Points the members of *w that s has parts for to where lt_weight_source_read puts them. */
void lt_weight_source_bind(struct lt_weight *w, const struct lt_weight_source *s,
                           const unsigned char *memory);

#endif
