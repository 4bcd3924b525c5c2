// Conv2d, ReLU and MaxPool2d as one operation (common/conv2d_pool.wgsl has the formulas), for hardware GPUs: what
// several threads need is loaded once, into the workgroup's memory.
//
// For y and dx, a workgroup owns some windows (16 or 32) times some pairs of blocks of four channels (8 or 4), and a
// thread two windows times one pair: 64 sums. Patches and weights of four channels lie in `tile` at a time: 13 KiB. For
// dw and db, it owns 8 blocks of output channels times 8 input channels times 9 taps of one split, and a thread one
// block times one input channel. Windows are taken eight at a time. In a first layer, which has few input channels,
// eight threads share a block and one input channel: each takes every eighth window, and their sums are added at the
// end.
//
// Sums of y and dx are taken in the same order as in registers.

var<workgroup> tile: array<vec4f, 832>;

// How a workgroup is divided: so many pairs of blocks, so many windows.
fn pairs_of(count: u32) -> u32 { return select(8u, 4u, count <= 8u); }
fn windows_of(pairs: u32) -> u32 { return 2u * WORKGROUP / pairs; }

// What a workgroup owns. Nothing of it is a thread's own: a barrier must be reached by all threads or none, and a
// compiler of WGSL sees that of a struct only if it holds of all of its fields.
struct Area {
    count: u32,   // blocks that there are
    pairs: u32,   // of the workgroup
    width: u32,   // windows of the workgroup
    first: u32,   // its first window
    base: u32,    // its first block
}

fn area(at: u32, channels: u32) -> Area {
    let count = blocks(channels);
    let pairs = pairs_of(count);
    let width = windows_of(pairs);
    let groups = (count + 2u * pairs - 1u) / (2u * pairs);
    return Area(count, pairs, width, at / groups * width, at % groups * 2u * pairs);
}

// What a thread owns of it: two blocks, and two windows by their number within the area.
struct Own { block: u32, slot: u32 }

fn own(a: Area, local: u32) -> Own { return Own(a.base + local % a.pairs * 2u, local / a.pairs * 2u); }

// The sums of two windows, for two blocks.
struct Sums { low0: Window, low1: Window, high0: Window, high1: Window }

// Patches are in `tile` as [channel, row, window], weights behind them as [channel, tap, block].
fn patch_row(a: Area, channel: u32, row: u32, window: u32) -> vec4f {
    return tile[(channel * 4u + row) * a.width + window];
}

// A row of taps.
struct Three { left: vec4f, middle: vec4f, right: vec4f }

fn taps_row(a: Area, channels: u32, channel: u32, row: u32, block: u32) -> Three {
    let step = 2u * a.pairs;
    let at = channels * 4u * a.width + (channel * 9u + row * 3u) * step + block - a.base;
    return Three(tile[at], tile[at + step], tile[at + 2u * step]);
}

// acc + what two rows of a patch give through a row of taps, in the order of `convolve`.
fn convolve_row(acc: Window, upper: vec4f, lower: vec4f, w: Three) -> Window {
    return Window(across(acc.v00, upper.xyz, w), across(acc.v01, upper.yzw, w),
                  across(acc.v10, lower.xyz, w), across(acc.v11, lower.yzw, w));
}

fn across(acc: vec4f, x: vec3f, w: Three) -> vec4f {
    return fma(w.right, vec4f(x.z), fma(w.middle, vec4f(x.y), fma(w.left, vec4f(x.x), acc)));
}

// One row of one window's patches of four channels.
fn keep_rows(a: Area, task: u32, rows: mat4x4f) {
    let at = task % 4u * a.width + task / 4u;
    tile[at] = rows[0];
    tile[at + 4u * a.width] = rows[1];
    tile[at + 8u * a.width] = rows[2];
    tile[at + 12u * a.width] = rows[3];
}

// The weights of `channels` channels from `c` on.
fn keep_taps(a: Area, local: u32, c: u32, channels: u32) {
    let step = 2u * a.pairs;
    for (var i = local; i < channels * 9u * step; i += WORKGROUP) {
        tile[channels * 4u * a.width + i] = taps[(c * 9u + i / step) * a.count + min(a.base + i % step, a.count - 1u)];
    }
}

