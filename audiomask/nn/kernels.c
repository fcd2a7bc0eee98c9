/* Layers for training on a CPU, each in one parallel region: a GRU through time, self-attention of a few places, and a
 * batch norm with what follows it.
 *
 * Rows of a GRU and sets of places know nothing of each other, so a thread takes some of them from end to end and keeps
 * what it works on in its cache, where operators of a tensor library go through memory once each. All matrices are
 * row-major float32; numbers of columns (units, places, channels of a head) are multiples of 8. kernels.py compiles this.
 */
#include <stdint.h>
#include <string.h>

enum { V = 8, ROWS = 8 };
typedef float vec __attribute__((vector_size(4 * V)));
typedef int32_t ivec __attribute__((vector_size(4 * V)));
#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *p) { vec v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }
INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec select(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
INLINE vec larger(vec a, vec b) { return select(a > b, a, b); }

/* In three steps rather than a chain of eight. */
INLINE vec halves(vec v) { return __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3); }
INLINE vec pairs(vec v) { return __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5); }
INLINE vec neighbours(vec v) { return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6); }
INLINE float total(vec v) { v += halves(v); v += pairs(v); return (v + neighbours(v))[0]; }
INLINE float greatest(vec v) {
    v = larger(v, halves(v));
    v = larger(v, pairs(v));
    return larger(v, neighbours(v))[0];
}

/* e^x = 2^n e^r, n whole and |r| <= log(2) / 2; the polynomial is that of Cephes' expf, right to 1e-7. */
INLINE vec exponential(vec x) {
    x = larger(x, all(-87.0f));
    x = select(x < all(88.0f), x, all(88.0f));
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

INLINE vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-x)); }

/* A tile of c [rows, width V] += a b over k; element (i, j) of a is a[i * row + j * column]. */
INLINE void tile(int rows, int width, int k, const float *a, int row, int column, const float *b, int ldb, float *c,
                 int ldc) {
    vec sum[ROWS][2];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < width; j++) sum[i][j] = load(c + i * ldc + j * V);
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

/* c [rows, columns] += a [rows, k] b [k, columns], see `tile`. */
static void product(int rows, int k, int columns, const float *a, int row, int column, const float *b, int ldb, float *c,
                    int ldc) {
    int i = 0;
    for (; i + ROWS <= rows; i += ROWS) {
        int j = 0;
        for (; j + 2 * V <= columns; j += 2 * V)
            tile(ROWS, 2, k, a + i * row, row, column, b + j, ldb, c + i * ldc + j, ldc);
        if (j < columns) tile(ROWS, 1, k, a + i * row, row, column, b + j, ldb, c + i * ldc + j, ldc);
    }
    for (; i < rows; i++)
        for (int j = 0; j < columns; j += V) tile(1, 1, k, a + i * row, row, column, b + j, ldb, c + i * ldc + j, ldc);
}

/* r, z = sigmoid(g + R h + c)   n = tanh(g + r u), u = R h + c   h' = n + z (h - n)
 * gates [frames, rows, 3 units] holds g, with c of r and z in it, and becomes r, z, n; right [units, 3 units] is R'. */
void gru_forward(int threads, int frames, int rows, int units, const float *right, const float *c, const float *start,
                 float *gates, float *u, float *y) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int first = 0; first < rows; first += ROWS) {
        int n = rows - first < ROWS ? rows - first : ROWS, h = units;
        float recurrent[ROWS * 3 * h];
        const float *before = start + first * h;
        for (int t = 0; t < frames; t++) {
            float *g = gates + ((int64_t)t * rows + first) * 3 * h;
            float *u_t = u + ((int64_t)t * rows + first) * h, *y_t = y + ((int64_t)t * rows + first) * h;
            memset(recurrent, 0, sizeof recurrent);
            product(n, h, 3 * h, before, h, 1, right, 3 * h, recurrent, 3 * h);
            for (int i = 0; i < n; i++)
                for (int j = 0; j < h; j += V) {
                    float *gate = g + i * 3 * h + j, *back = recurrent + i * 3 * h + j;
                    vec r = sigmoid(load(gate) + load(back)), z = sigmoid(load(gate + h) + load(back + h));
                    vec v = load(back + 2 * h) + load(c + 2 * h + j);
                    vec s = 2.0f * sigmoid(2.0f * (load(gate + 2 * h) + r * v)) - 1.0f;
                    store(gate, r);
                    store(gate + h, z);
                    store(gate + 2 * h, s);
                    store(u_t + i * h + j, v);
                    store(y_t + i * h + j, s + z * (load(before + i * h + j) - s));
                }
            before = y_t;
        }
    }
}

