#include "core/tensor/weight_source.h"

#include "core/base/checked.h"

size_t lt_weight_source_bytes(const struct lt_weight_source *s)
{
    size_t bytes = 0;
    for (int i = 0; i < LT_PART_COUNT; i++)
        bytes += lt_align_up(s->parts[i].bytes, LT_WEIGHT_SOURCE_ALIGN);
    return bytes;
}

enum lt_status lt_weight_source_read(const struct lt_weight_source *s, unsigned char *memory,
                                     struct lt_error *err)
{
    for (int i = 0; i < LT_PART_COUNT; i++) {
        if (s->parts[i].bytes == 0)
            continue;
        LT_TRY(lt_file_map_pread(s->parts[i].file, memory, s->parts[i].bytes, s->parts[i].offset, err));
        memory += lt_align_up(s->parts[i].bytes, LT_WEIGHT_SOURCE_ALIGN);
    }
    return LT_OK;
}

static const float *floats(const unsigned char *p)
{
    return (const float *)(const void *)p;
}

void lt_weight_source_bind(struct lt_weight *w, const struct lt_weight_source *s, const unsigned char *memory)
{
    const unsigned char *at[LT_PART_COUNT];
    for (int i = 0; i < LT_PART_COUNT; i++) {
        at[i] = s->parts[i].bytes > 0 ? memory : NULL;
        memory += lt_align_up(s->parts[i].bytes, LT_WEIGHT_SOURCE_ALIGN);
    }
    w->data = at[LT_PART_DATA];
    if (at[LT_PART_ABSMAX] && at[LT_PART_NESTED_ABSMAX])
        w->absmax_codes = at[LT_PART_ABSMAX];
    else if (at[LT_PART_ABSMAX])
        w->absmax = floats(at[LT_PART_ABSMAX]);
    if (at[LT_PART_CODE])
        w->code = floats(at[LT_PART_CODE]);
    if (at[LT_PART_NESTED_ABSMAX])
        w->nested_absmax = floats(at[LT_PART_NESTED_ABSMAX]);
    if (at[LT_PART_NESTED_CODE])
        w->nested_code = floats(at[LT_PART_NESTED_CODE]);
}
