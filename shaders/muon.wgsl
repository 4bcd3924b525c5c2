// Muon over the weights of hidden layers: their momentum made orthogonal by five Newton-Schulz steps, then the update.
//
//   m = momentum m + rest g;  u = rest g + momentum m;  X = u / max(norm(u), 1e-7)
//   five times:  G = X X^T;  F = b G + c G G;  X = a X + F X
//   p = keep p - rate 0.2 sqrt(max(rows, columns)) X
//
// X lies with its shorter side first, [side, length]: the transpose of a weight with more outputs than inputs. A pass
// runs over all matrices at once; each has some of its workgroups.

struct Muon {
    decayed: u32,   // no weight decay from here on
    segments: u32,
    parted: u32,    // one past the last parameter that a segment holds
    matrices: u32,
    first: u32,     // 1 in the first of the steps, where X is still to be divided by its norm
}
@group(0) @binding(1) var<uniform> dims: Muon;

struct Matrix {
    // The first parameter; rows; columns; where its X begins.
    place: vec4u,
    // One past its last workgroup, of the passes over its parameters, over its G and over its X; where its G begins.
    ends: vec4u,
}
@group(0) @binding(12) var<storage, read> matrices: array<Matrix>;
@group(0) @binding(13) var<storage, read_write> x: array<f32>;
@group(0) @binding(14) var<storage, read_write> y: array<f32>;       // the next X
@group(0) @binding(15) var<storage, read_write> gram: array<f32>;    // G, [side, side]; for `apply` F
@group(0) @binding(16) var<storage, read_write> series: array<f32>;  // F, [side, side]
@group(0) @binding(17) var<storage, read_write> scales: array<f32>;  // [matrices]: 1 / max(norm(u), 1e-7)

const A = 3.4445;
const B = -4.775;
const C = 2.0315;

fn side(m: Matrix) -> u32 { return min(m.place.y, m.place.z); }
fn length_of(m: Matrix) -> u32 { return max(m.place.y, m.place.z); }
fn elements(m: Matrix) -> u32 { return m.place.y * m.place.z; }

// Where X has the element that is `i` in the weight.
fn in_x(m: Matrix, i: u32) -> u32 {
    let turned = i % m.place.z * m.place.y + i / m.place.z;
    return m.place.w + select(i, turned, m.place.y > m.place.z);
}

// Which matrix a workgroup has, and which of that matrix's workgroups it is.
struct Own { some: bool, which: u32, group: u32 }

const OVER_WEIGHT = 0u;
const OVER_GRAM = 1u;
const OVER_X = 2u;

fn own_matrix(group: u32, over: u32) -> Own {
    var before = 0u;
    for (var which = 0u; which < dims.matrices; which++) {
        let end = matrices[which].ends[over];
        if group < end { return Own(true, which, group - before); }
        before = end;
    }
    return Own(false, 0u, 0u);
}

@compute @workgroup_size(WORKGROUP)
fn remember(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let own = own_matrix(flat_group(group, groups), OVER_WEIGHT);
    if !own.some { return; }
    let m = matrices[own.which];
    let i = (own.group * WORKGROUP + local) * 4u;
    if i >= elements(m) { return; }
    let quad = (m.place.x + i) / 4u;
    let g = gradient(quad, segment_of(quad * 4u));
    let moment = optimizer.momentum * first[quad] + optimizer.rest * g;
    first[quad] = moment;
    watch(exponents(moment));
    let u = optimizer.rest * g + optimizer.momentum * moment;
    store_x(m, i, u.x);
    store_x(m, i + 1u, u.y);
    store_x(m, i + 2u, u.z);
    store_x(m, i + 3u, u.w);
}

// The last thread has less than four elements of some matrices.
fn store_x(m: Matrix, i: u32, value: f32) {
    if i < elements(m) { x[in_x(m, i)] = value; }
}
fn load_x(m: Matrix, i: u32) -> f32 { return select(0.0, x[in_x(m, min(i, elements(m) - 1u))], i < elements(m)); }

// A workgroup for each matrix.
@compute @workgroup_size(WORKGROUP)
fn norm(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let which = flat_group(group, groups);
    if which >= dims.matrices { return; }
    let m = matrices[which];
    var sum = 0.0;
    for (var i = local; i < elements(m); i += WORKGROUP) {
        let u = x[m.place.w + i];
        sum += u * u;
    }
    let total = sum_over_group(vec4f(sum, 0.0, 0.0, 0.0), local).x;
    if local == 0u { scales[which] = 1.0 / max(sqrt(total), 1e-7); }
}

