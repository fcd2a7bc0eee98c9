/* Layers for training on a CPU: a GRU through time, self-attention of a few places, a convolution over places, a batch
 * norm with what follows it; and the distance of compressed spectra.
 *
 * Rows of a GRU and sets of places know nothing of each other, so a thread takes some of them from end to end and keeps
 * what it works on in its cache, where operators of a tensor library go through memory once each. All matrices are
 * row-major float32; numbers of columns (units, places, channels of a head) are multiples of 8. kernels.py compiles this.
 * Gradients of weights, [threads, ...], begin as 0, and each thread adds those of its rows to a part of its own.
 */
#include <stdint.h>
#include <string.h>

enum { V = 8, ROWS = 8, STEPS = 8 };
typedef float vec __attribute__((vector_size(4 * V)));
typedef int32_t ivec __attribute__((vector_size(4 * V)));
#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p) { vec v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec select(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
#ifdef __AVX__
INLINE vec larger(vec a, vec b) { return __builtin_ia32_maxps256(a, b); }
INLINE vec smaller(vec a, vec b) { return __builtin_ia32_minps256(a, b); }
#else
INLINE vec larger(vec a, vec b) { return select(a > b, a, b); }
INLINE vec smaller(vec a, vec b) { return select(a < b, a, b); }
#endif

/* In three steps rather than a chain of eight. */
INLINE vec halves(vec v) { return __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3); }
INLINE vec pairs(vec v) { return __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5); }
INLINE vec neighbours(vec v) { return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6); }
/* Real and imaginary parts, apart and beside each other. */
INLINE vec evens(vec a, vec b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14); }
INLINE vec odds(vec a, vec b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15); }
INLINE vec low(vec a, vec b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
INLINE vec high(vec a, vec b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
INLINE float total(vec v) { v += halves(v); v += pairs(v); return (v + neighbours(v))[0]; }
/* e^x = 2^n e^r, n whole and |r| <= log(2) / 2; the polynomial is that of Cephes' expf, right to 1e-7. */
INLINE vec exponential(vec x) {
    x = smaller(larger(x, all(-87.0f)), all(88.0f));
    vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* 1.5 * 2^23: adding it rounds */
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (vec)((__builtin_convertvector(n, ivec) << 23) + 0x3f800000);
}

/* ln x = n ln 2 + ln m, m in sqrt(.5) to sqrt(2), of normal x > 0; the polynomial is that of Cephes' logf. */
INLINE vec logarithm(vec x) {
    ivec bits = (ivec)x - 0x3f3504f3; /* the exponent counts from sqrt(.5) */
    vec n = __builtin_convertvector(bits >> 23, vec), m = (vec)((bits & 0x7fffff) + 0x3f3504f3) - 1.0f, square = m * m;
    vec p = all(7.0376836292e-2f);
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    return p * m * square - n * 2.12194440e-4f - 0.5f * square + m + n * 0.693359375f;
}

INLINE vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-x)); }

/* A tile of c [rows, width V] = a b over k, or += with `add`; element (i, j) of a is a[i * row + j * column]. */
INLINE void tile(int rows, int width, int add, int k, const float *a, int row, int column, const float *b, int ldb,
                 float *c, int ldc) {
    vec sum[ROWS][2];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < width; j++) sum[i][j] = add ? load(c + i * ldc + j * V) : all(0.0f);
    for (int m = 0; m < k; m++) {
        vec right[2];
        for (int j = 0; j < width; j++) right[j] = load(b + m * ldb + j * V);
        for (int i = 0; i < rows; i++) {
            vec left = all(a[i * row + m * column]);
            for (int j = 0; j < width; j++) sum[i][j] += left * right[j];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < width; j++) store(c + i * ldc + j * V, sum[i][j]);
}

