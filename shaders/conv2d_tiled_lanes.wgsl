// Conv2d in register tiles (common/conv2d_tiled.wgsl has the formulas and the passes), for devices whose subgroups are
// LANES wide and take a workgroup's threads in their order. A software driver takes as long for a load as for a hundred
// multiply-adds, and hardly longer for a shuffle than for one: all lanes want the same taps, so each loads an eighth.
//
// A thread owns two blocks of channels of its tile; of the weight's gradient, two blocks of output channels, one of
// input channels and all nine taps.

const BLOCKS = 2u;
const LANES = 8u;

// What a lane has loaded of a row of taps: lane 2k has the first block's of input channel k, lane 2k + 1 the second's.
struct Fetched { w0: vec4f, w1: vec4f, w2: vec4f }

fn fetch(c: u32, p: u32, block: u32, lane: u32) -> Fetched {
    let count = paired(dims.c_out);
    let at = (c * 36u + lane % LANES / 2u * 9u + p * 3u) * count + block + lane % 2u;
    return Fetched(taps[at], taps[at + count], taps[at + 2u * count]);
}

fn fetch_point(c: u32, block: u32, lane: u32) -> vec4f {
    return taps[(c * 4u + lane % LANES / 2u) * paired(dims.c_out) + block + lane % 2u];
}

fn low_of(own: vec4f) -> mat4x4f {
    return mat4x4f(subgroupShuffle(own, 0u), subgroupShuffle(own, 2u), subgroupShuffle(own, 4u), subgroupShuffle(own, 6u));
}

fn high_of(own: vec4f) -> mat4x4f {
    return mat4x4f(subgroupShuffle(own, 1u), subgroupShuffle(own, 3u), subgroupShuffle(own, 5u), subgroupShuffle(own, 7u));
}

fn low(own: Fetched) -> Taps { return Taps(low_of(own.w0), low_of(own.w1), low_of(own.w2)); }
fn high(own: Fetched) -> Taps { return Taps(high_of(own.w0), high_of(own.w1), high_of(own.w2)); }

fn tap(own: vec4f, which: u32) -> mat4x4f {
    if which == 0u { return low_of(own); }
    return high_of(own);
}

fn convolve(s: Site, block: u32, lane: u32) -> Tile {
    var low_sums = no_sums();
    var high_sums = no_sums();
    let row = s.row - dims.padding_h;
    let column = s.column - dims.padding_w;
    for (var c = 0u; c < blocks(dims.c_in); c++) {
        let v0 = line(s.image, row, column, c);
        let v1 = line(s.image, row + 1u, column, c);
        let v2 = line(s.image, row + 2u, column, c);
        let v3 = line(s.image, row + 3u, column, c);
        let v4 = line(s.image, row + 4u, column, c);
        let v5 = line(s.image, row + 5u, column, c);
        let t0 = fetch(c, 0u, block, lane);
        let t1 = fetch(c, 1u, block, lane);
        let t2 = fetch(c, 2u, block, lane);
        low_sums = slide(low_sums, v0, v1, v2, v3, v4, v5, low(t0), low(t1), low(t2));
        high_sums = slide(high_sums, v0, v1, v2, v3, v4, v5, high(t0), high(t1), high(t2));
    }
    return Tile(low_sums, high_sums);
}

fn slide(acc: Sums, v0: Line, v1: Line, v2: Line, v3: Line, v4: Line, v5: Line, t0: Taps, t1: Taps, t2: Taps) -> Sums {
    return Sums(along(along(along(acc.r0, v0, t0), v1, t1), v2, t2), along(along(along(acc.r1, v1, t0), v2, t1), v3, t2),
                along(along(along(acc.r2, v2, t0), v3, t1), v4, t2), along(along(along(acc.r3, v3, t0), v4, t1), v5, t2));
}

// Nine taps of a pair of blocks.
struct Nine { p0: Taps, p1: Taps, p2: Taps }

fn correlate_nine(acc: Nine, upstream: vec4f, v0: Triple, v1: Triple, v2: Triple) -> Nine {
    return Nine(correlate(acc.p0, upstream, v0), correlate(acc.p1, upstream, v1), correlate(acc.p2, upstream, v2));
}

@compute @workgroup_size(WORKGROUP)
fn weight_rows(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
               @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    let count = dims.c_out / 4u;
    let pairs = (count + 1u) / 2u;
    let c = at % blocks(dims.c_in);
    let block = at / blocks(dims.c_in) % pairs * 2u;
    let second = min(block + 1u, count - 1u);
    let split = at / (blocks(dims.c_in) * pairs);
    if split >= dims.splits { return; }
    let rows = split_rows(split);
    var low_taps = Nine(no_taps(), no_taps(), no_taps());
    var high_taps = Nine(no_taps(), no_taps(), no_taps());
    var low_sum = vec4f();
    var high_sum = vec4f();
    for (var line = rows.x; line < rows.y; line++) {
        let image = line / dims.h_out;
        let row = line % dims.h_out * dims.stride - dims.padding_h;
        let before = 0u - dims.padding_w;
        let row0 = input_row(image, row, c);
        let row1 = input_row(image, row + 1u, c);
        let row2 = input_row(image, row + 2u, c);
        var v0 = first_columns(row0, before);
        var v1 = first_columns(row1, before);
        var v2 = first_columns(row2, before);
        for (var j = 0u; j < dims.w_out; j++) {
            let column = j * dims.stride - dims.padding_w;
            v0 = next_columns(v0, row0, column);
            v1 = next_columns(v1, row1, column);
            v2 = next_columns(v2, row2, column);
            let low_upstream = dz[(line * dims.w_out + j) * count + block];
            low_taps = correlate_nine(low_taps, low_upstream, v0, v1, v2);
            low_sum += low_upstream;
            let high_upstream = dz[(line * dims.w_out + j) * count + second];
            high_taps = correlate_nine(high_taps, high_upstream, v0, v1, v2);
            high_sum += high_upstream;
        }
    }
    store_taps(split, block, c, 0u, low_taps.p0);
    store_taps(split, block, c, 1u, low_taps.p1);
    store_taps(split, block, c, 2u, low_taps.p2);
    let start = split * stride_of_split() + dims.c_out * dims.c_in * 9u;
    if c == 0u { store_bias(start, block, low_sum); }
    if block + 1u >= count { return; }
    store_taps(split, block + 1u, c, 0u, high_taps.p0);
    store_taps(split, block + 1u, c, 1u, high_taps.p1);
    store_taps(split, block + 1u, c, 2u, high_taps.p2);
    if c == 0u { store_bias(start, block + 1u, high_sum); }
}
