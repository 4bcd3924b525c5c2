// Conv2d, ReLU and MaxPool2d as one operation (common/conv2d_pool.wgsl has the formulas), for devices whose subgroups are
// LANES wide: each lane loads one window, and a shuffle hands it to all of them.
//
// For y and dx, a subgroup owns LANES windows times LANES blocks of four channels, and a lane all of these windows times its
// block. For dw and db, it owns LANES blocks of four output channels times 4 (or 1) input channels times 9 taps.
// A software driver takes as long for a load as for a dozen multiply-adds, the same for all lanes or not, and hardly
// longer for a shuffle than for one.

const LANES = 8u;

// A patch that lane `source` has loaded.
fn patches_of(source: u32, p: Patches) -> Patches {
    return Patches(row_of(source, p.r0), row_of(source, p.r1), row_of(source, p.r2), row_of(source, p.r3));
}

fn row_of(source: u32, row: mat4x4f) -> mat4x4f {
    return mat4x4f(subgroupShuffle(row[0], source), subgroupShuffle(row[1], source),
                   subgroupShuffle(row[2], source), subgroupShuffle(row[3], source));
}

fn patch_of(source: u32, p: Patch) -> Patch {
    return Patch(subgroupShuffle(p.r0, source), subgroupShuffle(p.r1, source),
                 subgroupShuffle(p.r2, source), subgroupShuffle(p.r3, source));
}

// The windows of a tile, for a lane's block.
struct Accumulators { a: Window, b: Window, c: Window, d: Window, e: Window, f: Window, g: Window, h: Window }

fn all(v: Window) -> Accumulators { return Accumulators(v, v, v, v, v, v, v, v); }

struct Tile { first: u32, block: u32, count: u32, some: bool }

fn tile(subgroup: u32, lane: u32, channels: u32, windows: u32) -> Tile {
    let count = blocks(channels);
    let groups = (count + LANES - 1u) / LANES;
    let first = subgroup / groups * LANES;
    return Tile(first, subgroup % groups * LANES + lane, count, first < batch.count * windows);
}

fn convolve_tile(acc: Accumulators, mine: Patches, c: u32, count: u32, block: u32) -> Accumulators {
    let w0 = load_taps(c, count, block);
    let w1 = load_taps(c + 1u, count, block);
    let w2 = load_taps(c + 2u, count, block);
    let w3 = load_taps(c + 3u, count, block);
    return Accumulators(
        convolve4(acc.a, patches_of(0u, mine), w0, w1, w2, w3), convolve4(acc.b, patches_of(1u, mine), w0, w1, w2, w3),
        convolve4(acc.c, patches_of(2u, mine), w0, w1, w2, w3), convolve4(acc.d, patches_of(3u, mine), w0, w1, w2, w3),
        convolve4(acc.e, patches_of(4u, mine), w0, w1, w2, w3), convolve4(acc.f, patches_of(5u, mine), w0, w1, w2, w3),
        convolve4(acc.g, patches_of(6u, mine), w0, w1, w2, w3), convolve4(acc.h, patches_of(7u, mine), w0, w1, w2, w3),
    );
}

fn convolve_tile1(acc: Accumulators, mine: Patch, w: Taps) -> Accumulators {
    return Accumulators(
        convolve(acc.a, patch_of(0u, mine), w), convolve(acc.b, patch_of(1u, mine), w),
        convolve(acc.c, patch_of(2u, mine), w), convolve(acc.d, patch_of(3u, mine), w),
        convolve(acc.e, patch_of(4u, mine), w), convolve(acc.f, patch_of(5u, mine), w),
        convolve(acc.g, patch_of(6u, mine), w), convolve(acc.h, patch_of(7u, mine), w),
    );
}

fn pool_tile(t: Tile, acc: Accumulators) {
    pool(t.first, t.block, acc.a);
    pool(t.first + 1u, t.block, acc.b);
    pool(t.first + 2u, t.block, acc.c);
    pool(t.first + 3u, t.block, acc.d);
    pool(t.first + 4u, t.block, acc.e);
    pool(t.first + 5u, t.block, acc.f);
    pool(t.first + 6u, t.block, acc.g);
    pool(t.first + 7u, t.block, acc.h);
}