// A workgroup owns 32 x 32 elements of a product, a thread 4 x 4 of them: rows `local / 8 * 4` on, columns
// `local % 8 * 4` on. Both sides come in pieces of 8 along the sum, [8, 32].
const TILE = 32u;
const DEPTH = 8u;
var<workgroup> left: array<vec4f, 64>;
var<workgroup> right: array<vec4f, 64>;

struct Sums { a: vec4f, b: vec4f, c: vec4f, d: vec4f }

fn no_sums() -> Sums { return Sums(vec4f(), vec4f(), vec4f(), vec4f()); }

fn add_piece(sums: Sums, local: u32) -> Sums {
    var acc = sums;
    workgroupBarrier();
    for (var k = 0u; k < DEPTH; k++) {
        let l = left[k * 8u + local / 8u];
        let r = right[k * 8u + local % 8u];
        acc = Sums(fma(vec4f(l.x), r, acc.a), fma(vec4f(l.y), r, acc.b), fma(vec4f(l.z), r, acc.c),
                   fma(vec4f(l.w), r, acc.d));
    }
    workgroupBarrier();
    return acc;
}

// Four elements down a column, or along a row, of a matrix [rows, columns] that begins at `start`; 0 outside.
fn at_x(start: u32, rows: u32, columns: u32, row: u32, column: u32) -> f32 {
    let inside = row < rows && column < columns;
    return select(0.0, x[start + select(0u, row * columns + column, inside)], inside);
}
fn at_gram(start: u32, n: u32, row: u32, column: u32) -> f32 {
    let inside = row < n && column < n;
    return select(0.0, gram[start + select(0u, row * n + column, inside)], inside);
}
fn x_down(m: Matrix, row: u32, column: u32) -> vec4f {
    let s = side(m);
    let l = length_of(m);
    return vec4f(at_x(m.place.w, s, l, row, column), at_x(m.place.w, s, l, row + 1u, column),
                 at_x(m.place.w, s, l, row + 2u, column), at_x(m.place.w, s, l, row + 3u, column));
}
fn x_along(m: Matrix, row: u32, column: u32) -> vec4f {
    let s = side(m);
    let l = length_of(m);
    return vec4f(at_x(m.place.w, s, l, row, column), at_x(m.place.w, s, l, row, column + 1u),
                 at_x(m.place.w, s, l, row, column + 2u), at_x(m.place.w, s, l, row, column + 3u));
}
fn gram_down(m: Matrix, row: u32, column: u32) -> vec4f {
    let s = side(m);
    return vec4f(at_gram(m.ends.w, s, row, column), at_gram(m.ends.w, s, row + 1u, column),
                 at_gram(m.ends.w, s, row + 2u, column), at_gram(m.ends.w, s, row + 3u, column));
}
// The first row and column of a workgroup's tile, of a product with so many columns; and of what a thread stores.
fn tile(group: u32, columns: u32) -> vec2u {
    let across = (columns + TILE - 1u) / TILE;
    return vec2u(group / across, group % across) * TILE;
}
fn own_place(corner: vec2u, local: u32) -> vec2u { return corner + vec2u(local / 8u, local % 8u) * 4u; }

// What X is still to be multiplied by.
fn scale_of(which: u32) -> f32 { return select(1.0, scales[which], dims.first == 1u); }

// G = X X^T
@compute @workgroup_size(WORKGROUP)
fn multiply(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let own = own_matrix(flat_group(group, groups), OVER_GRAM);
    if !own.some { return; }
    let m = matrices[own.which];
    let corner = tile(own.group, side(m));
    var sums = no_sums();
    for (var k = 0u; k < length_of(m); k += DEPTH) {
        left[local] = x_down(m, corner.x + local % 8u * 4u, k + local / 8u);
        right[local] = x_down(m, corner.y + local % 8u * 4u, k + local / 8u);
        sums = add_piece(sums, local);
    }
    let scale = scale_of(own.which) * scale_of(own.which);
    let at = own_place(corner, local);
    store_gram(m, at.x, at.y, scale * sums.a);
    store_gram(m, at.x + 1u, at.y, scale * sums.b);
    store_gram(m, at.x + 2u, at.y, scale * sums.c);
    store_gram(m, at.x + 3u, at.y, scale * sums.d);
}