/* c [rows, columns] = a [rows, k] b [k, columns], or += with `add`, see `tile`. */
static void product(int add, int rows, int k, int columns, const float *a, int row, int column, const float *b, int ldb,
                    float *c, int ldc) {
    int i = 0;
    for (; i + ROWS <= rows; i += ROWS) {
        int j = 0;
        for (; j + 2 * V <= columns; j += 2 * V)
            tile(ROWS, 2, add, k, a + i * row, row, column, b + j, ldb, c + i * ldc + j, ldc);
        if (j < columns) tile(ROWS, 1, add, k, a + i * row, row, column, b + j, ldb, c + i * ldc + j, ldc);
    }
    for (; i < rows; i++)
        for (int j = 0; j < columns; j += V)
            tile(1, 1, add, k, a + i * row, row, column, b + j, ldb, c + i * ldc + j, ldc);
}

/* Where part number `part` of all rows begins: always the same, so that a training can be repeated. */
INLINE int share(int all, int part, int parts) { return (int64_t)all * part / parts; }

/* sum [columns] += the rows of a [rows, columns]. */
INLINE void add_rows(int rows, int columns, const float *a, float *sum) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += V) store(sum + j, load(sum + j) + load(a + i * columns + j));
}

/* c [rows, columns] = a [rows, k] b [k, columns] + bias, unless that is null. */
INLINE void affine(int rows, int k, int columns, const float *a, const float *b, const float *bias, float *c) {
    for (int i = 0; bias && i < rows; i++) memcpy(c + i * columns, bias, sizeof(float) * columns);
    product(bias != 0, rows, k, columns, a, k, 1, b, columns, c, columns);
}

/* to [steps, n, columns] = a few rows of from [steps, rows, columns]. */
INLINE void gather(int steps, int n, int64_t rows, int columns, const float *from, float *to) {
    for (int s = 0; s < steps; s++) memcpy(to + s * n * columns, from + s * rows * columns, sizeof(float) * n * columns);
}

/* r, z = sigmoid(W x + R h + b)   n = tanh(W x + b + r u), u = R h + c   h' = n + z (h - n)
 * gates [frames, rows, 3 units] becomes r, z, n; left [inputs, 3 units] is W', right [units, 3 units] R', c [units]. */
void gru_forward(int threads, int frames, int rows, int inputs, int units, const float *x, const float *left,
                 const float *b, const float *right, const float *c, const float *start, float *gates, float *u,
                 float *y) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int first = 0; first < rows; first += ROWS) {
        int n = rows - first < ROWS ? rows - first : ROWS, h = units;
        float some[STEPS * ROWS * inputs], ahead[STEPS * ROWS * 3 * h], recurrent[ROWS * 3 * h];
        const float *before = start + first * h;
        for (int t = 0; t < frames; t++) {
            int64_t at = (int64_t)t * rows + first;
            int step = t % STEPS, steps = frames - t < STEPS ? frames - t : STEPS;
            if (step == 0) { /* what does not wait for the state, for several steps at once */
                gather(steps, n, rows, inputs, x + at * inputs, some);
                affine(steps * n, inputs, 3 * h, some, left, b, ahead);
            }
            float *y_t = y + at * h;
            affine(n, h, 3 * h, before, right, 0, recurrent);
            for (int i = 0; i < n; i++)
                for (int j = 0; j < h; j += V) {
                    float *gate = gates + (at + i) * 3 * h + j, *back = recurrent + i * 3 * h + j;
                    const float *front = ahead + (step * n + i) * 3 * h + j;
                    vec r = sigmoid(load(front) + load(back)), z = sigmoid(load(front + h) + load(back + h));
                    vec v = load(back + 2 * h) + load(c + j);
                    vec s = 2.0f * sigmoid(2.0f * (load(front + 2 * h) + r * v)) - 1.0f;
                    store(gate, r);
                    store(gate + h, z);
                    store(gate + 2 * h, s);
                    store(u + (at + i) * h + j, v);
                    store(y_t + i * h + j, s + z * (load(before + i * h + j) - s));
                }
            before = y_t;
        }
    }
}

/* The gradient. Those of R h + c of n, of r, of z and of W x + b of n lie beside each other in d, so that d of R h + c
 * is its columns 0 to 3 units and d of W x + b those from units on. r [3 units, units] is R in that order, w is W.
 * dh [rows, units], of the last state, becomes that of the first. */
