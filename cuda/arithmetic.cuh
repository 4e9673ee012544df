// How factors are multiplied: the micro-kernels of the engine, one struct per arithmetic.
//
//   Fma<float>, Fma<double>    multiply-adds
//   Tf32                       tensor cores, float factors rounded to 10 bits, float sums
//   Half<bfloat16|float16>     tensor cores, 16-bit factors, float sums
//
// A warp owns 16 G rows of a tile and all its 64 columns. Thread `lane` holds the sums
//
//   acc[i][j] of row row_of(lane, i) and column column_of(lane, j),   i < kRows G,  j < kColumns
//
// so that consumers work with any arithmetic; kRowLanes neighbouring lanes hold the same rows.
//
//   multiply          acc += A B^T from shared memory, A and B depth-contiguous; the pitch of a row is an odd
//                     multiple of 16 bytes, so that loads have no bank conflicts
//   multiply_weights  acc += W V: weights W (16 G x 64, in the registers of a tile's sums) times values V
//                     (64 x 64, row-major); the columns of the result are those of value_column_of
//
// An inner product is a single chain of sums over the depth, in order and in steps of kStep: its bits depend
// on the depth alone, not on the tile or the shape of the block.
#pragma once

#include "device.cuh"

namespace rk::cuda {

inline constexpr int kTileColumns = 64;
inline constexpr int kDepthBytes = 128;               // of a row of a stage
inline constexpr int kStagePitch = kDepthBytes + 16;  // bytes

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
    T v[N];
};

// What `f` returns for each value of a tile, r <- f(r).
template <class Sum, int Rows, int Columns, class F>
RK_DEVICE void for_each_unrolled(Sum (&r)[Rows][Columns], const F& f) {
#pragma unroll
    for (int i = 0; i < Rows; ++i)
#pragma unroll
        for (int j = 0; j < Columns; ++j) r[i][j] = f(r[i][j]);
}

// The arithmetic of the second inner product of a pair.
template <class A>
struct SecondProduct {
    using Type = A;
};

template <class T>
struct Fma {
    using Factor = T;
    using Sum = T;
    static constexpr int kRows = 4, kColumns = 8, kRowLanes = 8;
    static constexpr int kVector = 16 / int(sizeof(T));
    static constexpr int kStep = kVector;
    static constexpr int kValuePad = kVector;  // elements between rows of values: 16 bytes
    using Vector = Pack<T, kVector>;

    RK_DEVICE static int row_of(int lane, int i) { return lane / 8 + 4 * (i % 4) + 16 * (i / 4); }
    RK_DEVICE static int column_of(int lane, int j) { return lane % 8 + 8 * j; }
    // Vectors of adjacent columns, so that each lane reads a row of values 16 bytes at a time.
    RK_DEVICE static int value_column_of(int lane, int j) {
        return lane % 8 * kVector + j % kVector + 8 * kVector * (j / kVector);
    }

    template <int G>
    RK_DEVICE static void multiply(T (&acc)[4 * G][8], const T* a, int a_pitch, const T* b, int b_pitch,
                                   int depth) {
        const int lane = lane_index();
        b += lane % 8 * b_pitch;
#pragma unroll 2
        for (int k = 0; k < depth; k += kVector) {
            Vector x[4 * G];
#pragma unroll
            for (int i = 0; i < 4 * G; ++i)
                x[i] = *reinterpret_cast<const Vector*>(a + row_of(lane, i) * a_pitch + k);
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const Vector y = *reinterpret_cast<const Vector*>(b + 8 * j * b_pitch + k);
#pragma unroll
                for (int v = 0; v < kVector; ++v)
#pragma unroll
                    for (int i = 0; i < 4 * G; ++i) acc[i][j] = fma(x[i].v[v], y.v[v], acc[i][j]);
            }
        }
    }

    // `staged`: shared memory of this warp, 16 G rows of kTileColumns + kVector sums.
    template <int G>
    RK_DEVICE static void multiply_weights(T (&acc)[4 * G][8], const T (&weights)[4 * G][8], T* staged,
                                           bool stage, const T* values, int pitch) {
        constexpr int kPitch = kTileColumns + kVector;
        const int lane = lane_index();
        if (stage) stage_weights<G>(weights, staged);
        values += lane % 8 * kVector;
#pragma unroll 2
        for (int k = 0; k < kTileColumns; k += kVector) {
            Vector w[4 * G];
#pragma unroll
            for (int i = 0; i < 4 * G; ++i)
                w[i] = *reinterpret_cast<const Vector*>(staged + row_of(lane, i) * kPitch + k);
#pragma unroll
            for (int v = 0; v < kVector; ++v)
#pragma unroll
                for (int part = 0; part < 8 / kVector; ++part) {
                    const Vector y =
                        *reinterpret_cast<const Vector*>(values + (k + v) * pitch + 8 * kVector * part);
#pragma unroll
                    for (int i = 0; i < 4 * G; ++i)
#pragma unroll
                        for (int u = 0; u < kVector; ++u)
                            acc[i][part * kVector + u] = fma(w[i].v[v], y.v[u], acc[i][part * kVector + u]);
                }
        }
    }

    template <int G>
    RK_DEVICE static void stage_weights(const T (&weights)[4 * G][8], T* staged) {
        constexpr int kPitch = kTileColumns + kVector;
        const int lane = lane_index();
        sync_warp();
#pragma unroll
        for (int i = 0; i < 4 * G; ++i)
#pragma unroll
            for (int j = 0; j < 8; ++j) staged[row_of(lane, i) * kPitch + column_of(lane, j)] = weights[i][j];
        sync_warp();
    }
};

