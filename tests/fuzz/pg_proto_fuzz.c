/* data/pg_proto.h and what is made of its messages: whatever a server sends, each message is read once and whole, a row
 * that was taken is written without looking beyond it, and nothing of a malformed one is used. */
#include "fuzz.h"

#include "data/pg_proto.h"
#include "data/pg_result.h"

struct server {
    struct pg_columns *columns;
    struct pg_result *result;
};

static void on_columns(struct server *server, struct slice body)
{
    struct pg_columns *columns = pg_columns_new(body);
    if (!columns)
        return;
    pg_result_free(server->result);
    pg_columns_unref(server->columns);
    server->columns = columns;
    server->result = pg_result_new(columns);
    for (int i = 0; i < columns->n; i++) {
        const struct pg_column *column = pg_result_column(server->result, i);
        CHECK(column->label.len >= column->name.len + 4 && column->label.ptr[0] == ',');
    }
}

static void on_row(struct server *server, struct slice body)
{
    if (!server->result || !pg_result_add_row(server->result, body))
        return;
    struct buf json = {0};
    int row = pg_result_n_rows(server->result) - 1, n_cols = pg_result_n_cols(server->result);
    pg_result_json_row(server->result, row, &json);
    CHECK(json.len >= 2 && json.ptr[0] == '{' && json.ptr[json.len - 1] == '}');
    struct pg_row at = pg_result_row(server->result, row);
    size_t n_values = 0;
    for (int col = 0; col < n_cols; col++) {
        struct slice value = pg_row_next(&at);
        CHECK(slice_eq(value, pg_result_value(server->result, row, col)));
        n_values += value.len;
    }
    CHECK(n_values + 4 * (size_t)n_cols + 2 == body.len);
    buf_free(&json);
}

static void on_fault(struct slice body)
{
    struct pg_fault fault;
    struct err err;
    if (!pg_proto_fault(body, &fault))
        return;
    pg_fault_to_err(&fault, &err);
    CHECK(strlen(err.message) < sizeof(err.message) && strlen(err.detail) < sizeof(err.detail));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice rest = fuzz_input(data, size);
    struct server server = {0};
    struct pg_msg msg;
    size_t len;
    while (pg_proto_next(rest, &msg, &len) == OK) {
        CHECK(len >= PG_MSG_HEAD && len <= rest.len && msg.body.len == len - PG_MSG_HEAD);
        if (msg.type == 'T')
            on_columns(&server, msg.body);
        else if (msg.type == 'D')
            on_row(&server, msg.body);
        else
            on_fault(msg.body);
        rest = slice_of(rest.ptr + len, rest.len - len);
    }
    pg_result_free(server.result);
    pg_columns_unref(server.columns);
    return 0;
}
