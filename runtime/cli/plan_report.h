/* A plan as a table for people and as one JSON object for programs. Text only: decides and measures nothing.
 *
 * The JSON keys are a contract: they may be added to, never renamed. */
#ifndef COLDSTREAM_PLAN_REPORT_H
#define COLDSTREAM_PLAN_REPORT_H

#include "placement/plan.h"

struct plan_report {
    const struct plan *plan;
    const struct facts *facts;
    const struct plan_request *request;
    struct span model;    /* its name */
    uint64_t model_bytes; /* of its weights */
    bool cpu_build;       /* this build has no GPU kernels: say so where the plan uses a GPU */
};

void plan_report_text(const struct plan_report *r, struct text *out);
void plan_report_json(const struct plan_report *r, struct text *out);

#endif
