// Partial sums of dw and db in register tiles: a thread owns 4 output channels times 4 (or 1) input channels times 9 taps, over
// the rows of windows of one split.

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
