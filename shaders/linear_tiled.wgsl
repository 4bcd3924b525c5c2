// Linear in register tiles (common/linear_tiled.wgsl has the formulas).
//
// A thread owns an 8x8 tile of the result (forward: of its sums over a part of the inputs): each vector that it loads
// serves eight sums. Tiles that reach over an edge compute their last row again and store only what exists.

fn tiles(len: u32) -> u32 { return (len + TILE - 1u) / TILE; }

// Forward splits the inputs, so that a small batch has threads enough for a large device: `splits` of them own the sums
// of a tile over every `splits`-th vector, and then 16 of them one vector of the result each.
const VECTORS = 16u;
var<workgroup> parts: array<vec4f, WORKGROUP * VECTORS>;  // [row, half, tile, split]

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let first = flat_group(group, groups) * (WORKGROUP / dims.splits);
    if first / tiles(dims.outputs) * TILE >= batch.count { return; }
    let at = first + local / dims.splits;
    let split = local % dims.splits;
    let o = at % tiles(dims.outputs) * TILE;
    let n = at / tiles(dims.outputs) * TILE;
    var acc = all(Row(vec4f(), vec4f()));
    for (var i = split; i < dims.inputs / 4u; i += dims.splits) {
        acc = multiply_x(acc, n, place(i), transpose(w_rows(o, i)), transpose(w_rows(o + 4u, i)));
    }
    store_part(0u, local, acc.r0);
    store_part(1u, local, acc.r1);
    store_part(2u, local, acc.r2);
    store_part(3u, local, acc.r3);
    store_part(4u, local, acc.r4);
    store_part(5u, local, acc.r5);
    store_part(6u, local, acc.r6);
    store_part(7u, local, acc.r7);
    workgroupBarrier();
    if split >= VECTORS { return; }
    // The vector of the tile that this thread owns: half `split % 2` of row `split / 2`. All rows add in one order, so
    // that what an image gets does not depend on its place in the batch.
    let columns = o + split % 2u * 4u;
    var sum = bias(columns);
    for (var s = 0u; s < dims.splits; s++) {
        sum += parts[split * WORKGROUP + local - split + s];
    }
    if n + split / 2u < batch.count { store_y4(n + split / 2u, columns, sum); }
}

fn store_part(row: u32, local: u32, part: Row) {
    parts[row * 2u * WORKGROUP + local] = part.low;
    parts[(row * 2u + 1u) * WORKGROUP + local] = part.high;
}

// A tile's rows of x (or of dy) are loaded one by one, so that few are held at a time: in 132 registers nothing is
// spilled.
fn multiply_x(acc: Tile, n: u32, at: Place, low: mat4x4f, high: mat4x4f) -> Tile {
    return Tile(multiply(acc.r0, x_at(n, batch.count, at), low, high),
                multiply(acc.r1, x_at(n + 1u, batch.count, at), low, high),
                multiply(acc.r2, x_at(n + 2u, batch.count, at), low, high),
                multiply(acc.r3, x_at(n + 3u, batch.count, at), low, high),
                multiply(acc.r4, x_at(n + 4u, batch.count, at), low, high),
                multiply(acc.r5, x_at(n + 5u, batch.count, at), low, high),
                multiply(acc.r6, x_at(n + 6u, batch.count, at), low, high),
                multiply(acc.r7, x_at(n + 7u, batch.count, at), low, high));
}

fn multiply_dy(acc: Tile, n: u32, at: u32, low: mat4x4f, high: mat4x4f) -> Tile {
    return Tile(multiply(acc.r0, dy_at(n, batch.count, at), low, high),
                multiply(acc.r1, dy_at(n + 1u, batch.count, at), low, high),
                multiply(acc.r2, dy_at(n + 2u, batch.count, at), low, high),
                multiply(acc.r3, dy_at(n + 3u, batch.count, at), low, high),
                multiply(acc.r4, dy_at(n + 4u, batch.count, at), low, high),
                multiply(acc.r5, dy_at(n + 5u, batch.count, at), low, high),
                multiply(acc.r6, dy_at(n + 6u, batch.count, at), low, high),
                multiply(acc.r7, dy_at(n + 7u, batch.count, at), low, high));
}

// Both gradients.
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let own = share(group, groups, groups_of(tiles(dims.outputs) * tiles(dims.inputs)));
    if own.first {
        weight_tile(own.at * WORKGROUP + local);
    } else {
        input_tile(own.at * WORKGROUP + local);
    }
}

// For the first layer, where nobody needs dx.
@compute @workgroup_size(WORKGROUP)
fn backward_weight(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    weight_tile(flat_thread(group, groups, local));
}

fn input_tile(at: u32) {
    let i = at % tiles(dims.inputs) * (TILE / 4u);
    let n = at / tiles(dims.inputs) * TILE;
    if n >= batch.count { return; }
    // The last vector may be alone.
    let high = min(i + 1u, dims.inputs / 4u - 1u);
    var acc = all(Row(vec4f(), vec4f()));
    for (var o = 0u; o < dims.stride / 4u; o++) {
        acc = multiply_dy(acc, n, o, w_rows(o * 4u, i), w_rows(o * 4u, high));
    }
    store_dx_tile(n, i, acc);
}

fn weight_tile(at: u32) {
    let i = at % tiles(dims.inputs) * (TILE / 4u);
    let o = at / tiles(dims.inputs) * TILE;
    if o >= dims.outputs { return; }
    var acc = all(Row(vec4f(), vec4f()));
    var sum = Row(vec4f(), vec4f());
    let own = place(i);
    let next = place(min(i + 1u, dims.inputs / 4u - 1u));
    for (var n = 0u; n < batch.count; n += 4u) {
        let x_low = x_rows(n, own);
        let x_high = x_rows(n, next);
        let low = dy_columns(n, o / 4u);
        let a = transpose(low);
        acc.r0 = multiply(acc.r0, a[0], x_low, x_high);
        acc.r1 = multiply(acc.r1, a[1], x_low, x_high);
        acc.r2 = multiply(acc.r2, a[2], x_low, x_high);
        acc.r3 = multiply(acc.r3, a[3], x_low, x_high);
        sum.low += low[0] + low[1] + low[2] + low[3];
        let high = dy_columns(n, min(o / 4u + 1u, dims.stride / 4u - 1u));
        let c = transpose(high);
        acc.r4 = multiply(acc.r4, c[0], x_low, x_high);
        acc.r5 = multiply(acc.r5, c[1], x_low, x_high);
        acc.r6 = multiply(acc.r6, c[2], x_low, x_high);
        acc.r7 = multiply(acc.r7, c[3], x_low, x_high);
        sum.high += high[0] + high[1] + high[2] + high[3];
    }
    store_dw_tile(o, i, acc);
    if i == 0u {
        store_db(o, sum.low);
        store_db(o + 4u, sum.high);
    }
}

// Four images' gradients of four outputs; zeros past the batch.
fn dy_columns(n: u32, at: u32) -> mat4x4f {
    return mat4x4f(dy_or_zero(n, at), dy_or_zero(n + 1u, at), dy_or_zero(n + 2u, at), dy_or_zero(n + 3u, at));
}
