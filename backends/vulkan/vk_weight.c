/* Weights on the device: what struct lt_weight points to, copied into two buffers. */
#include "backends/vulkan/vk_internal.h"

#include "core/base/alloc.h"
#include "core/base/checked.h"

enum { CODES = 16, NESTED_CODES = 256, NESTED_BLOCK = 256 };

static enum lt_status put(struct lt_vk *vk, const struct lt_device_weight *w, uint32_t word, const void *src,
                          size_t bytes, struct lt_error *err)
{
    return lt_vk_queue_write(&vk->queue, w->meta.buffer, (size_t)word * 4, src, bytes, err);
}

static enum lt_status upload_scales(struct lt_vk *vk, struct lt_device_weight *d, const struct lt_weight *w,
                                    struct lt_error *err)
{
    bool int8 = w->format == LT_WEIGHT_INT8;
    size_t scales = (size_t)(int8 ? w->rows : lt_div_up(w->rows * w->cols, w->blocksize));
    size_t nested = (size_t)lt_div_up((int64_t)scales, NESTED_BLOCK), bytes = d->nested ? scales : scales * 4;
    d->nested_absmax_at = CODES + NESTED_CODES;
    d->absmax_at = int8 ? 0 : d->nested ? d->nested_absmax_at + (uint32_t)nested : CODES;
    d->meta.size = (size_t)d->absmax_at * 4 + lt_align_up(bytes, 4);
    LT_TRY(lt_vk_buffer_create(&vk->memory, d->meta.size, &d->meta.buffer, err));
    if (!int8)
        LT_TRY(put(vk, d, 0, w->code, CODES * sizeof *w->code, err));
    if (d->nested) {
        LT_TRY(put(vk, d, CODES, w->nested_code, NESTED_CODES * sizeof *w->nested_code, err));
        LT_TRY(put(vk, d, d->nested_absmax_at, w->nested_absmax, nested * sizeof *w->nested_absmax, err));
    }
    const void *absmax = d->nested ? (const void *)w->absmax_codes : w->absmax;
    return put(vk, d, d->absmax_at, absmax, bytes, err);
}

static enum lt_status upload(struct lt_vk *vk, struct lt_device_weight *d, const struct lt_weight *w,
                             struct lt_error *err)
{
    d->data.size = lt_weight_data_bytes(w->format, w->rows, w->cols);
    LT_TRY(lt_vk_buffer_create(&vk->memory, d->data.size, &d->data.buffer, err));
    LT_TRY(lt_vk_queue_write(&vk->queue, d->data.buffer, 0, w->data, d->data.size, err));
    return lt_weight_is_quantized(w) ? upload_scales(vk, d, w, err) : LT_OK;
}

static struct lt_device_weight *new_weight(const struct lt_weight *w)
{
    struct lt_device_weight *d = lt_alloc_zero(1, sizeof *d);
    if (d)
        *d = (struct lt_device_weight){.format = w->format,
                                       .transposed = w->transposed,
                                       .nested = w->absmax_codes != NULL,
                                       .rows = w->rows,
                                       .cols = w->cols,
                                       .blocksize = w->blocksize,
                                       .nested_offset = w->nested_offset};
    return d;
}

enum lt_status lt_vk_weight_create(struct lt_backend *be, const struct lt_weight *w,
                                   struct lt_device_weight **out, struct lt_error *err)
{
    *out = NULL;
    struct lt_device_weight *d = new_weight(w);
    if (!d)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while binding a weight");
    enum lt_status status = upload(lt_vk_of(be), d, w, err);
    if (status != LT_OK) {
        lt_vk_weight_destroy(be, d);
        return status;
    }
    *out = d;
    return LT_OK;
}

enum lt_status lt_vk_weight_view(struct lt_backend *be, const struct lt_weight *shape, struct lt_buffer *buf,
                                 size_t offset, struct lt_device_weight **out, struct lt_error *err)
{
    (void)be;
    *out = NULL;
    size_t bytes = (size_t)(shape->rows * shape->cols) * sizeof(float);
    if (offset > buf->size || bytes > buf->size - offset)
        return lt_fail(err, LT_ERR_INVALID, "bytes %zu to %zu are outside a buffer of %zu", offset,
                       offset + bytes, buf->size);
    struct lt_device_weight *d = new_weight(shape);
    if (!d)
        return lt_fail(err, LT_ERR_NOMEM, "out of memory while binding a weight");
    d->view = true;
    d->data = (struct lt_vk_ref){buf, offset, bytes};
    *out = d;
    return LT_OK;
}

void lt_vk_weight_destroy(struct lt_backend *be, struct lt_device_weight *d)
{
    struct lt_vk *vk = lt_vk_of(be);
    if (!d)
        return;
    (void)!lt_vk_queue_wait(&vk->queue, NULL); /* nothing that reads it runs any more */
    if (!d->view) {
        lt_vk_buffer_destroy(&vk->memory, d->data.buffer);
        lt_vk_buffer_destroy(&vk->memory, d->meta.buffer);
    }
    lt_free(d);
}
