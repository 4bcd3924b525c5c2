// Linear in register tiles (common/linear_tiled.wgsl has the formulas).
//
// Which rows and which columns a workgroup owns follows from its number alone. So where all of its threads want the
// same elements, a compiler sees it and loads them once, into registers that the threads share.

fn tiles(len: u32) -> u32 { return (len + TILE - 1u) / TILE; }

// Forward splits the inputs, so that a small batch has threads enough for a large device: a thread owns the sums of a
// tile, of eight rows or four and eight columns, over every 64th vector of the inputs. Then the parts of four rows at a
// time are added: 64 of each of their eight vectors, in eight runs of eight. Part s of vector v lies at (s + v) % 64,
// so that the threads that read one part each of eight vectors find them in eight groups of banks. All rows and both
// forms add in one order, so that what an image gets does not depend on its place in the batch.
const VECTORS = 8u;
var<workgroup> parts: array<vec4f, WORKGROUP * VECTORS>;  // [row, half, part]

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_group(group, groups);
    let o = at % tiles(dims.outputs) * TILE;
    let n = at / tiles(dims.outputs) * TILE;
    if n >= batch.count { return; }
    let w = starts_of_w(o);
    let x0 = starts_of_x(n);
    let x1 = starts_of_x(n + 4u);
    var acc = all(Row(vec4f(), vec4f()));
    let step = feature_of(WORKGROUP);
    var feature = feature_of(local);
    for (var i = local; i < dims.inputs / 4u; i += WORKGROUP) {
        let four = place_of(feature, i);
        let low = transpose(w_from(w.low, i));
        let high = transpose(w_from(w.high, i));
        // Row by row, so that few are held at a time.
        acc.r0 = multiply(acc.r0, x_from(x0.x, four), low, high);
        acc.r1 = multiply(acc.r1, x_from(x0.y, four), low, high);
        acc.r2 = multiply(acc.r2, x_from(x0.z, four), low, high);
        acc.r3 = multiply(acc.r3, x_from(x0.w, four), low, high);
        acc.r4 = multiply(acc.r4, x_from(x1.x, four), low, high);
        acc.r5 = multiply(acc.r5, x_from(x1.y, four), low, high);
        acc.r6 = multiply(acc.r6, x_from(x1.z, four), low, high);
        acc.r7 = multiply(acc.r7, x_from(x1.w, four), low, high);
        feature = further(feature, step);
    }
    add_parts(n, o, local, acc.r0, acc.r1, acc.r2, acc.r3);
    add_parts(n + 4u, o, local, acc.r4, acc.r5, acc.r6, acc.r7);
}

// The same with four rows, where tiles of eight would be few.
@compute @workgroup_size(WORKGROUP)
fn forward_small(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) local: u32) {
    let at = flat_group(group, groups);
    let o = at % tiles(dims.outputs) * TILE;
    let n = at / tiles(dims.outputs) * 4u;
    if n >= batch.count { return; }
    let w = starts_of_w(o);
    let x0 = starts_of_x(n);
    var r0 = Row(vec4f(), vec4f());
    var r1 = r0;
    var r2 = r0;
    var r3 = r0;
    let step = feature_of(WORKGROUP);
    var feature = feature_of(local);
    for (var i = local; i < dims.inputs / 4u; i += WORKGROUP) {
        let four = place_of(feature, i);
        let low = transpose(w_from(w.low, i));
        let high = transpose(w_from(w.high, i));
        r0 = multiply(r0, x_from(x0.x, four), low, high);
        r1 = multiply(r1, x_from(x0.y, four), low, high);
        r2 = multiply(r2, x_from(x0.z, four), low, high);
        r3 = multiply(r3, x_from(x0.w, four), low, high);
        feature = further(feature, step);
    }
    add_parts(n, o, local, r0, r1, r2, r3);
}

// Where eight rows of w begin, from row o on; the last row in place of those beyond.
struct Starts { low: vec4u, high: vec4u }

fn starts_of_w(o: u32) -> Starts {
    let rows = o + vec4u(0u, 1u, 2u, 3u);
    let last = vec4u(dims.outputs - 1u);
    return Starts(min(rows, last) * (dims.inputs / 4u), min(rows + 4u, last) * (dims.inputs / 4u));
}

fn w_from(starts: vec4u, at: u32) -> mat4x4f {
    return mat4x4f(w[starts.x + at], w[starts.y + at], w[starts.z + at], w[starts.w + at]);
}