// What the channels in `tile` give. Row after row of taps, so that few vectors are held at a time beside the 16 of
// sums: in 128 registers nothing is spilled, and more waves fit.
fn convolve_tile(sums: Sums, a: Area, o: Own, channels: u32) -> Sums {
    var s = sums;
    for (var channel = 0u; channel < channels; channel++) {
        var upper0 = patch_row(a, channel, 0u, o.slot);
        var upper1 = patch_row(a, channel, 0u, o.slot + 1u);
        for (var row = 0u; row < 3u; row++) {
            let lower0 = patch_row(a, channel, row + 1u, o.slot);
            let lower1 = patch_row(a, channel, row + 1u, o.slot + 1u);
            let low = taps_row(a, channels, channel, row, o.block);
            s.low0 = convolve_row(s.low0, upper0, lower0, low);
            s.low1 = convolve_row(s.low1, upper1, lower1, low);
            let high = taps_row(a, channels, channel, row, o.block + 1u);
            s.high0 = convolve_row(s.high0, upper0, lower0, high);
            s.high1 = convolve_row(s.high1, upper1, lower1, high);
            upper0 = lower0;
            upper1 = lower1;
        }
    }
    return s;
}

fn biases(o: Own) -> Sums {
    let low = bias(o.block);
    let high = bias(o.block + 1u);
    return Sums(low, low, high, high);
}

fn pool_tile(a: Area, o: Own, s: Sums) {
    let window = a.first + o.slot;
    let image = image_of(window);
    let image_next = image_after(image, window + 1u);
    pool(window, image, o.block, s.low0);
    pool(window + 1u, image_next, o.block, s.low1);
    pool(window, image, o.block + 1u, s.high0);
    pool(window + 1u, image_next, o.block + 1u, s.high1);
}

// Where row `row` of a window's patch is, in channel 0.
fn row_of(window: u32, row: u32, position: u32, image: u32) -> vec4u {
    let start = window / (dims.h_out * dims.w_out) * image;
    let columns = 2u * (window % dims.w_out) - dims.padding_w + vec4u(0u, 1u, 2u, 3u);
    return site_row(start, 2u * (window / dims.w_out % dims.h_out) - dims.padding_h + row, columns, position);
}

// From channels last.
@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups), dims.c_out);
    let o = own(a, local);
    let count = batch.count * dims.h_out * dims.w_out;
    if a.first >= count { return; }
    // A thread loads one row of one window, or two where there are 32 windows.
    let position = dims.c_in / 4u;
    let image = dims.h_in * dims.w_in * position;
    let row0 = row_of(min(a.first + local / 4u, count - 1u), local % 4u, position, image);
    let row1 = row_of(min(a.first + local / 4u + WORKGROUP / 4u, count - 1u), local % 4u, position, image);
    var s = biases(o);
    for (var c = 0u; c < dims.c_in / 4u; c++) {
        workgroupBarrier();
        keep_rows(a, local, load4_row(row0, c));
        if a.width == 32u { keep_rows(a, local + WORKGROUP, load4_row(row1, c)); }
        keep_taps(a, local, c * 4u, 4u);
        workgroupBarrier();
        s = convolve_tile(s, a, o, 4u);
    }
    pool_tile(a, o, s);
}

// From any strides, channel by channel.
@compute @workgroup_size(WORKGROUP)
fn forward_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups), dims.c_out);
    let o = own(a, local);
    let count = batch.count * dims.h_out * dims.w_out;
    if a.first >= count { return; }
    let image = dims.h_in * dims.w_in * dims.c_in;
    var s = biases(o);
    for (var c = 0u; c < dims.c_in; c++) {
        workgroupBarrier();
        for (var task = local; task < 4u * a.width; task += WORKGROUP) {
            let row = row_of(min(a.first + task / 4u, count - 1u), task % 4u, dims.x_position, image);
            tile[task % 4u * a.width + task / 4u] = load_row(row, c * dims.x_channel);
        }
        keep_taps(a, local, c, 1u);
        workgroupBarrier();
        s = convolve_tile(s, a, o, 1u);
    }
    pool_tile(a, o, s);
}

