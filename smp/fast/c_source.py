"""The C source of smp/fast/products.py: a product with a sparse W, and a mask as CSR."""

SPARSE_PRODUCTS = r"""
/* y = x W' + b for a sparse W. x is (tokens, in) and y (tokens, out), both row-major; b may be
   NULL. W is (out, in) in CSR: the columns and values of row r are first[r] to first[r + 1].
   Each thread transposes a tile of 64 tokens to (in, 64) in memory of its own that fits its L2
   cache. Then each weight multiplies four vectors, and a row's 64 sums stay in registers. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
enum { LANE = 16, TILE = 64, ROWS = 16 };
#else /* gcc keeps vectors that are wider than the machine's in memory, ten times slower */
enum { LANE = 8, TILE = 64, ROWS = 16 };
#endif
typedef float lane __attribute__((vector_size(LANE * sizeof(float)), may_alias));
#define least(a, b) ((a) < (b) ? (a) : (b))

/* Up to ROWS rows of W times `lanes` * 16 tokens of the transposed tile, transposed into y. */
static inline __attribute__((always_inline)) void some_rows(
    const int lanes, int tokens, int rows, ptrdiff_t out, const lane *tile, const int32_t *first,
    const uint16_t *columns, const float *values, const float *bias, float *y)
{
    float sums[ROWS][TILE] __attribute__((aligned(64)));
    for (int r = 0; r < rows; r++) {
        lane sum[TILE / LANE];
        for (int k = 0; k < lanes; k++) sum[k] = (lane){0} + (bias ? bias[r] : 0);
        for (int32_t j = first[r]; j < first[r + 1]; j++) {
            const lane *x = tile + (size_t)columns[j] * (TILE / LANE);
            for (int k = 0; k < lanes; k++) sum[k] += values[j] * x[k];
        }
        for (int k = 0; k < lanes; k++) ((lane *)sums[r])[k] = sum[k];
    }
    for (int t = 0; t < tokens; t++)
        for (int r = 0; r < rows; r++) y[t * out + r] = sums[r][t];
}

/* Rows `from` to `to` of W for at most 64 tokens, in whole vectors: a short text costs as
   much as the next multiple of LANE tokens. */
static void one_tile(
    int tokens, int from, int to, ptrdiff_t in, ptrdiff_t out, const float *x, lane *tile,
    const int32_t *first, const uint16_t *columns, const float *values, const float *bias, float *y)
{
    float *turned = (float *)tile;
    int lanes = (tokens + LANE - 1) / LANE;
    for (ptrdiff_t c = 0; c < in; c += LANE)
        for (int t = 0; t < lanes * LANE; t++)
            for (ptrdiff_t i = c; i < least(c + LANE, in); i++)
                turned[i * TILE + t] = t < tokens ? x[t * in + i] : 0;
    for (int r = from; r < to; r += ROWS) {
        int rows = least(ROWS, to - r);
        const float *b = bias ? bias + r : NULL;
#define WITH(n) some_rows(n, tokens, rows, out, tile, first + r, columns, values, b, y + r)
        switch (lanes) {
            case 1: WITH(1); break;
            case 2: WITH(2); break;
            case 3: WITH(3); break;
#ifndef __AVX512F__
            case 4: WITH(4); break;
            case 5: WITH(5); break;
            case 6: WITH(6); break;
            case 7: WITH(7); break;
#endif
            default: WITH(TILE / LANE);
        }
    }
}

/* Returns 0, or 1 without memory. With fewer tiles than threads, the threads share the rows too. */
int sparse_linear(
    int64_t tokens, int64_t in, int64_t out, const float *x, const int32_t *first,
    const uint16_t *columns, const float *values, const float *bias, float *y, int threads)
{
    int64_t tiles = (tokens + TILE - 1) / TILE, parts = 1, failed = 0;
    if (0 < tiles && tiles < threads)
        parts = least((threads + tiles - 1) / tiles, (out + ROWS - 1) / ROWS);
    int64_t step = ((out + parts - 1) / parts + ROWS - 1) / ROWS * ROWS;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        lane *tile = aligned_alloc(64, (size_t)in * TILE * sizeof(float));
        failed = tile == NULL;
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t n = 0; n < tiles; n++)
            for (int64_t p = 0; p < parts; p++)
                if (tile && p * step < out)
                    one_tile(
                        least(TILE, tokens - n * TILE), p * step, least(out, (p + 1) * step), in,
                        out, x + n * TILE * in, tile, first, columns, values, bias,
                        y + n * TILE * out);
        free(tile);
    }
    return failed;
}

/* The kept weights of W (out, in) as CSR: `mask` has one byte per weight, 1 if it is kept. Returns
   their number; `columns` and `values` are written only if it equals `room`. */
int64_t kept_as_csr(
    int64_t out, int64_t in, int64_t room, const uint8_t *mask, const float *w, int32_t *first,
    uint16_t *columns, float *values, int threads)
{
    first[0] = 0;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int64_t r = 0; r < out; r++) {
            int32_t kept = 0;
            for (int64_t c = 0; c < in; c++) kept += mask[r * in + c];
            first[r + 1] = kept;
        }
#pragma omp single
        for (int64_t r = 0; r < out; r++) first[r + 1] += first[r];
#pragma omp for
        for (int64_t r = 0; r < (first[out] == room ? out : 0); r++)
            for (int64_t c = r * in, j = first[r]; j < first[r + 1]; j += mask[c++]) {
                columns[j] = c - r * in;
                values[j] = w[c];
            }
    }
    return first[out];
}

/* The CSR of W transposed, from that of W: `first_t` has room for in + 2 numbers. */
void turn_csr(
    int64_t out, int64_t in, const int32_t *first, const uint16_t *columns, const float *values,
    int32_t *first_t, uint16_t *columns_t, float *values_t)
{
    memset(first_t, 0, (in + 2) * sizeof *first_t);
    for (int32_t j = 0; j < first[out]; j++) first_t[columns[j] + 2]++;
    for (int64_t c = 0; c < in; c++) first_t[c + 2] += first_t[c + 1];
    for (int64_t r = 0; r < out; r++)
        for (int32_t j = first[r]; j < first[r + 1]; j++) {
            int32_t to = first_t[columns[j] + 1]++;  /* ends as first_t of the next row */
            columns_t[to] = r;
            values_t[to] = values[j];
        }
}
"""