// From channels last.
@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let windows = dims.h_out * dims.w_out;
    let t = tile(flat_group(group, groups) * (WORKGROUP / LANES) + subgroup, lane, dims.c_out, windows);
    if !t.some { return; }
    let site = site_last(min(t.first + lane, batch.count * windows - 1u));
    let block = min(t.block, t.count - 1u);
    var acc = all(bias(t.block));
    for (var c = 0u; c < dims.c_in / 4u; c++) {
        acc = convolve_tile(acc, load4_patch(site, c), c * 4u, t.count, block);
    }
    pool_tile(t, acc);
}

// From any strides, channel by channel.
@compute @workgroup_size(WORKGROUP)
fn forward_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let windows = dims.h_out * dims.w_out;
    let t = tile(flat_group(group, groups) * (WORKGROUP / LANES) + subgroup, lane, dims.c_out, windows);
    if !t.some { return; }
    let site = site_planes(min(t.first + lane, batch.count * windows - 1u));
    let block = min(t.block, t.count - 1u);
    var acc = all(bias(t.block));
    for (var c = 0u; c < dims.c_in; c++) {
        acc = convolve_tile1(acc, load_patch(site, c), load_taps(c, t.count, block));
    }
    pool_tile(t, acc);
}

// The first layer, from the data set's bytes.
@compute @workgroup_size(WORKGROUP)
fn forward_bytes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let windows = dims.h_out * dims.w_out;
    let t = tile(flat_group(group, groups) * (WORKGROUP / LANES) + subgroup, lane, dims.c_out, windows);
    if !t.some { return; }
    let site = pixels(min(t.first + lane, batch.count * windows - 1u));
    let block = min(t.block, t.count - 1u);
    var acc = all(bias(t.block));
    for (var c = 0u; c < dims.c_in; c++) {
        acc = convolve_tile1(acc, load_pixels(site, c), load_taps(c, t.count, block));
    }
    pool_tile(t, acc);
}

// Both gradients of a block that is not the first layer: the first workgroups own parts of the weight's.
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let at = flat_group(group, groups);
    let of_weight = groups_of(dims.splits * (dims.c_in / 4u) * lane_groups(dims.c_out / 4u) * LANES);
    if at < of_weight {
        weight_part(at * (WORKGROUP / LANES) + subgroup, lane);
    } else {
        input_tile((at - of_weight) * (WORKGROUP / LANES) + subgroup, lane);
    }
}

// The same for any strides.
@compute @workgroup_size(WORKGROUP)
fn backward_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    let at = flat_group(group, groups);
    let of_weight = groups_of(dims.splits * dims.c_in * lane_groups(dims.c_out / 4u) * LANES);
    if at < of_weight {
        weight_part_planes(at * (WORKGROUP / LANES) + subgroup, lane);
    } else {
        input_tile((at - of_weight) * (WORKGROUP / LANES) + subgroup, lane);
    }
}

// For the first layer, where nobody needs dx.
@compute @workgroup_size(WORKGROUP)
fn backward_weight_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                          @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    weight_part_planes(flat_group(group, groups) * (WORKGROUP / LANES) + subgroup, lane);
}

@compute @workgroup_size(WORKGROUP)
fn backward_weight_bytes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                         @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
    weight_part_bytes(flat_group(group, groups) * (WORKGROUP / LANES) + subgroup, lane);
}

fn lane_groups(blocks: u32) -> u32 { return (blocks + LANES - 1u) / LANES; }

// dx for a padding of 1. Its positions are owned in 2x2 windows too; an odd row or column has a window of its own.
fn input_tile(subgroup: u32, lane: u32) {
    let plane = vec2u(dims.h_in + 1u, dims.w_in + 1u) / 2u;
    let t = tile(subgroup, lane, dims.c_in, plane.x * plane.y);
    if !t.some { return; }
    let site = around(min(t.first + lane, batch.count * plane.x * plane.y - 1u), plane);
    let block = min(t.block, t.count - 1u);
    var acc = all(Window(vec4f(), vec4f(), vec4f(), vec4f()));
    for (var o = 0u; o < dims.c_out / 4u; o++) {
        acc = convolve_tile(acc, load_gradient(site, o), o * 4u, t.count, block);
    }
    store_window(t.first, plane, t.block, acc.a);
    store_window(t.first + 1u, plane, t.block, acc.b);
    store_window(t.first + 2u, plane, t.block, acc.c);
    store_window(t.first + 3u, plane, t.block, acc.d);
    store_window(t.first + 4u, plane, t.block, acc.e);
    store_window(t.first + 5u, plane, t.block, acc.f);
    store_window(t.first + 6u, plane, t.block, acc.g);
    store_window(t.first + 7u, plane, t.block, acc.h);
}