fn store_gram(m: Matrix, row: u32, column: u32, value: vec4f) {
    put_gram(m, row, column, value.x);
    put_gram(m, row, column + 1u, value.y);
    put_gram(m, row, column + 2u, value.z);
    put_gram(m, row, column + 3u, value.w);
}
fn put_gram(m: Matrix, row: u32, column: u32, value: f32) {
    if row < side(m) && column < side(m) { gram[m.ends.w + row * side(m) + column] = value; }
}

// F = b G + c G G. G is its own transpose.
@compute @workgroup_size(WORKGROUP)
fn square(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let own = own_matrix(flat_group(group, groups), OVER_GRAM);
    if !own.some { return; }
    let m = matrices[own.which];
    let corner = tile(own.group, side(m));
    var sums = no_sums();
    for (var k = 0u; k < side(m); k += DEPTH) {
        left[local] = gram_down(m, corner.x + local % 8u * 4u, k + local / 8u);
        right[local] = gram_down(m, corner.y + local % 8u * 4u, k + local / 8u);
        sums = add_piece(sums, local);
    }
    let at = own_place(corner, local);
    store_series(m, at.x, at.y, sums.a);
    store_series(m, at.x + 1u, at.y, sums.b);
    store_series(m, at.x + 2u, at.y, sums.c);
    store_series(m, at.x + 3u, at.y, sums.d);
}

fn store_series(m: Matrix, row: u32, column: u32, value: vec4f) {
    put_series(m, row, column, value.x);
    put_series(m, row, column + 1u, value.y);
    put_series(m, row, column + 2u, value.z);
    put_series(m, row, column + 3u, value.w);
}
fn put_series(m: Matrix, row: u32, column: u32, value: f32) {
    let at = m.ends.w + row * side(m) + column;
    if row < side(m) && column < side(m) { series[at] = B * gram[at] + C * value; }
}

// X = a X + F X
@compute @workgroup_size(WORKGROUP)
fn apply(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
         @builtin(local_invocation_index) local: u32) {
    let own = own_matrix(flat_group(group, groups), OVER_X);
    if !own.some { return; }
    let m = matrices[own.which];
    let corner = tile(own.group, length_of(m));
    var sums = no_sums();
    for (var k = 0u; k < side(m); k += DEPTH) {
        left[local] = gram_down(m, corner.x + local % 8u * 4u, k + local / 8u);
        right[local] = x_along(m, k + local / 8u, corner.y + local % 8u * 4u);
        sums = add_piece(sums, local);
    }
    let scale = scale_of(own.which);
    let at = own_place(corner, local);
    store_y(m, at.x, at.y, scale * (A * x_along(m, at.x, at.y) + sums.a));
    store_y(m, at.x + 1u, at.y, scale * (A * x_along(m, at.x + 1u, at.y) + sums.b));
    store_y(m, at.x + 2u, at.y, scale * (A * x_along(m, at.x + 2u, at.y) + sums.c));
    store_y(m, at.x + 3u, at.y, scale * (A * x_along(m, at.x + 3u, at.y) + sums.d));
}

fn store_y(m: Matrix, row: u32, column: u32, value: vec4f) {
    put_y(m, row, column, value.x);
    put_y(m, row, column + 1u, value.y);
    put_y(m, row, column + 2u, value.z);
    put_y(m, row, column + 3u, value.w);
}
fn put_y(m: Matrix, row: u32, column: u32, value: f32) {
    if row < side(m) && column < length_of(m) { y[m.place.w + row * length_of(m) + column] = value; }
}

@compute @workgroup_size(WORKGROUP)
fn update(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let own = own_matrix(flat_group(group, groups), OVER_WEIGHT);
    if !own.some { return; }
    let m = matrices[own.which];
    let i = (own.group * WORKGROUP + local) * 4u;
    if i >= elements(m) { return; }
    let quad = (m.place.x + i) / 4u;
    let along = vec4f(load_x(m, i), load_x(m, i + 1u), load_x(m, i + 2u), load_x(m, i + 3u));
    let rate = optimizer.rate * 0.2 * sqrt(f32(length_of(m)));
    let value = factor(quad) * params[quad] - rate * along;
    keep(quad, segment_of(quad * 4u), value);
    watch(exponents(value));
}