/* The gradient: d [frames, rows, 3 units] of R h + c, dn [frames, rows, units] of g of n (that of g of r and z is d's),
 * dh [rows, units] of the last state, which becomes that of the first; r [3 units, units] is R. */
void gru_backward(int threads, int frames, int rows, int units, const float *r, const float *start, const float *gates,
                  const float *u, const float *y, const float *dy, float *dh, float *d, float *dn) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int first = 0; first < rows; first += ROWS) {
        int n = rows - first < ROWS ? rows - first : ROWS, h = units;
        float *state = dh + first * h;
        for (int t = frames - 1; t >= 0; t--) {
            int64_t at = (int64_t)t * rows + first;
            const float *before = t ? y + (at - rows) * h : start + first * h;
            for (int i = 0; i < n; i++)
                for (int j = 0; j < h; j += V) {
                    int64_t k = (at + i) * h + j;
                    const float *gate = gates + (at + i) * 3 * h + j;
                    float *out = d + (at + i) * 3 * h + j;
                    vec reset = load(gate), z = load(gate + h), s = load(gate + 2 * h);
                    vec whole = load(state + i * h + j) + load(dy + k);
                    vec of_n = whole * (1.0f - z) * (1.0f - s * s);
                    store(dn + k, of_n);
                    store(out, of_n * load(u + k) * reset * (1.0f - reset));
                    store(out + h, whole * (load(before + i * h + j) - s) * z * (1.0f - z));
                    store(out + 2 * h, of_n * reset);
                    store(state + i * h + j, whole * z);
                }
            product(n, 3 * h, h, d + at * 3 * h, 3 * h, 1, r, h, state, h);
        }
    }
}

/* weights [places, places] = softmax(scale q k'), without the places that `hide` names for others. */
static void attention(int places, int size, int stride, float scale, const float *q, const float *k, const uint8_t *hide,
                      float *turned, float *weights) {
    for (int j = 0; j < places; j++)
        for (int m = 0; m < size; m++) turned[m * places + j] = scale * k[j * stride + m];
    memset(weights, 0, sizeof(float) * places * places);
    product(places, size, places, q, stride, 1, turned, places, weights, places);
    for (int i = 0; i < places; i++) {
        float *row = weights + i * places;
        if (hide)
            for (int j = 0; j < places; j++)
                if (hide[i * places + j]) row[j] = -3e38f;
        vec most = load(row), sum = {0};
        for (int j = V; j < places; j += V) most = larger(most, load(row + j));
        float top = greatest(most);
        for (int j = 0; j < places; j += V) {
            vec e = exponential(load(row + j) - top);
            if (hide) e = select(load(row + j) > all(-1e38f), e, all(0.0f));
            sum += e;
            store(row + j, e);
        }
        float share = 1.0f / total(sum);
        for (int j = 0; j < places; j += V) store(row + j, load(row + j) * share);
    }
}

/* y [sets, places, channels] of qkv [sets, places, 3 channels]; hide [sets, places, places], or null. */
void attention_forward(int threads, int sets, int places, int channels, int heads, float scale, const float *qkv,
                       const uint8_t *hide, float *y) {
    int size = channels / heads, stride = 3 * channels;
    memset(y, 0, sizeof(float) * sets * places * channels);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int n = 0; n < sets; n++) {
        float weights[places * places], turned[places * size];
        const uint8_t *hidden = hide ? hide + (int64_t)n * places * places : 0;
        for (int head = 0; head < heads; head++) {
            const float *q = qkv + (int64_t)n * places * stride + head * size, *k = q + channels, *v = k + channels;
            attention(places, size, stride, scale, q, k, hidden, turned, weights);
            product(places, places, size, weights, places, 1, v, stride,
                    y + (int64_t)n * places * channels + head * size, channels);
        }
    }
}