void gru_backward(int threads, int frames, int rows, int inputs, int units, const float *x, const float *w,
                  const float *r, const float *start, const float *gates, const float *u, const float *y, const float *dy,
                  float *dh, float *dx, float *dw, float *dr, float *db) {
    int h = units, groups = (rows + ROWS - 1) / ROWS;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++)
        for (int group = share(groups, part, threads); group < share(groups, part + 1, threads); group++) {
            int first = group * ROWS, n = rows - first < ROWS ? rows - first : ROWS;
            float d[STEPS * ROWS * 4 * h], some[STEPS * ROWS * inputs], states[STEPS * ROWS * h];
            float *state = dh + first * h;
            for (int t = frames - 1; t >= 0; t--) {
                int64_t at = (int64_t)t * rows + first;
                int step = t % STEPS, steps = frames - (t - step) < STEPS ? frames - (t - step) : STEPS;
                float *before = states + step * n * h, *d_t = d + step * n * 4 * h;
                memcpy(before, t ? y + (at - rows) * h : start + first * h, sizeof(float) * n * h);
                for (int i = 0; i < n; i++)
                    for (int j = 0; j < h; j += V) {
                        int64_t k = (at + i) * h + j;
                        const float *gate = gates + (at + i) * 3 * h + j;
                        float *out = d_t + i * 4 * h + j;
                        vec reset = load(gate), z = load(gate + h), s = load(gate + 2 * h);
                        vec whole = load(state + i * h + j) + load(dy + k);
                        vec of_n = whole * (1.0f - z) * (1.0f - s * s);
                        store(out, of_n * reset);
                        store(out + h, of_n * load(u + k) * reset * (1.0f - reset));
                        store(out + 2 * h, whole * (load(before + i * h + j) - s) * z * (1.0f - z));
                        store(out + 3 * h, of_n);
                        store(state + i * h + j, whole * z);
                    }
                product(1, n, 3 * h, h, d_t, 4 * h, 1, r, h, state, h);
                if (step) continue;
                gather(steps, n, rows, inputs, x + at * inputs, some);
                product(1, 3 * h, steps * n, inputs, d + h, 1, 4 * h, some, inputs, dw + part * 3 * h * inputs, inputs);
                product(1, 3 * h, steps * n, h, d, 1, 4 * h, states, h, dr + part * 3 * h * h, h);
                add_rows(steps * n, 4 * h, d, db + part * 4 * h);
                product(0, steps * n, 3 * h, inputs, d + h, 4 * h, 1, w, inputs, some, inputs);
                for (int s = 0; s < steps; s++)
                    memcpy(dx + (at + (int64_t)s * rows) * inputs, some + s * n * inputs, sizeof(float) * n * inputs);
            }
        }
}

/* turned [columns, rows] = scale a', a [rows, columns] with `stride`. */
INLINE void turn(int rows, int columns, float scale, const float *a, int stride, float *turned) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) turned[j * rows + i] = scale * a[i * stride + j];
}

/* weights' [places, places] of softmax(scale q k'), without the places that `hide` names for others: a query is a
 * column, so that sums over keys are sums of vectors. */
static void attention(int places, int size, int stride, float scale, const float *q, const float *k,
                      const uint8_t *hide, float *turned, float *weights) {
    turn(places, size, scale, q, stride, turned);
    product(0, places, size, places, k, stride, 1, turned, places, weights, places);
    if (hide)
        for (int i = 0; i < places; i++)
            for (int j = 0; j < places; j++)
                if (hide[i * places + j]) weights[j * places + i] = -3e38f;
    for (int i = 0; i < places; i += V) {
        vec most = load(weights + i), sum = {0};
        for (int j = 1; j < places; j++) most = larger(most, load(weights + j * places + i));
        for (int j = 0; j < places; j++) {
            vec score = load(weights + j * places + i), e = exponential(score - most);
            if (hide) e = select(score > all(-1e38f), e, all(0.0f));
            sum += e;
            store(weights + j * places + i, e);
        }
        sum = 1.0f / sum;
        for (int j = 0; j < places; j++) store(weights + j * places + i, load(weights + j * places + i) * sum);
    }
}

