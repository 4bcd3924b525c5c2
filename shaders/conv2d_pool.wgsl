// Conv2d, ReLU and MaxPool2d as one operation (common/conv2d_pool.wgsl has the formulas), in register tiles without
// barriers.
//
// For y and dx, a thread owns WINDOWS windows (2x2 positions each) times 8
// channels: for one channel it reads a window's 4x4 patch once and uses every element of it in up to nine taps.
// For dw and db, it owns 4 output channels times 4 (or 1) input channels times 9 taps, over the rows of windows of one
// split.

const WINDOWS = 4u;

// What a thread owns of y or dx: windows `first` to `first + 3`, and blocks `block` and `block + 1`.
struct Tile { first: u32, block: u32, count: u32, some: bool }

// `channels` are those that are computed; `windows` are one image's.
fn tile(thread: u32, channels: u32, windows: u32) -> Tile {
    let count = blocks(channels);
    let first = thread / (count / 2u) * WINDOWS;
    return Tile(first, thread % (count / 2u) * 2u, count, first < batch.count * windows);
}

// The windows of a tile, for one block.
struct Accumulators { a: Window, b: Window, c: Window, d: Window }

// The weight in the order in which forward reads it: one vec4 for four output channels, zeros past the last.
@compute @workgroup_size(WORKGROUP)
fn pack(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let count = blocks(dims.c_out);
    if at >= dims.c_in * 9u * count { return; }
    let o = at % count * 4u;
    let tap = at / count;  // c * 9 + tap
    packed[at] = vec4f(weight(o, tap), weight(o + 1u, tap), weight(o + 2u, tap), weight(o + 3u, tap));
}

// The same for dx: four input channels, and the taps in reverse.
@compute @workgroup_size(WORKGROUP)
fn pack_back(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let count = blocks(dims.c_in);
    if at >= dims.c_out * 9u * count { return; }
    let c = at % count * 4u;
    let tap = at / count % 9u;
    let o = at / (count * 9u);
    packed_back[at] = vec4f(weight_back(o, c, tap), weight_back(o, c + 1u, tap),
                            weight_back(o, c + 2u, tap), weight_back(o, c + 3u, tap));
}

// From channels last.
@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let windows = dims.h_out * dims.w_out;
    let t = tile(flat_thread(group, groups, local), dims.c_out, windows);
    if !t.some { return; }
    let last = batch.count * windows - 1u;
    let site0 = site_last(t.first);
    let site1 = site_last(min(t.first + 1u, last));
    let site2 = site_last(min(t.first + 2u, last));
    let site3 = site_last(min(t.first + 3u, last));

    let low_bias = bias(t.block);
    let high_bias = bias(t.block + 1u);
    var low = Accumulators(low_bias, low_bias, low_bias, low_bias);
    var high = Accumulators(high_bias, high_bias, high_bias, high_bias);
    for (var block = 0u; block < dims.c_in / 4u; block++) {
        let x0 = load4_patch(site0, block);
        let x1 = load4_patch(site1, block);
        let x2 = load4_patch(site2, block);
        let x3 = load4_patch(site3, block);
        low = convolve_tile(low, x0, x1, x2, x3, block * 4u, t.count, t.block);
        high = convolve_tile(high, x0, x1, x2, x3, block * 4u, t.count, t.block + 1u);
    }
    pool_tile(t, low, high);
}

fn convolve_tile(acc: Accumulators, x0: Patches, x1: Patches, x2: Patches, x3: Patches,
                 c: u32, count: u32, block: u32) -> Accumulators {
    let w0 = load_taps(c, count, block);
    let w1 = load_taps(c + 1u, count, block);
    let w2 = load_taps(c + 2u, count, block);
    let w3 = load_taps(c + 3u, count, block);
    return Accumulators(convolve4(acc.a, x0, w0, w1, w2, w3), convolve4(acc.b, x1, w0, w1, w2, w3),
                        convolve4(acc.c, x2, w0, w1, w2, w3), convolve4(acc.d, x3, w0, w1, w2, w3));
}

fn pool_tile(t: Tile, low: Accumulators, high: Accumulators) {
    let image0 = image_of(t.first);
    let image1 = image_after(image0, t.first + 1u);
    let image2 = image_after(image1, t.first + 2u);
    let image3 = image_after(image2, t.first + 3u);
    pool(t.first, image0, t.block, low.a);
    pool(t.first + 1u, image1, t.block, low.b);
    pool(t.first + 2u, image2, t.block, low.c);
    pool(t.first + 3u, image3, t.block, low.d);
    pool(t.first, image0, t.block + 1u, high.a);
    pool(t.first + 1u, image1, t.block + 1u, high.b);
    pool(t.first + 2u, image2, t.block + 1u, high.c);
    pool(t.first + 3u, image3, t.block + 1u, high.d);
}