/* d [sets, places, 3 channels] from dy; the weights are computed again, which costs less than to keep them. */
void attention_backward(int threads, int sets, int places, int channels, int heads, float scale, const float *qkv,
                        const uint8_t *hide, const float *dy, float *d) {
    int size = channels / heads, stride = 3 * channels;
    memset(d, 0, sizeof(float) * sets * places * stride);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int n = 0; n < sets; n++) {
        float weights[places * places], slopes[places * places], turned[places * size];
        const uint8_t *hidden = hide ? hide + (int64_t)n * places * places : 0;
        for (int head = 0; head < heads; head++) {
            const float *q = qkv + (int64_t)n * places * stride + head * size, *k = q + channels, *v = k + channels;
            const float *g = dy + (int64_t)n * places * channels + head * size;
            float *dq = d + (q - qkv), *dk = dq + channels, *dv = dk + channels;
            attention(places, size, stride, scale, q, k, hidden, turned, weights);
            product(places, places, size, weights, 1, places, g, channels, dv, stride);
            for (int j = 0; j < places; j++)
                for (int m = 0; m < size; m++) turned[m * places + j] = v[j * stride + m];
            memset(slopes, 0, sizeof slopes);
            product(places, size, places, g, channels, 1, turned, places, slopes, places);
            for (int i = 0; i < places; i++) {
                float *w = weights + i * places, *s = slopes + i * places;
                vec sum = {0};
                for (int j = 0; j < places; j += V) sum += load(w + j) * load(s + j);
                float mean = total(sum);
                for (int j = 0; j < places; j += V) store(s + j, scale * load(w + j) * (load(s + j) - mean));
            }
            product(places, places, size, slopes, places, 1, k, stride, dq, stride);
            product(places, places, size, slopes, 1, places, q, stride, dk, stride);
        }
    }
}

/* y = skip + relu(z), z = w (x - mean) / deviation + b, over x [sets, channels, places] and normalised by each channel's
 * own statistics; of them, mean and 1 / deviation go into stats [2, channels]. */
void norm_forward(int threads, int sets, int channels, int places, float eps, const float *x, const float *w,
                  const float *b, const float *skip, float *stats, float *y) {
    double count = (double)sets * places;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int c = 0; c < channels; c++) {
        double sum = 0.0, square = 0.0;
        float near = x[(int64_t)c * places]; /* squares of what is far from 0 would cancel */
        for (int n = 0; n < sets; n++) {
            const float *row = x + ((int64_t)n * channels + c) * places;
            vec one = {0}, two = {0};
            for (int j = 0; j < places; j += V) {
                vec v = load(row + j) - near;
                one += v;
                two += v * v;
            }
            sum += total(one);
            square += total(two);
        }
        double mean = sum / count, variance = square / count - mean * mean;
        stats[c] = near + mean;
        stats[channels + c] = 1.0 / __builtin_sqrt((variance > 0 ? variance : 0) + eps);
        float scale = w[c] * stats[channels + c], shift = b[c] - stats[c] * scale;
        for (int n = 0; n < sets; n++) {
            int64_t at = ((int64_t)n * channels + c) * places;
            for (int j = 0; j < places; j += V) {
                vec v = larger(load(x + at + j) * scale + shift, all(0.0f));
                store(y + at + j, skip ? v + load(skip + at + j) : v);
            }
        }
    }
}

/* dx, and d of w and b in slopes [2, channels]. */
void norm_backward(int threads, int sets, int channels, int places, const float *x, const float *w, const float *b,
                   const float *stats, const float *dy, float *dx, float *slopes) {
    float count = (float)sets * places;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int c = 0; c < channels; c++) {
        float mean = stats[c], inverse = stats[channels + c];
        double of_w = 0.0, of_b = 0.0;
        for (int n = 0; n < sets; n++) {
            int64_t at = ((int64_t)n * channels + c) * places;
            vec one = {0}, two = {0};
            for (int j = 0; j < places; j += V) {
                vec v = (load(x + at + j) - mean) * inverse;
                vec g = select(v * w[c] + b[c] > all(0.0f), load(dy + at + j), all(0.0f));
                one += g;
                two += g * v;
            }
            of_b += total(one);
            of_w += total(two);
        }
        slopes[c] = of_w;
        slopes[channels + c] = of_b;
        float scale = w[c] * inverse, level = of_b / count, tilt = of_w / count;
        for (int n = 0; n < sets; n++) {
            int64_t at = ((int64_t)n * channels + c) * places;
            for (int j = 0; j < places; j += V) {
                vec v = (load(x + at + j) - mean) * inverse;
                vec g = select(v * w[c] + b[c] > all(0.0f), load(dy + at + j), all(0.0f));
                store(dx + at + j, scale * (g - level - v * tilt));
            }
        }
    }
}