// Where four rows of x begin.
fn starts_of_x(n: u32) -> vec4u {
    return vec4u(x_start(n, batch.count), x_start(n + 1u, batch.count),
                 x_start(n + 2u, batch.count), x_start(n + 3u, batch.count));
}

fn store_part(row: u32, local: u32, part: Row) {
    parts[row * 2u * WORKGROUP + (local + row * 2u) % WORKGROUP] = part.low;
    parts[(row * 2u + 1u) * WORKGROUP + (local + row * 2u + 1u) % WORKGROUP] = part.high;
}

// Adds what all threads have of four rows, and stores it.
fn add_parts(n: u32, o: u32, local: u32, r0: Row, r1: Row, r2: Row, r3: Row) {
    workgroupBarrier();
    store_part(0u, local, r0);
    store_part(1u, local, r1);
    store_part(2u, local, r2);
    store_part(3u, local, r3);
    workgroupBarrier();
    let vector = local % VECTORS;
    let run = local / VECTORS;
    var sum = vec4f();
    for (var i = 0u; i < 8u; i++) { sum += parts[vector * WORKGROUP + (run * 8u + i + vector) % WORKGROUP]; }
    workgroupBarrier();
    parts[local] = sum;
    workgroupBarrier();
    if local < VECTORS {
        let columns = o + local % 2u * 4u;
        var whole = bias(columns);
        for (var i = local; i < WORKGROUP; i += VECTORS) { whole += parts[i]; }
        if n + local / 2u < batch.count { store_y4(n + local / 2u, columns, whole); }
    }
}

// Both gradients. A thread owns a vector of columns, and the workgroup eight rows of the result: a vector that a thread
// loads serves eight sums, and what it is multiplied by is the same for all threads.
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let own = share(group, groups, tiles(dims.outputs) * groups_of(dims.inputs / 4u));
    if own.first {
        weight_tile(own.at, local);
    } else {
        input_tile(own.at, local);
    }
}

// For the first layer, where nobody needs dx.
@compute @workgroup_size(WORKGROUP)
fn backward_weight(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    weight_tile(flat_group(group, groups), local);
}

fn no_rows() -> Rows { return Rows(vec4f(), vec4f(), vec4f(), vec4f(), vec4f(), vec4f(), vec4f(), vec4f()); }

fn input_tile(at: u32, local: u32) {
    let across = groups_of(dims.inputs / 4u);
    let n = at / across * TILE;
    if n >= batch.count { return; }
    let column = at % across * WORKGROUP + local;
    let i = min(column, dims.inputs / 4u - 1u);
    let step = dims.inputs / 4u;
    let length = dims.stride / 4u;
    let rows = min(n + vec4u(0u, 1u, 2u, 3u), vec4u(batch.count - 1u)) * length;
    let more = min(n + vec4u(4u, 5u, 6u, 7u), vec4u(batch.count - 1u)) * length;
    var acc = no_rows();
    var o = 0u;
    for (; o + 8u <= dims.outputs; o += 8u) {
        acc = add_outputs(acc, rows + o / 4u, more + o / 4u, w_columns(o, i));
        acc = add_outputs(acc, rows + o / 4u + 1u, more + o / 4u + 1u, w_columns(o + 4u, i));
    }
    // Past the outputs the gradient is zero.
    for (; o < dims.outputs; o += 4u) {
        acc = add_outputs(acc, rows + o / 4u, more + o / 4u, w_rows(o, i));
    }
    if column >= step { return; }
    let features = vec4u(feature(i * 4u), feature(i * 4u + 1u), feature(i * 4u + 2u), feature(i * 4u + 3u));
    store_row(n, i, features, acc.v0);
    store_row(n + 1u, i, features, acc.v1);
    store_row(n + 2u, i, features, acc.v2);
    store_row(n + 3u, i, features, acc.v3);
    store_row(n + 4u, i, features, acc.v4);
    store_row(n + 5u, i, features, acc.v5);
    store_row(n + 6u, i, features, acc.v6);
    store_row(n + 7u, i, features, acc.v7);
}

// Four rows of w that there are.
fn w_columns(o: u32, i: u32) -> mat4x4f {
    let step = dims.inputs / 4u;
    let at = o * step + i;
    return mat4x4f(w[at], w[at + step], w[at + 2u * step], w[at + 3u * step]);
}