// Common to the tensor-core arithmetics: fragments of 16 x 8 sums.
struct Fragments {
    using Sum = float;
    static constexpr int kRows = 2, kColumns = 16, kRowLanes = 4;
    RK_DEVICE static int row_of(int lane, int i) { return lane / 4 + 8 * (i % 2) + 16 * (i / 2); }
    RK_DEVICE static int column_of(int lane, int j) { return lane % 4 * 2 + j % 2 + 8 * (j / 2); }
    RK_DEVICE static int value_column_of(int lane, int j) { return column_of(lane, j); }

    template <int G>
    RK_DEVICE static void stage_weights(const float (&weights)[2 * G][16], float* staged) {
        constexpr int kPitch = kTileColumns + 4;
        const int lane = lane_index();
        sync_warp();
#pragma unroll
        for (int i = 0; i < 2 * G; ++i)
#pragma unroll
            for (int j = 0; j < 16; ++j)
                staged[row_of(lane, i) * kPitch + column_of(lane, j)] = weights[i][j];
        sync_warp();
    }
    // Passes the sums of a 16 x 8 fragment, columns from 8 n on, to an instruction as its four registers.
    template <class Multiply>
    RK_DEVICE static void with_sums(float (&row)[16], float (&row_8)[16], int n, const Multiply& multiply) {
        float c[4] = {row[2 * n], row[2 * n + 1], row_8[2 * n], row_8[2 * n + 1]};
        multiply(c);
        row[2 * n] = c[0];
        row[2 * n + 1] = c[1];
        row_8[2 * n] = c[2];
        row_8[2 * n + 1] = c[3];
    }
};

template <class T>
struct Half : Fragments {
    using Factor = T;
    static constexpr int kStep = 16;
    static constexpr int kValuePad = 8;

    template <int G>
    RK_DEVICE static void multiply(float (&acc)[2 * G][16], const T* a, int a_pitch, const T* b, int b_pitch,
                                   int depth) {
        const int lane = lane_index(), matrix = lane / 8, row = lane % 8;
        a += (row + 8 * (matrix % 2)) * a_pitch + 8 * (matrix / 2);
        b += (row + 8 * (matrix / 2)) * b_pitch + 8 * (matrix % 2);
        for (int k = 0; k < depth; k += 16) {
            std::uint32_t x[G][4];
#pragma unroll
            for (int g = 0; g < G; ++g) load_matrices(x[g], a + 16 * g * a_pitch + k);
#pragma unroll
            for (int n = 0; n < 8; n += 2) {
                std::uint32_t y[4];
                load_matrices(y, b + 8 * n * b_pitch + k);
#pragma unroll
                for (int g = 0; g < G; ++g) multiply_pair<G>(acc, g, n, x[g], y);
            }
        }
    }

