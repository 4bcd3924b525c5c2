// Linear (common/linear_tiled.wgsl has the formulas), for devices whose subgroups are LANES wide: each lane loads rows
// of x or dy, and a shuffle hands them to all of them.
//
// Forward: a subgroup owns the sums of 16 images and 32 outputs over an eighth of the inputs, a lane four of these
// outputs. dx: 16 images and 64 inputs, a lane eight of these inputs. dw: 16 outputs and 64 inputs, a lane eight of
// these inputs.

const LANES = 8u;
const SPLITS = WORKGROUP / LANES;

fn parts_of(len: u32, size: u32) -> u32 { return (len + size - 1u) / size; }

// One vector of each lane.
fn rows_of(v: vec4f) -> Rows {
    return Rows(subgroupShuffle(v, 0u), subgroupShuffle(v, 1u), subgroupShuffle(v, 2u), subgroupShuffle(v, 3u),
                subgroupShuffle(v, 4u), subgroupShuffle(v, 5u), subgroupShuffle(v, 6u), subgroupShuffle(v, 7u));
}

fn combine_rows(acc: Rows, a: Rows, m: mat4x4f) -> Rows {
    return Rows(combine(acc.v0, a.v0, m), combine(acc.v1, a.v1, m), combine(acc.v2, a.v2, m), combine(acc.v3, a.v3, m),
                combine(acc.v4, a.v4, m), combine(acc.v5, a.v5, m), combine(acc.v6, a.v6, m), combine(acc.v7, a.v7, m));
}

fn no_rows() -> Rows { return Rows(vec4f(), vec4f(), vec4f(), vec4f(), vec4f(), vec4f(), vec4f(), vec4f()); }

// The subgroups of a workgroup split the inputs; then its threads own two vectors of the result each.
var<workgroup> parts: array<vec4f, WORKGROUP * 16u>;  // [image, split, lane]

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(subgroup_id) split: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let across = parts_of(dims.outputs, 4u * LANES);
    let at = flat_group(group, groups);
    let n = at / across * 16u;
    if n >= batch.count { return; }
    let o = at % across * 4u * LANES + lane * 4u;
    var acc0 = no_rows();
    var acc1 = no_rows();
    // A run of the inputs each, so that a line of the cache serves all of its vectors.
    let vectors = parts_of(dims.inputs / 4u, SPLITS);
    for (var i = split * vectors; i < min((split + 1u) * vectors, dims.inputs / 4u); i++) {
        let four = place(i);
        let x0 = x_at(n + lane, batch.count, four);
        let x1 = x_at(n + LANES + lane, batch.count, four);
        let m = transpose(w_rows(o, i));
        acc0 = combine_rows(acc0, rows_of(x0), m);
        acc1 = combine_rows(acc1, rows_of(x1), m);
    }
    let own = split * LANES + lane;
    store_parts(own, acc0);
    store_parts(own + LANES * WORKGROUP, acc1);
    workgroupBarrier();
    reduce(n, split, o, lane);
    reduce(n, split + SPLITS, o, lane);
}

fn store_parts(at: u32, v: Rows) {
    parts[at] = v.v0;
    parts[at + WORKGROUP] = v.v1;
    parts[at + 2u * WORKGROUP] = v.v2;
    parts[at + 3u * WORKGROUP] = v.v3;
    parts[at + 4u * WORKGROUP] = v.v4;
    parts[at + 5u * WORKGROUP] = v.v5;
    parts[at + 6u * WORKGROUP] = v.v6;
    parts[at + 7u * WORKGROUP] = v.v7;
}

fn reduce(n: u32, image: u32, o: u32, lane: u32) {
    if n + image >= batch.count { return; }
    var sum = bias(o);
    for (var split = 0u; split < SPLITS; split++) {
        sum += parts[image * WORKGROUP + split * LANES + lane];
    }
    store_y4(n + image, o, sum);
}

// Both gradients.
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let own = share(group, groups, groups_of(parts_of(dims.outputs, 16u) * parts_of(dims.inputs, 8u * LANES) * LANES));
    if own.first {
        weight_tile(own.at * SPLITS + subgroup, lane);
    } else {
        input_tile(own.at * SPLITS + subgroup, lane);
    }
}