fn add_outputs(acc: Rows, rows: vec4u, more: vec4u, m: mat4x4f) -> Rows {
    return Rows(combine(acc.v0, dy[rows.x], m), combine(acc.v1, dy[rows.y], m),
                combine(acc.v2, dy[rows.z], m), combine(acc.v3, dy[rows.w], m),
                combine(acc.v4, dy[more.x], m), combine(acc.v5, dy[more.y], m),
                combine(acc.v6, dy[more.z], m), combine(acc.v7, dy[more.w], m));
}

fn store_row(n: u32, i: u32, features: vec4u, sum: vec4f) {
    if n >= batch.count { return; }
    let dead = (x_at(n, batch.count, place(i)) <= vec4f()) & vec4<bool>(dims.mask != 0u);
    let v = select(sum, vec4f(), dead);
    let at = n * dims.inputs + features;
    dx[at.x] = v.x;
    dx[at.y] = v.y;
    dx[at.z] = v.z;
    dx[at.w] = v.w;
}

fn weight_tile(at: u32, local: u32) {
    let across = groups_of(dims.inputs / 4u);
    let o = at / across * TILE;
    if o >= dims.outputs { return; }
    if at % across == 0u { bias_tile(o, local); }
    let column = at % across * WORKGROUP + local;
    let own = place(min(column, dims.inputs / 4u - 1u));
    let step = vec2u(x_length(), dims.stride / 4u);
    // Where the next image begins in x, and its gradient of the tile's outputs in dy.
    var at_image = vec2u(0u, o / 4u);
    var acc = no_rows();
    let count = batch.count;
    for (var eights = count / 8u; eights > 0u; eights--) {
        acc = add_image(acc, at_image, own);
        at_image += step;
        acc = add_image(acc, at_image, own);
        at_image += step;
        acc = add_image(acc, at_image, own);
        at_image += step;
        acc = add_image(acc, at_image, own);
        at_image += step;
        acc = add_image(acc, at_image, own);
        at_image += step;
        acc = add_image(acc, at_image, own);
        at_image += step;
        acc = add_image(acc, at_image, own);
        at_image += step;
        acc = add_image(acc, at_image, own);
        at_image += step;
    }
    for (var rest = count % 8u; rest > 0u; rest--) {
        acc = add_image(acc, at_image, own);
        at_image += step;
    }
    if column >= dims.inputs / 4u { return; }
    store_dw4(o, column, acc.v0);
    store_dw4(o + 1u, column, acc.v1);
    store_dw4(o + 2u, column, acc.v2);
    store_dw4(o + 3u, column, acc.v3);
    store_dw4(o + 4u, column, acc.v4);
    store_dw4(o + 5u, column, acc.v5);
    store_dw4(o + 6u, column, acc.v6);
    store_dw4(o + 7u, column, acc.v7);
}

// acc + what the image at `at` gives to the weights. The last tile may have one vector of outputs alone: what is read
// behind it goes into sums that nobody stores.
fn add_image(acc: Rows, at: vec2u, own: Place) -> Rows {
    let x = x_from(at.x, own);
    let a = dy[at.y];
    let b = dy[at.y + 1u];
    return Rows(fma(x, vec4f(a.x), acc.v0), fma(x, vec4f(a.y), acc.v1),
                fma(x, vec4f(a.z), acc.v2), fma(x, vec4f(a.w), acc.v3),
                fma(x, vec4f(b.x), acc.v4), fma(x, vec4f(b.y), acc.v5),
                fma(x, vec4f(b.z), acc.v6), fma(x, vec4f(b.w), acc.v7));
}

fn store_dw4(o: u32, i: u32, v: vec4f) {
    if o < dims.outputs { dw[o * (dims.inputs / 4u) + i] = v; }
}

// db of a tile: 32 threads for each of its two vectors.
var<workgroup> sums: array<vec4f, WORKGROUP>;

fn bias_tile(o: u32, local: u32) {
    let at = min(o / 4u + local % 2u, dims.stride / 4u - 1u);
    var sum = vec4f();
    for (var n = local / 2u; n < batch.count; n += WORKGROUP / 2u) { sum += dy[n * (dims.stride / 4u) + at]; }
    sums[local] = sum;
    workgroupBarrier();
    if local >= 2u { return; }
    var whole = vec4f();
    for (var i = local; i < WORKGROUP; i += 2u) { whole += sums[i]; }
    store_db(o + local * 4u, whole);
}