/* y = (softmax(scale q k') v by heads) out, q k v = x w + b, over x [sets, places, channels]; w [channels, 3 channels];
 * hide [sets, places, places], or null. */
void attention_forward(int threads, int sets, int places, int channels, int heads, float scale, const float *x,
                       const float *w, const float *b, const float *out, const uint8_t *hide, float *y) {
    int c = channels, size = c / heads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int n = 0; n < sets; n++) {
        float qkv[places * 3 * c], heard[places * c], weights[places * places], turned[places * size];
        const uint8_t *hidden = hide ? hide + (int64_t)n * places * places : 0;
        affine(places, c, 3 * c, x + (int64_t)n * places * c, w, b, qkv);
        for (int head = 0; head < heads; head++) {
            const float *q = qkv + head * size;
            attention(places, size, 3 * c, scale, q, q + c, hidden, turned, weights);
            product(0, places, places, size, weights, 1, places, q + 2 * c, 3 * c, heard + head * size, c);
        }
        affine(places, c, c, heard, out, 0, y + (int64_t)n * places * c);
    }
}

/* The gradient, from dy: all between is computed again, which costs less than to keep it. What goes around, unless null,
 * is added to dx. Here w_back [3 channels, channels] and out_back are w' and out', whose gradients dw and dout are. */
void attention_backward(int threads, int sets, int places, int channels, int heads, float scale, const float *x,
                        const float *w, const float *b, const float *w_back, const float *out_back, const uint8_t *hide,
                        const float *dy, const float *around, float *dx, float *dw, float *db, float *dout) {
    int c = channels, size = c / heads, stride = 3 * c;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++)
        for (int n = share(sets, part, threads); n < share(sets, part + 1, threads); n++) {
            float qkv[places * stride], d[places * stride], heard[places * c], of_heard[places * c];
            float weights[places * places], slopes[places * places], turned[places * size];
            int64_t at = (int64_t)n * places * c;
            const float *rows = x + at, *g = dy + at;
            const uint8_t *hidden = hide ? hide + (int64_t)n * places * places : 0;
            affine(places, c, stride, rows, w, b, qkv);
            affine(places, c, c, g, out_back, 0, of_heard);
            for (int head = 0; head < heads; head++) {
                const float *q = qkv + head * size, *k = q + c, *v = k + c, *of_y = of_heard + head * size;
                float *dq = d + head * size, *dk = dq + c, *dv = dk + c;
                attention(places, size, stride, scale, q, k, hidden, turned, weights);
                product(0, places, places, size, weights, 1, places, v, stride, heard + head * size, c);
                product(0, places, places, size, weights, places, 1, of_y, c, dv, stride);
                turn(places, size, 1.0f, of_y, c, turned);
                product(0, places, size, places, v, stride, 1, turned, places, slopes, places);
                for (int i = 0; i < places; i += V) {
                    vec mean = {0};
                    for (int j = i; j < places * places; j += places) mean += load(weights + j) * load(slopes + j);
                    for (int j = i; j < places * places; j += places)
                        store(slopes + j, scale * load(weights + j) * (load(slopes + j) - mean));
                }
                product(0, places, places, size, slopes, 1, places, k, stride, dq, stride);
                product(0, places, places, size, slopes, places, 1, q, stride, dk, stride);
            }
            if (around) memcpy(dx + at, around + at, sizeof(float) * places * c);
            product(around != 0, places, stride, c, d, stride, 1, w_back, c, dx + at, c);
            product(1, stride, places, c, d, 1, stride, rows, c, dw + part * stride * c, c);
            product(1, c, places, c, g, 1, c, heard, c, dout + part * c * c, c);
            add_rows(places, stride, d, db + part * stride);
        }
}

/* padded [channels, places + V] = x [channels, places] with zeros beside it, `edge` of them before. */
INLINE void pad(int channels, int places, int edge, const float *x, float *padded) {
    memset(padded, 0, sizeof(float) * channels * (places + V));
    for (int c = 0; c < channels; c++) memcpy(padded + c * (places + V) + edge, x + c * places, sizeof(float) * places);
}