// The first layer, from the data set's bytes.
@compute @workgroup_size(WORKGROUP)
fn forward_bytes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups), dims.c_out);
    let o = own(a, local);
    let count = batch.count * dims.h_out * dims.w_out;
    if a.first >= count { return; }
    var s = biases(o);
    for (var c = 0u; c < dims.c_in; c++) {
        workgroupBarrier();
        for (var task = local; task < 4u * a.width; task += WORKGROUP) {
            let p = pixels(min(a.first + task / 4u, count - 1u));
            let plane = p.start + c * dims.h_in * dims.w_in;
            tile[task % 4u * a.width + task / 4u] = pixel_row(plane, p.row + task % 4u, p.column, normalisation[c]);
        }
        keep_taps(a, local, c, 1u);
        workgroupBarrier();
        s = convolve_tile(s, a, o, 1u);
    }
    pool_tile(a, o, s);
}

// Both gradients of a block that is not the first layer.
@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let own = share(group, groups, dims.splits * eights(dims.c_in / 4u, 2u) * eights(dims.c_out / 4u, 8u));
    if own.first {
        weight_tile(own.at, local);
    } else {
        input_tile(own.at, local);
    }
}

fn eights(blocks: u32, size: u32) -> u32 { return (blocks + size - 1u) / size; }

// The same for any strides.
@compute @workgroup_size(WORKGROUP)
fn backward_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    let own = share(group, groups, dims.splits * dims.c_in * eights(dims.c_out / 4u, 8u));
    if own.first {
        weight_part_planes(own.at, local);
    } else {
        input_tile(own.at, local);
    }
}

// dx for a padding of 1. Its positions are owned in 2x2 windows too; an odd row or column has a window of its own.
fn input_tile(at: u32, local: u32) {
    let plane = vec2u(dims.h_in + 1u, dims.w_in + 1u) / 2u;
    let a = area(at, dims.c_in);
    let o = own(a, local);
    let count = batch.count * plane.x * plane.y;
    if a.first >= count { return; }
    let row0 = around_of(min(a.first + local / 4u, count - 1u), local % 4u, plane);
    let row1 = around_of(min(a.first + local / 4u + WORKGROUP / 4u, count - 1u), local % 4u, plane);
    let zero = Window(vec4f(), vec4f(), vec4f(), vec4f());
    var s = Sums(zero, zero, zero, zero);
    for (var block = 0u; block < dims.c_out / 4u; block++) {
        workgroupBarrier();
        keep_rows(a, local, gradient_row(row0, local % 4u, block));
        if a.width == 32u { keep_rows(a, local + WORKGROUP, gradient_row(row1, local % 4u, block)); }
        keep_taps(a, local, block * 4u, 4u);
        workgroupBarrier();
        s = convolve_tile(s, a, o, 4u);
    }
    store_window(a.first + o.slot, plane, o.block, s.low0);
    store_window(a.first + o.slot + 1u, plane, o.block, s.low1);
    store_window(a.first + o.slot, plane, o.block + 1u, s.high0);
    store_window(a.first + o.slot + 1u, plane, o.block + 1u, s.high1);
}

// The three windows that touch row `row` of the 4x4 positions about a window.
fn around_of(window: u32, row: u32, plane: vec2u) -> vec3u {
    let start = window / (plane.x * plane.y) * dims.h_out * dims.w_out;
    let columns = window % plane.y + vec3u(0xffffffffu, 0u, 1u);
    return around_row(start, window / plane.y % plane.x + (row + 1u) / 2u - 1u, columns);
}