// Partial sums of dw and db over one split, from channels last. A lane owns a block of output channels.
fn weight_part(subgroup: u32, lane: u32) {
    let count_in = dims.c_in / 4u;
    let count_out = dims.c_out / 4u;
    let c = subgroup % count_in;
    let o = subgroup / count_in % lane_groups(count_out) * LANES + lane;
    let split = subgroup / (count_in * lane_groups(count_out));
    if split >= dims.splits { return; }
    let block = min(o, count_out - 1u);
    let range = split_windows(split);
    var a0 = no_taps();
    var a1 = no_taps();
    var a2 = no_taps();
    var a3 = no_taps();
    var sum = vec4f();
    for (var first = range.x; first < range.y; first += LANES) {
        let mine = load4_patch(site_last(min(first + lane, range.y - 1u)), c);
        for (var i = 0u; i < min(LANES, range.y - first); i++) {
            let p = patches_of(i, mine);
            let v = load_window((first + i) * count_out, block);
            a0 = correlate(a0, v, Patch(p.r0[0], p.r1[0], p.r2[0], p.r3[0]));
            a1 = correlate(a1, v, Patch(p.r0[1], p.r1[1], p.r2[1], p.r3[1]));
            a2 = correlate(a2, v, Patch(p.r0[2], p.r1[2], p.r2[2], p.r3[2]));
            a3 = correlate(a3, v, Patch(p.r0[3], p.r1[3], p.r2[3], p.r3[3]));
            sum += v.v00 + v.v01 + v.v10 + v.v11;
        }
    }
    if o >= count_out { return; }
    store_taps(split, o * 4u, c * 4u, a0);
    store_taps(split, o * 4u, c * 4u + 1u, a1);
    store_taps(split, o * 4u, c * 4u + 2u, a2);
    store_taps(split, o * 4u, c * 4u + 3u, a3);
    if c == 0u { store_bias(split, o * 4u, sum); }
}

// The same from any strides; the subgroup owns one input channel.
fn weight_part_planes(subgroup: u32, lane: u32) {
    let count_out = dims.c_out / 4u;
    let c = subgroup % dims.c_in;
    let o = subgroup / dims.c_in % lane_groups(count_out) * LANES + lane;
    let split = subgroup / (dims.c_in * lane_groups(count_out));
    if split >= dims.splits { return; }
    let block = min(o, count_out - 1u);
    let range = split_windows(split);
    var acc = no_taps();
    var sum = vec4f();
    for (var first = range.x; first < range.y; first += LANES) {
        let mine = load_patch(site_planes(min(first + lane, range.y - 1u)), c);
        for (var i = 0u; i < min(LANES, range.y - first); i++) {
            let v = load_window((first + i) * count_out, block);
            acc = correlate(acc, v, patch_of(i, mine));
            sum += v.v00 + v.v01 + v.v10 + v.v11;
        }
    }
    if o >= count_out { return; }
    store_taps(split, o * 4u, c, acc);
    if c == 0u { store_bias(split, o * 4u, sum); }
}

// The same from bytes.
fn weight_part_bytes(subgroup: u32, lane: u32) {
    let count_out = dims.c_out / 4u;
    let c = subgroup % dims.c_in;
    let o = subgroup / dims.c_in % lane_groups(count_out) * LANES + lane;
    let split = subgroup / (dims.c_in * lane_groups(count_out));
    if split >= dims.splits { return; }
    let block = min(o, count_out - 1u);
    let range = split_windows(split);
    var acc = no_taps();
    var sum = vec4f();
    for (var first = range.x; first < range.y; first += LANES) {
        let mine = load_pixels(pixels(min(first + lane, range.y - 1u)), c);
        for (var i = 0u; i < min(LANES, range.y - first); i++) {
            let v = load_window((first + i) * count_out, block);
            acc = correlate(acc, v, patch_of(i, mine));
            sum += v.v00 + v.v01 + v.v10 + v.v11;
        }
    }
    if o >= count_out { return; }
    store_taps(split, o * 4u, c, acc);
    if c == 0u { store_bias(split, o * 4u, sum); }
}