// For the first layer, where nobody needs dx.
@compute @workgroup_size(WORKGROUP)
fn backward_weight(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    weight_tile(flat_group(group, groups) * SPLITS + subgroup, lane);
}

fn input_tile(at: u32, lane: u32) {
    let across = parts_of(dims.inputs, 8u * LANES);
    let i = at % across * 2u * LANES + lane * 2u;
    let n = at / across * 16u;
    if n >= batch.count { return; }
    let last = dims.inputs / 4u - 1u;
    var acc0 = all(Row(vec4f(), vec4f()));
    var acc1 = all(Row(vec4f(), vec4f()));
    for (var o = 0u; o < dims.stride / 4u; o++) {
        let dy0 = dy_at(n + lane, batch.count, o);
        let dy1 = dy_at(n + LANES + lane, batch.count, o);
        let low = w_rows(o * 4u, min(i, last));
        let high = w_rows(o * 4u, min(i + 1u, last));
        acc0 = multiply_tile(acc0, rows_of(dy0), low, high);
        acc1 = multiply_tile(acc1, rows_of(dy1), low, high);
    }
    if i > last { return; }
    store_dx_tile(n, i, acc0);
    store_dx_tile(n + 8u, i, acc1);
}

// Four images at a time; lane k loads the gradients of image k % 4, those of eight outputs: the first or the last of
// its tile's.
fn weight_tile(at: u32, lane: u32) {
    let across = parts_of(dims.inputs, 8u * LANES);
    let i = at % across * 2u * LANES + lane * 2u;
    let o = at / across * 16u;
    if o >= dims.outputs { return; }
    let last = dims.inputs / 4u - 1u;
    let last_dy = dims.stride / 4u - 1u;
    let own = o / 4u + lane / 4u * 2u;
    let four = place(min(i, last));
    let next = place(min(i + 1u, last));
    var acc0 = all(Row(vec4f(), vec4f()));
    var acc1 = all(Row(vec4f(), vec4f()));
    var sum0 = Row(vec4f(), vec4f());
    var sum1 = Row(vec4f(), vec4f());
    for (var n = 0u; n < batch.count; n += 4u) {
        let image = n + lane % 4u;
        let d = Row(dy_or_zero(image, min(own, last_dy)), dy_or_zero(image, min(own + 1u, last_dy)));
        let low = x_rows(n, four);
        let high = x_rows(n, next);
        let d0 = four_of(d, 0u);
        let d1 = four_of(d, 4u);
        acc0 = multiply_tile(acc0, by_output(d0), low, high);
        acc1 = multiply_tile(acc1, by_output(d1), low, high);
        sum0 = add_images(sum0, d0);
        sum1 = add_images(sum1, d1);
    }
    if i <= last {
        store_dw_tile(o, i, acc0);
        store_dw_tile(o + 8u, i, acc1);
    }
    if i == 0u {
        store_db(o, sum0.low);
        store_db(o + 4u, sum0.high);
        store_db(o + 8u, sum1.low);
        store_db(o + 12u, sum1.high);
    }
}

// What four lanes from `first` on have loaded: four images' gradients of eight outputs.
struct Four { low: mat4x4f, high: mat4x4f }

fn four_of(d: Row, first: u32) -> Four {
    return Four(mat4x4f(subgroupShuffle(d.low, first), subgroupShuffle(d.low, first + 1u),
                        subgroupShuffle(d.low, first + 2u), subgroupShuffle(d.low, first + 3u)),
                mat4x4f(subgroupShuffle(d.high, first), subgroupShuffle(d.high, first + 1u),
                        subgroupShuffle(d.high, first + 2u), subgroupShuffle(d.high, first + 3u)));
}

fn by_output(d: Four) -> Rows {
    let a = transpose(d.low);
    let c = transpose(d.high);
    return Rows(a[0], a[1], a[2], a[3], c[0], c[1], c[2], c[3]);
}

fn add_images(sum: Row, d: Four) -> Row {
    return Row(sum.low + d.low[0] + d.low[1] + d.low[2] + d.low[3], sum.high + d.high[0] + d.high[1] + d.high[2] + d.high[3]);
}