// That row, of four channels: the windows' upper positions if it is odd, else their lower ones.
fn gradient_row(at: vec3u, row: u32, block: u32) -> mat4x4f {
    let l = load_window(at.x, block);
    let m = load_window(at.y, block);
    let r = load_window(at.z, block);
    let upper = row % 2u == 1u;
    return transpose(mat4x4f(select(l.v11, l.v01, upper), select(m.v10, m.v00, upper),
                             select(m.v11, m.v01, upper), select(r.v10, r.v00, upper)));
}

// Windows that lie in `tile` at a time, for dw: their gradient as [window, position, block], and behind it their
// patches as [window, channel, row].
const CHUNK = 8u;

// Partial sums of dw and db over one split, from channels last.
fn weight_tile(at: u32, local: u32) {
    let eights_in = eights(dims.c_in / 4u, 2u);
    let eights_out = eights(dims.c_out / 4u, 8u);
    let split = at / (eights_in * eights_out);
    let range = split_windows(split);
    let block_base = at / eights_in % eights_out * 8u;
    let c_base = at % eights_in * 8u;
    // A thread loads one block of one window's gradient, and one row of four channels of one window's patch.
    let load_block = min(block_base + local % 8u, dims.c_out / 4u - 1u);
    let load_c = min(c_base / 4u + local % 2u, dims.c_in / 4u - 1u);
    let position = dims.c_in / 4u;
    var acc = no_taps();
    var sum = vec4f();
    for (var first = range.x; first < range.y; first += CHUNK) {
        workgroupBarrier();
        let window = first + local / 8u;
        // Past the split, nothing: the last window again, with no gradient.
        let v = load_window(select(OUTSIDE, window * (dims.c_out / 4u), window < range.y), load_block);
        let at_v = local / 8u * 32u + local % 8u;
        tile[at_v] = v.v00;
        tile[at_v + 8u] = v.v01;
        tile[at_v + 16u] = v.v10;
        tile[at_v + 24u] = v.v11;
        let row = local / 2u % 4u;
        let rows = load4_row(row_of(min(window, range.y - 1u), row, position, dims.h_in * dims.w_in * position), load_c);
        let at_x = CHUNK * 32u + local / 8u * 32u + local % 2u * 16u + row;
        tile[at_x] = rows[0];
        tile[at_x + 4u] = rows[1];
        tile[at_x + 8u] = rows[2];
        tile[at_x + 12u] = rows[3];
        workgroupBarrier();
        for (var i = 0u; i < CHUNK; i++) {
            let w = i * 32u + local % 8u;
            let own_v = Window(tile[w], tile[w + 8u], tile[w + 16u], tile[w + 24u]);
            let p = CHUNK * 32u + i * 32u + local / 8u * 4u;
            acc = correlate(acc, own_v, Patch(tile[p], tile[p + 1u], tile[p + 2u], tile[p + 3u]));
            sum += own_v.v00 + own_v.v01 + own_v.v10 + own_v.v11;
        }
    }
    let block = block_base + local % 8u;
    let c = c_base + local / 8u;
    if block * 4u >= dims.c_out || c >= dims.c_in { return; }
    store_taps(split, block * 4u, c, acc);
    if c == 0u { store_bias(split, block * 4u, sum); }
}

// Partial sums of dw and db over one split, where the input channels are few or lie apart. Which split, which 8 blocks
// of output channels, which input channel.
struct Part { split: u32, block_base: u32, c: u32 }

fn part(at: u32) -> Part {
    let eights_out = eights(dims.c_out / 4u, 8u);
    return Part(at / (dims.c_in * eights_out), at / dims.c_in % eights_out * 8u, at % dims.c_in);
}

// Windows whose patches lie in `tile` at a time, as [row, window]: a thread loads one row of one window. The eight
// threads of a window read one vector, and the eights of a wave read neighbours: no bank has two words to give at once.
const PART_WINDOWS = 16u;

// What a thread has: a block's taps and its bias.
struct Sum { taps: Taps, bias: vec4f }

