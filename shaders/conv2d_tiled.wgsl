// Conv2d in register tiles (common/conv2d_tiled.wgsl has the formulas and the passes), every thread on its own. All
// threads of a workgroup want the same taps at the same time: hardware has them once, in registers that they share.
//
// A thread owns one block of channels of its tile, 64 sums; of the weight's gradient, a block of output channels, one
// of input channels and a row of taps: 48.

const BLOCKS = 1u;

alias Fetched = Taps;

// A row of taps, of input channels 4c to 4c+3.
fn fetch(c: u32, p: u32, block: u32, lane: u32) -> Fetched {
    let count = paired(dims.c_out);
    let at = (c * 36u + p * 3u) * count + block;
    return Taps(taps_at(at, 9u * count), taps_at(at + count, 9u * count), taps_at(at + 2u * count, 9u * count));
}

fn fetch_point(c: u32, block: u32, lane: u32) -> mat4x4f {
    let count = paired(dims.c_out);
    return taps_at(c * 4u * count + block, count);
}

fn taps_at(at: u32, step: u32) -> mat4x4f {
    return mat4x4f(taps[at], taps[at + step], taps[at + 2u * step], taps[at + 3u * step]);
}

fn low(own: Fetched) -> Taps { return own; }
fn high(own: Fetched) -> Taps { return own; }
fn tap(own: mat4x4f, which: u32) -> mat4x4f { return own; }

fn convolve(s: Site, block: u32, lane: u32) -> Tile {
    var acc = no_sums();
    let row = s.row - dims.padding_h;
    let column = s.column - dims.padding_w;
    for (var c = 0u; c < blocks(dims.c_in); c++) {
        for (var p = 0u; p < 3u; p++) {
            let t = fetch(c, p, block, lane);
            acc.r0 = along(acc.r0, line(s.image, row + p, column, c), t);
            acc.r1 = along(acc.r1, line(s.image, row + p + 1u, column, c), t);
            acc.r2 = along(acc.r2, line(s.image, row + p + 2u, column, c), t);
            acc.r3 = along(acc.r3, line(s.image, row + p + 3u, column, c), t);
        }
    }
    return Tile(acc, no_sums());
}

@compute @workgroup_size(WORKGROUP)
fn weight_rows(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let c = at % blocks(dims.c_in);
    let p = at / blocks(dims.c_in) % 3u;
    let count = dims.c_out / 4u;
    let block = at / (blocks(dims.c_in) * 3u) % count;
    let split = at / (blocks(dims.c_in) * 3u * count);
    if split >= dims.splits { return; }
    let rows = split_rows(split);
    var acc = no_taps();
    var sum = vec4f();
    for (var line = rows.x; line < rows.y; line++) {
        let image = line / dims.h_out;
        let row = input_row(image, line % dims.h_out * dims.stride + p - dims.padding_h, c);
        var v = first_columns(row, 0u - dims.padding_w);
        var j = 0u;
        var at_dz = line * dims.w_out * count + block;
        if dims.stride == 1u {
            // Four positions at a time: their loads are on the way together.
            for (; j + 4u <= dims.w_out; j += 4u) {
                let column = j - dims.padding_w;
                let x0 = load_column(row, column + 2u);
                let x1 = load_column(row, column + 3u);
                let x2 = load_column(row, column + 4u);
                let x3 = load_column(row, column + 5u);
                let d0 = dz[at_dz];
                let d1 = dz[at_dz + count];
                let d2 = dz[at_dz + 2u * count];
                let d3 = dz[at_dz + 3u * count];
                acc = correlate(acc, d0, Triple(v.b, v.c, x0));
                acc = correlate(acc, d1, Triple(v.c, x0, x1));
                acc = correlate(acc, d2, Triple(x0, x1, x2));
                acc = correlate(acc, d3, Triple(x1, x2, x3));
                sum = sum + d0 + d1 + d2 + d3;
                v = Triple(x1, x2, x3);
                at_dz += 4u * count;
            }
        }
        for (; j < dims.w_out; j++) {
            v = next_columns(v, row, j * dims.stride - dims.padding_w);
            acc = correlate(acc, dz[at_dz], v);
            sum += dz[at_dz];
            at_dz += count;
        }
    }
    store_taps(split, block, c, p, acc);
    if c == 0u && p == 0u { store_bias(split * stride_of_split() + dims.c_out * dims.c_in * 9u, block, sum); }
}

// The weight in the order in which forward reads it: one vector for four output channels, zeros past the last.
@compute @workgroup_size(WORKGROUP)
fn pack(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
        @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let count = paired(dims.c_out);
    if at >= blocks(dims.c_in) * 4u * dims.split * count { return; }
    let o = at % count * 4u;
    let tap = at / count % dims.split;
    let c = at / (count * dims.split);
    packed[at] = vec4f(weight(o, c, tap), weight(o + 1u, c, tap), weight(o + 2u, c, tap), weight(o + 3u, c, tap));
}

// The same for dx: four input channels, and the taps in reverse.
@compute @workgroup_size(WORKGROUP)
fn pack_back(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let count = paired(dims.c_in);
    if at >= dims.c_out * dims.split * count { return; }
    let c = at % count * 4u;
    let tap = dims.split - 1u - at / count % dims.split;
    let o = at / (count * dims.split);
    packed_back[at] = vec4f(weight(o, c, tap), weight(o, c + 1u, tap), weight(o, c + 2u, tap), weight(o, c + 3u, tap));
}

// The packing has the number of taps in place of a split.
fn weight(o: u32, c: u32, tap: u32) -> f32 {
    let inside = (o < dims.c_out) & (c < dims.c_in);
    return select(0.0, w[select(0u, (o * dims.c_in + c) * dims.split + tap, inside)], inside);
}
