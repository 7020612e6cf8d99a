#include <stdlib.h>
#include <string.h>

#include "core/base/alloc.h"
#include "core/data/data_internal.h"

enum { GROUP_ROWS = 1000 }; /* TRL packs within batches of datasets.map, 1000 rows each */

struct item {
    int32_t length;
    size_t index;
};

/* A bin with room left.  Open bins are kept in the order of free space, those with equal space in the
 * order in which they got it, so that the best fit is the first one that is large enough. */
struct open_bin {
    int32_t space, bin;
};

struct packer {
    struct item *items;
    struct open_bin *open;
};

static void packer_deinit(struct packer *p)
{
    lt_free(p->items);
    lt_free(p->open);
}

static enum lt_status packer_init(struct packer *p, size_t n, struct lt_error *err)
{
    p->items = lt_alloc_array(n, sizeof *p->items);
    p->open = lt_alloc_array(n, sizeof *p->open);
    if (p->items == NULL || p->open == NULL) {
        packer_deinit(p);
        return lt_fail(err, LT_ERR_NOMEM, "out of memory for packing %zu rows", n);
    }
    return LT_OK;
}

static int compare_items(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    if (x->length != y->length)
        return x->length > y->length ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

/* The first open bin with at least `space`. */
static size_t find_open(const struct open_bin *open, size_t count, int64_t space)
{
    size_t low = 0, high = count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (open[middle].space < space)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Leaves the packed rows in p->items, longest first; bin[i] for row i, -1 for empty rows. */
static size_t pack_group(struct packer *p, const int32_t *lengths, size_t n, int32_t max_length, int32_t *bin,
                         size_t *bins)
{
    size_t rows = 0, open_count = 0;

    *bins = 0;
    for (size_t i = 0; i < n; i++) {
        bin[i] = -1;
        if (lengths[i] > 0)
            p->items[rows++] = (struct item){lengths[i] < max_length ? lengths[i] : max_length, i};
    }
    qsort(p->items, rows, sizeof *p->items, compare_items);
    for (size_t i = 0; i < rows; i++) {
        struct open_bin chosen = {max_length, (int32_t)*bins};
        size_t at = find_open(p->open, open_count, p->items[i].length);
        if (at < open_count) {
            chosen = p->open[at];
            open_count--;
            memmove(&p->open[at], &p->open[at + 1], (open_count - at) * sizeof *p->open);
        } else {
            ++*bins;
        }
        bin[p->items[i].index] = chosen.bin;
        chosen.space -= p->items[i].length;
        if (chosen.space == 0)
            continue;
        at = find_open(p->open, open_count, (int64_t)chosen.space + 1);
        memmove(&p->open[at + 1], &p->open[at], (open_count - at) * sizeof *p->open);
        p->open[at] = chosen;
        open_count++;
    }
    return rows;
}

enum lt_status lt_pack_bfd(const int32_t *lengths, size_t n, int32_t max_length, int32_t *bin, size_t *bins,
                           struct lt_error *err)
{
    struct packer p;

    *bins = 0;
    if (max_length < 1)
        return lt_fail(err, LT_ERR_INVALID, "a packing length of %d tokens is too small", (int)max_length);
    if (n > INT32_MAX)
        return lt_fail(err, LT_ERR_INVALID, "%zu rows are too many for packing", n);
    for (size_t i = 0; i < n; i++)
        if (lengths[i] < 0)
            return lt_fail(err, LT_ERR_INVALID, "row %zu has the length %d", i, (int)lengths[i]);
    LT_TRY(packer_init(&p, n, err));
    pack_group(&p, lengths, n, max_length, bin, bins);
    packer_deinit(&p);
    return LT_OK;
}

/* Appends one group's bins.  `first` is the group's first row, *filled the rows in bins so far. */
static void add_group(struct lt_bins *bins, size_t *filled, const struct packer *p, size_t rows, size_t first,
                      const int32_t *bin, size_t group_bins)
{
    size_t next[GROUP_ROWS] = {0}; /* rows of a bin, then where its next row goes */

    for (size_t i = 0; i < rows; i++)
        next[bin[p->items[i].index]]++;
    for (size_t k = 0; k < group_bins; k++) {
        size_t begin = *filled;
        *filled += next[k];
        next[k] = begin;
        bins->begin[++bins->count] = *filled;
    }
    for (size_t i = 0; i < rows; i++)
        bins->rows[next[bin[p->items[i].index]]++] = first + p->items[i].index;
}

enum lt_status lt_bins_init(struct lt_bins *bins, const int32_t *lengths, size_t n, int32_t max_length,
                            struct lt_error *err)
{
    struct packer p = {0};
    int32_t bin[GROUP_ROWS];
    size_t filled = 0, group_bins;

    *bins = (struct lt_bins){0};
    if (max_length < 1)
        return lt_fail(err, LT_ERR_INVALID, "a packing length of %d tokens is too small", (int)max_length);
    bins->begin = lt_alloc_zero(n + 1, sizeof *bins->begin);
    bins->rows = lt_alloc_array(n, sizeof *bins->rows);
    enum lt_status status;
    if (bins->begin == NULL || bins->rows == NULL)
        status = lt_fail(err, LT_ERR_NOMEM, "out of memory for packing %zu rows", n);
    else
        status = packer_init(&p, GROUP_ROWS, err);
    if (status != LT_OK) {
        lt_bins_deinit(bins);
        return status;
    }
    for (size_t first = 0; first < n; first += GROUP_ROWS) {
        size_t count = n - first < GROUP_ROWS ? n - first : GROUP_ROWS;
        size_t rows = pack_group(&p, lengths + first, count, max_length, bin, &group_bins);
        add_group(bins, &filled, &p, rows, first, bin, group_bins);
    }
    packer_deinit(&p);
    return LT_OK;
}

void lt_bins_deinit(struct lt_bins *bins)
{
    lt_free(bins->begin);
    lt_free(bins->rows);
    *bins = (struct lt_bins){0};
}