/* y [sets, out, places] = w [out, in, taps] over x [sets, in, places], with zeros beyond its ends, + b, unless null;
 * taps are odd and at most V. */
void conv_forward(int threads, int sets, int in, int out, int places, int taps, const float *x, const float *w,
                  const float *b, float *y) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int n = 0; n < sets; n++) {
        float padded[in * (places + V)], *to = y + (int64_t)n * out * places;
        pad(in, places, taps / 2, x + (int64_t)n * in * places, padded);
        for (int j = 0; b && j < out * places; j += V) store(to + j, all(b[j / places]));
        for (int tap = 0; tap < taps; tap++)
            product(tap || b, out, in, places, w + tap, in * taps, taps, padded + tap, places + V, to, places);
    }
}

/* The gradient; what goes around, unless null, is added to dx. dw [threads, taps, out, in]. */
void conv_backward(int threads, int sets, int in, int out, int places, int taps, const float *x, const float *w,
                   const float *dy, const float *around, float *dx, float *dw) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++) {
        float padded[out * (places + V)], turned[(places + taps) * in];
        memset(turned, 0, sizeof turned);
        for (int n = share(sets, part, threads); n < share(sets, part + 1, threads); n++) {
            const float *g = dy + (int64_t)n * out * places;
            float *to = dx + (int64_t)n * in * places;
            pad(out, places, taps / 2, g, padded);
            turn(in, places, 1.0f, x + (int64_t)n * in * places, places, turned + taps / 2 * in);
            if (around) memcpy(to, around + (int64_t)n * in * places, sizeof(float) * in * places);
            for (int tap = 0; tap < taps; tap++) {
                const float *from = padded + taps - 1 - tap;
                float *of_tap = dw + (part * taps + tap) * out * in;
                product(tap || around, in, out, places, w + tap, taps, in * taps, from, places + V, to, places);
                product(1, out, places, in, g, places, 1, turned + tap * in, in, of_tap, in);
            }
        }
    }
}

/* y = skip + relu(z), z = w (x - mean) / deviation + b, over x [sets, channels, places] and normalised by each channel's
 * own statistics; of them, mean and 1 / deviation go into stats [2, channels]. */
void norm_forward(int threads, int sets, int channels, int places, float eps, const float *x, const float *w,
                  const float *b, const float *skip, float *stats, float *y) {
    double count = (double)sets * places, sums[threads][channels][2];
    memset(sums, 0, sizeof sums);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++)
        for (int n = share(sets, part, threads); n < share(sets, part + 1, threads); n++)
            for (int c = 0; c < channels; c++) {
                const float *row = x + ((int64_t)n * channels + c) * places;
                float near = x[(int64_t)c * places];
                vec one = {0}, two = {0}; /* squares of what is far from 0 would cancel */
                for (int j = 0; j < places; j += V) {
                    vec v = load(row + j) - near;
                    one += v;
                    two += v * v;
                }
                sums[part][c][0] += total(one);
                sums[part][c][1] += total(two);
            }
    for (int c = 0; c < channels; c++) {
        double sum = 0.0, square = 0.0;
        for (int part = 0; part < threads; part++) sum += sums[part][c][0], square += sums[part][c][1];
        double mean = sum / count, variance = square / count - mean * mean;
        stats[c] = x[(int64_t)c * places] + mean;
        stats[channels + c] = 1.0 / __builtin_sqrt((variance > 0 ? variance : 0) + eps);
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int n = 0; n < sets; n++)
        for (int c = 0; c < channels; c++) {
            int64_t at = ((int64_t)n * channels + c) * places;
            float scale = w[c] * stats[channels + c], shift = b[c] - stats[c] * scale;
            for (int j = 0; j < places; j += V) {
                vec v = larger(load(x + at + j) * scale + shift, all(0.0f));
                store(y + at + j, skip ? v + load(skip + at + j) : v);
            }
        }
}