// From any strides, channel by channel.
@compute @workgroup_size(WORKGROUP)
fn forward_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) local: u32) {
    let windows = dims.h_out * dims.w_out;
    let t = tile(flat_thread(group, groups, local), dims.c_out, windows);
    if !t.some { return; }
    let last = batch.count * windows - 1u;
    let site0 = site_planes(t.first);
    let site1 = site_planes(min(t.first + 1u, last));
    let site2 = site_planes(min(t.first + 2u, last));
    let site3 = site_planes(min(t.first + 3u, last));

    let low_bias = bias(t.block);
    let high_bias = bias(t.block + 1u);
    var low = Accumulators(low_bias, low_bias, low_bias, low_bias);
    var high = Accumulators(high_bias, high_bias, high_bias, high_bias);
    for (var c = 0u; c < dims.c_in; c++) {
        let x0 = load_patch(site0, c);
        let x1 = load_patch(site1, c);
        let x2 = load_patch(site2, c);
        let x3 = load_patch(site3, c);
        let w_low = load_taps(c, t.count, t.block);
        low = Accumulators(convolve(low.a, x0, w_low), convolve(low.b, x1, w_low),
                           convolve(low.c, x2, w_low), convolve(low.d, x3, w_low));
        let w_high = load_taps(c, t.count, t.block + 1u);
        high = Accumulators(convolve(high.a, x0, w_high), convolve(high.b, x1, w_high),
                            convolve(high.c, x2, w_high), convolve(high.d, x3, w_high));
    }
    pool_tile(t, low, high);
}

// The first layer, from the data set's bytes.
@compute @workgroup_size(WORKGROUP)
fn forward_bytes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) local: u32) {
    let windows = dims.h_out * dims.w_out;
    let t = tile(flat_thread(group, groups, local), dims.c_out, windows);
    if !t.some { return; }
    let last = batch.count * windows - 1u;
    let site0 = pixels(t.first);
    let site1 = pixels(min(t.first + 1u, last));
    let site2 = pixels(min(t.first + 2u, last));
    let site3 = pixels(min(t.first + 3u, last));

    let low_bias = bias(t.block);
    let high_bias = bias(t.block + 1u);
    var low = Accumulators(low_bias, low_bias, low_bias, low_bias);
    var high = Accumulators(high_bias, high_bias, high_bias, high_bias);
    for (var c = 0u; c < dims.c_in; c++) {
        let x0 = load_pixels(site0, c);
        let x1 = load_pixels(site1, c);
        let x2 = load_pixels(site2, c);
        let x3 = load_pixels(site3, c);
        let w_low = load_taps(c, t.count, t.block);
        low = Accumulators(convolve(low.a, x0, w_low), convolve(low.b, x1, w_low),
                           convolve(low.c, x2, w_low), convolve(low.d, x3, w_low));
        let w_high = load_taps(c, t.count, t.block + 1u);
        high = Accumulators(convolve(high.a, x0, w_high), convolve(high.b, x1, w_high),
                            convolve(high.c, x2, w_high), convolve(high.d, x3, w_high));
    }
    pool_tile(t, low, high);
}

// Both gradients of a block that is not the first layer.
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let own = share(group, groups, groups_of(dims.splits * (dims.c_in / 4u) * (dims.c_out / 4u)));
    if own.first {
        weight_part(own.at * WORKGROUP + local);
    } else {
        input_tile(own.at * WORKGROUP + local);
    }
}

// The same for any strides.
@compute @workgroup_size(WORKGROUP)
fn backward_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    let own = share(group, groups, groups_of(dims.splits * dims.c_in * (dims.c_out / 4u)));
    if own.first {
        weight_part_planes(own.at * WORKGROUP + local);
    } else {
        input_tile(own.at * WORKGROUP + local);
    }
}

// dx for a padding of 1. Its positions are owned in 2x2 windows too; an odd row or column has a window of its own.
fn input_tile(thread: u32) {
    let plane = vec2u(dims.h_in + 1u, dims.w_in + 1u) / 2u;
    let t = tile(thread, dims.c_in, plane.x * plane.y);
    if !t.some { return; }
    let last = batch.count * plane.x * plane.y - 1u;
    let site0 = around(t.first, plane);
    let site1 = around(min(t.first + 1u, last), plane);
    let site2 = around(min(t.first + 2u, last), plane);
    let site3 = around(min(t.first + 3u, last), plane);
    let zero = Window(vec4f(), vec4f(), vec4f(), vec4f());
    var low = Accumulators(zero, zero, zero, zero);
    var high = Accumulators(zero, zero, zero, zero);
    for (var block = 0u; block < dims.c_out / 4u; block++) {
        let v0 = load_gradient(site0, block);
        let v1 = load_gradient(site1, block);
        let v2 = load_gradient(site2, block);
        let v3 = load_gradient(site3, block);
        low = convolve_tile(low, v0, v1, v2, v3, block * 4u, t.count, t.block);
        high = convolve_tile(high, v0, v1, v2, v3, block * 4u, t.count, t.block + 1u);
    }
    store_window(t.first, plane, t.block, low.a);
    store_window(t.first + 1u, plane, t.block, low.b);
    store_window(t.first + 2u, plane, t.block, low.c);
    store_window(t.first + 3u, plane, t.block, low.d);
    store_window(t.first, plane, t.block + 1u, high.a);
    store_window(t.first + 1u, plane, t.block + 1u, high.b);
    store_window(t.first + 2u, plane, t.block + 1u, high.c);
    store_window(t.first + 3u, plane, t.block + 1u, high.d);
}