// What the windows in `tile`, from `first` on, give: two to each thread, and nothing past `end`.
fn correlate_part(s: Sum, first: u32, end: u32, block: u32, own: u32) -> Sum {
    var sum = s;
    for (var slot = own; slot < PART_WINDOWS; slot += 8u) {
        let window = first + slot;
        let v = load_window(select(OUTSIDE, window * (dims.c_out / 4u), window < end), block);
        let x = Patch(tile[slot], tile[slot + PART_WINDOWS],
                      tile[slot + 2u * PART_WINDOWS], tile[slot + 3u * PART_WINDOWS]);
        sum = Sum(correlate(sum.taps, v, x), sum.bias + v.v00 + v.v01 + v.v10 + v.v11);
    }
    return sum;
}

// From the data set's bytes.
fn weight_part_bytes(at: u32, local: u32) {
    let p = part(at);
    if p.split >= dims.splits { return; }
    let range = split_windows(p.split);
    let block = min(p.block_base + local % 8u, dims.c_out / 4u - 1u);
    var s = Sum(no_taps(), vec4f());
    for (var first = range.x; first < range.y; first += PART_WINDOWS) {
        workgroupBarrier();
        let at_x = pixels(min(first + local % PART_WINDOWS, range.y - 1u));
        let plane = at_x.start + p.c * dims.h_in * dims.w_in;
        tile[local] = pixel_row(plane, at_x.row + local / PART_WINDOWS, at_x.column, normalisation[p.c]);
        workgroupBarrier();
        s = correlate_part(s, first, range.y, block, local / 8u);
    }
    store_part(p, local, s);
}

// From any strides.
fn weight_part_planes(at: u32, local: u32) {
    let p = part(at);
    if p.split >= dims.splits { return; }
    let range = split_windows(p.split);
    let block = min(p.block_base + local % 8u, dims.c_out / 4u - 1u);
    let image = dims.h_in * dims.w_in * dims.c_in;
    var s = Sum(no_taps(), vec4f());
    for (var first = range.x; first < range.y; first += PART_WINDOWS) {
        workgroupBarrier();
        let window = min(first + local % PART_WINDOWS, range.y - 1u);
        tile[local] = load_row(row_of(window, local / PART_WINDOWS, dims.x_position, image), p.c * dims.x_channel);
        workgroupBarrier();
        s = correlate_part(s, first, range.y, block, local / 8u);
    }
    store_part(p, local, s);
}

// Adds what the eight threads of each block have, and stores it. In `tile` it lies as [tap or bias, thread].
fn store_part(p: Part, local: u32, s: Sum) {
    workgroupBarrier();
    tile[local] = s.taps.t00;
    tile[local + WORKGROUP] = s.taps.t01;
    tile[local + 2u * WORKGROUP] = s.taps.t02;
    tile[local + 3u * WORKGROUP] = s.taps.t10;
    tile[local + 4u * WORKGROUP] = s.taps.t11;
    tile[local + 5u * WORKGROUP] = s.taps.t12;
    tile[local + 6u * WORKGROUP] = s.taps.t20;
    tile[local + 7u * WORKGROUP] = s.taps.t21;
    tile[local + 8u * WORKGROUP] = s.taps.t22;
    tile[local + 9u * WORKGROUP] = s.bias;
    workgroupBarrier();
    let o = (p.block_base + local % 8u) * 4u;
    if o >= dims.c_out { return; }
    for (var tap = local / 8u; tap < 10u; tap += 8u) {
        var sum = vec4f();
        for (var i = local % 8u; i < WORKGROUP; i += 8u) { sum += tile[tap * WORKGROUP + i]; }
        if tap < 9u {
            store_tap(p.split * parameters() + (o * dims.c_in + p.c) * 9u + tap, sum);
        } else if p.c == 0u {
            store_bias(p.split, o, sum);
        }
    }
}

// For the first layer, where nobody needs dx.
@compute @workgroup_size(WORKGROUP)
fn backward_weight_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                          @builtin(local_invocation_index) local: u32) {
    weight_part_planes(flat_group(group, groups), local);
}

@compute @workgroup_size(WORKGROUP)
fn backward_weight_bytes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                         @builtin(local_invocation_index) local: u32) {
    weight_part_bytes(flat_group(group, groups), local);
}
