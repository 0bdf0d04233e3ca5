/* The text of /metrics: Prometheus 0.0.4, or OpenMetrics 1.0. (FACTS 8.2) */
#pragma once

#include "base/metrics.h"

enum metrics_format { METRICS_PROMETHEUS, METRICS_OPENMETRICS };

struct slice metrics_content_type(enum metrics_format format);
/* All that the segment holds, summed over its slots. Cost: slots × routes. */
void metrics_write(struct buf *out, enum metrics_format format);
/* For numbers that are looked up when asked for: a family's head, then its samples. `type` is "counter", whose family
 * ends in _total, or "gauge". labels as metrics_label writes them; "" for none. */
void metrics_write_family(struct buf *out, enum metrics_format format, const char *family, const char *type,
                          const char *help);
void metrics_write_sample(struct buf *out, const char *family, struct slice labels, uint64_t value);
void metrics_write_sample_us(struct buf *out, const char *family, struct slice labels, uint64_t us); /* as seconds */
void metrics_write_end(struct buf *out, enum metrics_format format);                                 /* after all */