// dy with its channels last, for a layer above that gave it plane by plane.
@compute @workgroup_size(WORKGROUP)
fn channels_last(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let windows = dims.h_out * dims.w_out;
    if at >= batch.count * windows * dims.c_out { return; }
    let image = at / (windows * dims.c_out);
    let o = at % dims.c_out;
    dy_last[at] = dy_planes[(image * dims.c_out + o) * windows + at / dims.c_out % windows];
}

// Partial sums of dw and db over one split, from channels last.
fn weight_part(at: u32) {
    let count_in = dims.c_in / 4u;
    let count_out = dims.c_out / 4u;
    let c = at % count_in;
    let o = at / count_in % count_out;
    let split = at / (count_in * count_out);
    if split >= dims.splits { return; }
    let range = split_windows(split);
    var a0 = no_taps();
    var a1 = no_taps();
    var a2 = no_taps();
    var a3 = no_taps();
    var sum = vec4f();
    for (var window = range.x; window < range.y; window++) {
        let v = load_window(window * count_out, o);
        let p = load4_patch(site_last(window), c);
        a0 = correlate(a0, v, Patch(p.r0[0], p.r1[0], p.r2[0], p.r3[0]));
        a1 = correlate(a1, v, Patch(p.r0[1], p.r1[1], p.r2[1], p.r3[1]));
        a2 = correlate(a2, v, Patch(p.r0[2], p.r1[2], p.r2[2], p.r3[2]));
        a3 = correlate(a3, v, Patch(p.r0[3], p.r1[3], p.r2[3], p.r3[3]));
        sum += v.v00 + v.v01 + v.v10 + v.v11;
    }
    store_taps(split, o * 4u, c * 4u, a0);
    store_taps(split, o * 4u, c * 4u + 1u, a1);
    store_taps(split, o * 4u, c * 4u + 2u, a2);
    store_taps(split, o * 4u, c * 4u + 3u, a3);
    if c == 0u { store_bias(split, o * 4u, sum); }
}

// The same from any strides; the thread owns one input channel.
fn weight_part_planes(at: u32) {
    let count_out = dims.c_out / 4u;
    let c = at % dims.c_in;
    let o = at / dims.c_in % count_out;
    let split = at / (dims.c_in * count_out);
    if split >= dims.splits { return; }
    let range = split_windows(split);
    var acc = no_taps();
    var sum = vec4f();
    for (var window = range.x; window < range.y; window++) {
        let v = load_window(window * count_out, o);
        acc = correlate(acc, v, load_patch(site_planes(window), c));
        sum += v.v00 + v.v01 + v.v10 + v.v11;
    }
    store_taps(split, o * 4u, c, acc);
    if c == 0u { store_bias(split, o * 4u, sum); }
}

// The same from bytes.
fn weight_part_bytes(at: u32) {
    let count_out = dims.c_out / 4u;
    let c = at % dims.c_in;
    let o = at / dims.c_in % count_out;
    let split = at / (dims.c_in * count_out);
    if split >= dims.splits { return; }
    let range = split_windows(split);
    var acc = no_taps();
    var sum = vec4f();
    for (var window = range.x; window < range.y; window++) {
        let v = load_window(window * count_out, o);
        acc = correlate(acc, v, load_pixels(pixels(window), c));
        sum += v.v00 + v.v01 + v.v10 + v.v11;
    }
    store_taps(split, o * 4u, c, acc);
    if c == 0u { store_bias(split, o * 4u, sum); }
}

// For the first layer, where nobody needs dx.
@compute @workgroup_size(WORKGROUP)
fn backward_weight_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                          @builtin(local_invocation_index) local: u32) {
    weight_part_planes(flat_thread(group, groups, local));
}

@compute @workgroup_size(WORKGROUP)
fn backward_weight_bytes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                         @builtin(local_invocation_index) local: u32) {
    weight_part_bytes(flat_thread(group, groups, local));
}
