/* TensorBoard event files: scalars only.  Record framing with masked CRC-32C, protobuf by hand. */
#ifndef LT_IO_TFEVENTS_H
#define LT_IO_TFEVENTS_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/file.h"
#include "core/base/status.h"

enum { LT_TFEVENTS_MAX_TAG = 200 }; /* bytes */

struct lt_tfevents {
    struct lt_file_appender file;
};

/* Creates dir (with parents), in it events.out.tfevents.<seconds>.lora-train.<counter> and its version
 * record.  The counter is the first that gives a new file. */
enum lt_status lt_tfevents_open(struct lt_tfevents *tb, const char *dir, double wall_time,
                                struct lt_error *err) LT_MUST_USE;
/* One scalar, tag as TensorBoard shows it ("train/loss").  Allocates nothing. */
enum lt_status lt_tfevents_scalar(struct lt_tfevents *tb, const char *tag, int64_t step, float value,
                                  double wall_time, struct lt_error *err) LT_MUST_USE;
void lt_tfevents_close(struct lt_tfevents *tb); /* zeroed ones are accepted */
uint32_t lt_crc32c(const void *bytes, size_t n);

#endif
