// Linear in register tiles, with the ReLU above it in forward and the ReLU below it in backward_input.
//
//   y[n,o]  = b[o] + sum over i of w[o,i] * x[n,i], or 0 where that is not above 0 and `relu` is set
//   dx[n,i] = sum over o of w[o,i] * dy[n,o], or 0 where x[n,i] is not above 0 and `mask` is set
//   dw[o,i] = sum over n of dy[n,o] * x[n,i];  db[o] = sum over n of dy[n,o]
//
// dy above ReLU is expected to be masked already. What the forms of these kernels share; they are in linear_tiled.wgsl
// and its variant. x and y are in linear_tiled_f32.wgsl or linear_tiled_f16.wgsl.

struct Linear {
    inputs: u32,   // a multiple of 4
    outputs: u32,
    stride: u32,   // elements from one row of dy to the next, a multiple of 4; past `outputs` there are zeros
    relu: u32,     // 0 or 1
    mask: u32,     // 0 or 1
    plane: u32,    // dx is stored with its channels last: its features are channels of so many
    halves: u32,   // 0 or 1: y is stored in halves; only where x is
}
@group(0) @binding(1) var<uniform> dims: Linear;
@group(0) @binding(3) var<storage, read> w: array<vec4f>;        // [outputs, inputs / 4]
@group(0) @binding(4) var<storage, read> b: array<f32>;          // [outputs]
@group(0) @binding(6) var<storage, read> dy: array<vec4f>;       // [n, stride / 4]
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;   // [n, inputs]
@group(0) @binding(8) var<storage, read_write> dw: array<vec4f>; // as w
@group(0) @binding(9) var<storage, read_write> db: array<f32>;   // as b

const TILE = 8u;

// Eight rows, eight columns.
struct Tile { r0: Row, r1: Row, r2: Row, r3: Row, r4: Row, r5: Row, r6: Row, r7: Row }
struct Row { low: vec4f, high: vec4f }

// One vector for each of a tile's rows.
struct Rows { v0: vec4f, v1: vec4f, v2: vec4f, v3: vec4f, v4: vec4f, v5: vec4f, v6: vec4f, v7: vec4f }

fn all(row: Row) -> Tile { return Tile(row, row, row, row, row, row, row, row); }

// acc + a * (low | high), matrices of four rows whose products with a row of `a` are summed.
fn multiply(acc: Row, a: vec4f, low: mat4x4f, high: mat4x4f) -> Row {
    return Row(combine(acc.low, a, low), combine(acc.high, a, high));
}

fn combine(acc: vec4f, a: vec4f, m: mat4x4f) -> vec4f {
    return fma(m[3], vec4f(a.w), fma(m[2], vec4f(a.z), fma(m[1], vec4f(a.y), fma(m[0], vec4f(a.x), acc))));
}

fn multiply_tile(acc: Tile, a: Rows, low: mat4x4f, high: mat4x4f) -> Tile {
    return Tile(multiply(acc.r0, a.v0, low, high), multiply(acc.r1, a.v1, low, high),
                multiply(acc.r2, a.v2, low, high), multiply(acc.r3, a.v3, low, high),
                multiply(acc.r4, a.v4, low, high), multiply(acc.r5, a.v5, low, high),
                multiply(acc.r6, a.v6, low, high), multiply(acc.r7, a.v7, low, high));
}

// The last of `count` rows in place of those beyond.
fn dy_at(row: u32, count: u32, at: u32) -> vec4f { return dy[min(row, count - 1u) * (dims.stride / 4u) + at]; }

fn w_at(o: u32, at: u32) -> vec4f { return w[min(o, dims.outputs - 1u) * (dims.inputs / 4u) + at]; }
fn w_rows(o: u32, at: u32) -> mat4x4f { return mat4x4f(w_at(o, at), w_at(o + 1u, at), w_at(o + 2u, at), w_at(o + 3u, at)); }

fn bias(o: u32) -> vec4f { return vec4f(bias_at(o), bias_at(o + 1u), bias_at(o + 2u), bias_at(o + 3u)); }
fn bias_at(o: u32) -> f32 { return b[min(o, dims.outputs - 1u)]; }

fn rectified(sum: vec4f) -> vec4f { return select(sum, vec4f(), (sum <= vec4f()) & vec4<bool>(dims.relu != 0u)); }

fn store_dx_tile(n: u32, i: u32, t: Tile) {
    store_dx(n, i, t.r0);
    store_dx(n + 1u, i, t.r1);
    store_dx(n + 2u, i, t.r2);
    store_dx(n + 3u, i, t.r3);
    store_dx(n + 4u, i, t.r4);
    store_dx(n + 5u, i, t.r5);
    store_dx(n + 6u, i, t.r6);
    store_dx(n + 7u, i, t.r7);
}

fn store_dx(n: u32, i: u32, row: Row) {
    if n >= batch.count { return; }
    store_dx4(n, i, row.low);
    if i + 1u < dims.inputs / 4u { store_dx4(n, i + 1u, row.high); }
}

fn store_dx4(n: u32, i: u32, sum: vec4f) {
    let dead = (x_at(n, batch.count, place(i)) <= vec4f()) & vec4<bool>(dims.mask != 0u);
    let v = select(sum, vec4f(), dead);
    dx[n * dims.inputs + feature(i * 4u)] = v.x;
    dx[n * dims.inputs + feature(i * 4u + 1u)] = v.y;
    dx[n * dims.inputs + feature(i * 4u + 2u)] = v.z;
    dx[n * dims.inputs + feature(i * 4u + 3u)] = v.w;
}

// Where feature i, which is position i % plane of channel i / plane, is stored.
fn feature(i: u32) -> u32 { return i % dims.plane * (dims.inputs / dims.plane) + i / dims.plane; }

// Zeros past the batch.
fn dy_or_zero(n: u32, at: u32) -> vec4f { return select(vec4f(), dy_at(n, batch.count, at), n < batch.count); }

fn x_rows(n: u32, at: Place) -> mat4x4f {
    return mat4x4f(x_at(n, batch.count, at), x_at(n + 1u, batch.count, at),
                   x_at(n + 2u, batch.count, at), x_at(n + 3u, batch.count, at));
}

fn store_dw_tile(o: u32, i: u32, t: Tile) {
    store_dw(o, i, t.r0);
    store_dw(o + 1u, i, t.r1);
    store_dw(o + 2u, i, t.r2);
    store_dw(o + 3u, i, t.r3);
    store_dw(o + 4u, i, t.r4);
    store_dw(o + 5u, i, t.r5);
    store_dw(o + 6u, i, t.r6);
    store_dw(o + 7u, i, t.r7);
}

fn store_dw(o: u32, i: u32, row: Row) {
    if o >= dims.outputs { return; }
    dw[o * (dims.inputs / 4u) + i] = row.low;
    if i + 1u < dims.inputs / 4u { dw[o * (dims.inputs / 4u) + i + 1u] = row.high; }
}

fn store_db(o: u32, sum: vec4f) {
    if o < dims.outputs { db[o] = sum.x; }
    if o + 1u < dims.outputs { db[o + 1u] = sum.y; }
    if o + 2u < dims.outputs { db[o + 2u] = sum.z; }
    if o + 3u < dims.outputs { db[o + 3u] = sum.w; }
}