    // Each thread already holds the sums of the first product that it needs as factors of the second.
    template <int G>
    RK_DEVICE static void multiply_weights(float (&acc)[2 * G][16], const float (&weights)[2 * G][16], float*,
                                           bool, const T* values, int pitch) {
        const int lane = lane_index(), matrix = lane / 8, row = lane % 8;
        values += (row + 8 * (matrix % 2)) * pitch + 8 * (matrix / 2);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            std::uint32_t x[G][4];
#pragma unroll
            for (int g = 0; g < G; ++g)
#pragma unroll
                for (int q = 0; q < 4; ++q) {
                    const float* w = &weights[2 * g + q % 2][4 * k + 2 * (q / 2)];
                    x[g][q] = pair_of<T>(w[0], w[1]);
                }
#pragma unroll
            for (int n = 0; n < 8; n += 2) {
                std::uint32_t y[4];
                load_matrices_transposed(y, values + 16 * k * pitch + 8 * n);
#pragma unroll
                for (int g = 0; g < G; ++g) multiply_pair<G>(acc, g, n, x[g], y);
            }
        }
    }

   private:
    template <int G>
    RK_DEVICE static void multiply_pair(float (&acc)[2 * G][16], int g, int n, const std::uint32_t (&x)[4],
                                        const std::uint32_t (&y)[4]) {
        with_sums(acc[2 * g], acc[2 * g + 1], n, [&](float* c) { multiply_16x8x16(c, x, y, T{}); });
        with_sums(acc[2 * g], acc[2 * g + 1], n + 1, [&](float* c) { multiply_16x8x16(c, x, y + 2, T{}); });
    }
};

struct Tf32 : Fragments {
    using Factor = float;
    static constexpr int kStep = 8;
    static constexpr int kValuePad =
        8;  // rows 32 bytes apart, modulo the banks: lanes (t, g) read bank 8 t + g

    template <int G>
    RK_DEVICE static void multiply(float (&acc)[2 * G][16], const float* a, int a_pitch, const float* b,
                                   int b_pitch, int depth) {
        const int lane = lane_index();
        a += lane / 4 * a_pitch + lane % 4;
        b += lane / 4 * b_pitch + lane % 4;
        for (int k = 0; k < depth; k += 8) {
            std::uint32_t x[G][4];
            load_rows<G>(x, a + k, a_pitch);
#pragma unroll
            for (int n = 0; n < 8; ++n) {
                const float* at = b + 8 * n * b_pitch + k;
                const std::uint32_t y[2] = {round_to_tf32(at[0]), round_to_tf32(at[4])};
                multiply_column<G>(acc, n, x, y);
            }
        }
    }

    template <int G>
    RK_DEVICE static void multiply_weights(float (&acc)[2 * G][16], const float (&weights)[2 * G][16],
                                           float* staged, bool stage, const float* values, int pitch) {
        constexpr int kPitch = kTileColumns + 4;
        const int lane = lane_index();
        if (stage) stage_weights<G>(weights, staged);
        staged += lane / 4 * kPitch + lane % 4;
        values += lane % 4 * pitch + lane / 4;
        for (int k = 0; k < kTileColumns; k += 8) {
            std::uint32_t x[G][4];
            load_rows<G>(x, staged + k, kPitch);
#pragma unroll
            for (int n = 0; n < 8; ++n) {
                const float* at = values + k * pitch + 8 * n;
                const std::uint32_t y[2] = {round_to_tf32(at[0]), round_to_tf32(at[4 * pitch])};
                multiply_column<G>(acc, n, x, y);
            }
        }
    }

   private:
    template <int G>
    RK_DEVICE static void load_rows(std::uint32_t (&x)[G][4], const float* a, int pitch) {
#pragma unroll
        for (int g = 0; g < G; ++g)
#pragma unroll
            for (int q = 0; q < 4; ++q)
                x[g][q] = round_to_tf32(a[(16 * g + 8 * (q % 2)) * pitch + 4 * (q / 2)]);
    }
    template <int G>
    RK_DEVICE static void multiply_column(float (&acc)[2 * G][16], int n, const std::uint32_t (&x)[G][4],
                                          const std::uint32_t (&y)[2]) {
#pragma unroll
        for (int g = 0; g < G; ++g)
            with_sums(acc[2 * g], acc[2 * g + 1], n, [&](float* c) { multiply_16x8x8(c, x[g], y); });
    }
};

}  // namespace rk::cuda