/* dx, and d of w and b in slopes [2, channels]. */
void norm_backward(int threads, int sets, int channels, int places, const float *x, const float *w, const float *b,
                   const float *stats, const float *dy, float *dx, float *slopes) {
    double count = (double)sets * places, sums[threads][channels][2];
    memset(sums, 0, sizeof sums);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++)
        for (int n = share(sets, part, threads); n < share(sets, part + 1, threads); n++)
            for (int c = 0; c < channels; c++) {
                int64_t at = ((int64_t)n * channels + c) * places;
                float mean = stats[c], inverse = stats[channels + c];
                vec one = {0}, two = {0};
                for (int j = 0; j < places; j += V) {
                    vec v = (load(x + at + j) - mean) * inverse;
                    vec g = select(v * w[c] + b[c] > all(0.0f), load(dy + at + j), all(0.0f));
                    one += g;
                    two += g * v;
                }
                sums[part][c][0] += total(two);
                sums[part][c][1] += total(one);
            }
    for (int i = 0; i < 2; i++)
        for (int c = 0; c < channels; c++) {
            double sum = 0.0;
            for (int part = 0; part < threads; part++) sum += sums[part][c][i];
            slopes[i * channels + c] = sum;
        }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int n = 0; n < sets; n++)
        for (int c = 0; c < channels; c++) {
            int64_t at = ((int64_t)n * channels + c) * places;
            float mean = stats[c], inverse = stats[channels + c], scale = w[c] * inverse;
            float tilt = slopes[c] / count, level = slopes[channels + c] / count;
            for (int j = 0; j < places; j += V) {
                vec v = (load(x + at + j) - mean) * inverse;
                vec g = select(v * w[c] + b[c] > all(0.0f), load(dy + at + j), all(0.0f));
                store(dx + at + j, scale * (g - level - v * tilt));
            }
        }
}

/* The distance of compressed spectra est, ref [frames, bins, 2], see losses/spectral.py: values [frames] sums that of
 * each frame, and slope [frames, bins, 2] is its gradient at est, halved where irfft counts a bin twice. */
void compressed_distance(int threads, int frames, int bins, float exponent, float floor, float magnitude, float complex,
                         float under, const float *est, const float *ref, float *values, float *slope) {
    float half = 0.5f * exponent;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < frames; t++) {
        int64_t at = (int64_t)t * bins * 2;
        vec sum = {0};
        for (int k = 0; k < bins; k += V) {
            int64_t here = at + 2 * k, size = sizeof(float) * 2 * (bins - k < V ? bins - k : V);
            float e[2 * V] = {0}, s[2 * V] = {0}, d[2 * V];
            memcpy(e, est + here, size);
            memcpy(s, ref + here, size);
            vec re = evens(load(e), load(e + V)), im = odds(load(e), load(e + V));
            vec wanted_re = evens(load(s), load(s + V)), wanted_im = odds(load(s), load(s + V));
            vec power = re * re + im * im + floor, level = logarithm(power);
            vec wanted_level = logarithm(wanted_re * wanted_re + wanted_im * wanted_im + floor);
            vec loud = exponential(half * level), wanted_loud = exponential(half * wanted_level);
            vec gain = exponential((half - 0.5f) * level), wanted_gain = exponential((half - 0.5f) * wanted_level);
            vec missing = wanted_loud - loud, weight = magnitude * select(missing > all(0.0f), all(under), all(1.0f));
            vec apart_re = wanted_re * wanted_gain - re * gain, apart_im = wanted_im * wanted_gain - im * gain;
            sum += weight * missing * missing + complex * (apart_re * apart_re + apart_im * apart_im);
            vec across = complex * gain, inner = apart_re * re + apart_im * im; /* half the gradient, down */
            vec along = (exponent * weight * missing * loud + (exponent - 1.0f) * across * inner) / power;
            vec down_re = across * apart_re + along * re, down_im = across * apart_im + along * im;
            store(d, -low(down_re, down_im));
            store(d + V, -high(down_re, down_im));
            memcpy(slope + here, d, size);
        }
        values[t] = total(sum);
        for (int i = 0; i < 2; i++) slope[at + i] *= 2.0f, slope[at + 2 * bins - 2 + i] *= 2.0f;
    }
}
