// Conv2d, ReLU and MaxPool2d as one operation (common/conv2d_pool.wgsl has the formulas), for hardware GPUs: what
// several threads need is loaded once, into the workgroup's memory.
//
// For y and dx, a workgroup owns some windows (16 or 32) times some blocks of four channels (16 or 8), and a thread two
// windows times two blocks: 64 sums. Where that gives few workgroups, y has a form of 16 windows times 8 blocks, and a
// thread two windows times one block. Patches and weights of four channels lie in `tile` at a time: 13.5 KiB. For dw
// and db, it owns 8 blocks of output channels times 8 input channels times 9 taps of one split, and a thread one block
// times one input channel. Windows are taken eight at a time. In a first layer, which has few input channels, eight
// threads share a block and one input channel: each takes every eighth window, and their sums are added at the end.
//
// Sums of y and dx are taken in the same order as in registers.

// A unit holds what one thread reads of one channel: two windows' patches, a block's taps, or a window's gradient and a
// patch. So a thread works out where its unit is, and the rest are constants. A unit is nine vectors even where eight
// are used: eight threads load 16 bytes each at a time, and units of an odd number of vectors begin in eight different
// groups of banks. Counted for every load and store of `tile`: each bank has one word to give at a time.
var<workgroup> tile: array<array<array<vec4f, 9>, 8>, 12>;

// What a workgroup owns. Nothing of it is a thread's own: a barrier must be reached by all threads or none, and a
// compiler of WGSL sees that of a struct only if it holds of all of its fields.
struct Area {
    count: u32,   // blocks that there are
    across: u32,  // threads side by side along the blocks: 4 or 8
    wide: u32,    // blocks of the workgroup: 8 or 16
    width: u32,   // windows of the workgroup: 16 or 32
    first: u32,   // its first window
    base: u32,    // its first block
}

fn area(at: u32, channels: u32) -> Area {
    let few = blocks(channels) <= 8u;
    return area_of(at, blocks(channels), select(8u, 4u, few), select(16u, 8u, few), select(16u, 32u, few));
}

fn area_small(at: u32, channels: u32) -> Area { return area_of(at, blocks(channels), 8u, 8u, 16u); }

fn area_of(at: u32, count: u32, across: u32, wide: u32, width: u32) -> Area {
    let groups = (count + wide - 1u) / wide;
    return Area(count, across, wide, width, at / groups * width, at % groups * wide);
}

// What a thread owns of it: the block at `column` and, unless the form is small, the one `across` further; and two
// windows, the pair of this number within the area.
struct Own { column: u32, pair: u32 }

fn own(a: Area, local: u32) -> Own {
    return Own(local & (a.across - 1u), select(local / 4u, local / 8u, a.across == 8u));
}

// The sums of two windows, for two blocks.
struct Sums { low0: Window, low1: Window, high0: Window, high1: Window }

// Of one block.
struct Half { v0: Window, v1: Window }

// Which eight of the units have the taps of channel 0, behind the patches of `channels` channels.
fn taps_begin(a: Area, channels: u32) -> u32 { return channels * (a.width / 16u); }

// A row of taps.
struct Three { left: vec4f, middle: vec4f, right: vec4f }

// acc + what two rows of a patch give through a row of taps, in the order of `convolve`.
fn convolve_row(acc: Window, upper: vec4f, lower: vec4f, w: Three) -> Window {
    return Window(across(acc.v00, upper.xyz, w), across(acc.v01, upper.yzw, w),
                  across(acc.v10, lower.xyz, w), across(acc.v11, lower.yzw, w));
}

fn across(acc: vec4f, x: vec3f, w: Three) -> vec4f {
    return fma(w.right, vec4f(x.z), fma(w.middle, vec4f(x.y), fma(w.left, vec4f(x.x), acc)));
}

// One row of a patch, of one channel: its unit has [row, window of the pair]. Task by task: row by row of window by
// window.
fn keep_row(a: Area, task: u32, channel: u32, row: vec4f) {
    let pair = task / 8u;
    tile[channel * (a.width / 16u) + pair / 8u][pair % 8u][task % 4u * 2u + task / 4u % 2u] = row;
}

// Of four channels.
fn keep_rows(a: Area, task: u32, rows: mat4x4f) {
    keep_row(a, task, 0u, rows[0]);
    keep_row(a, task, 1u, rows[1]);
    keep_row(a, task, 2u, rows[2]);
    keep_row(a, task, 3u, rows[3]);
}

// The weights of four channels from `c` on. All loads stand before the stores, so that they are under way together.
fn keep_taps(a: Area, local: u32, c: u32) {
    let begin = taps_begin(a, 4u);
    if a.wide == 16u {
        // A thread has one block of one channel.
        let block = local % 16u;
        let channel = local / 16u;
        let unit = begin + channel * 2u + block / 8u;
        let at = (c + channel) * 9u * a.count + min(a.base + block, a.count - 1u);
        let t0 = taps[at];
        let t1 = taps[at + a.count];
        let t2 = taps[at + 2u * a.count];
        let t3 = taps[at + 3u * a.count];
        let t4 = taps[at + 4u * a.count];
        let t5 = taps[at + 5u * a.count];
        let t6 = taps[at + 6u * a.count];
        let t7 = taps[at + 7u * a.count];
        let t8 = taps[at + 8u * a.count];
        tile[unit][block % 8u][0] = t0;
        tile[unit][block % 8u][1] = t1;
        tile[unit][block % 8u][2] = t2;
        tile[unit][block % 8u][3] = t3;
        tile[unit][block % 8u][4] = t4;
        tile[unit][block % 8u][5] = t5;
        tile[unit][block % 8u][6] = t6;
        tile[unit][block % 8u][7] = t7;
        tile[unit][block % 8u][8] = t8;
    } else {
        // Two threads have one: the first five taps, and the last four.
        let block = local % 8u;
        let channel = local / 8u % 4u;
        let tap = local / 32u * 5u;
        let at = ((c + channel) * 9u + tap) * a.count + min(a.base + block, a.count - 1u);
        let t0 = taps[at];
        let t1 = taps[at + a.count];
        let t2 = taps[at + 2u * a.count];
        let t3 = taps[at + 3u * a.count];
        tile[begin + channel][block][tap] = t0;
        tile[begin + channel][block][tap + 1u] = t1;
        tile[begin + channel][block][tap + 2u] = t2;
        tile[begin + channel][block][tap + 3u] = t3;
        if tap == 0u { tile[begin + channel][block][4] = taps[at + 4u * a.count]; }
    }
}

// Of one channel.
fn keep_taps_of_one(a: Area, local: u32, c: u32) {
    let begin = taps_begin(a, 1u);
    let block = local & (a.wide - 1u);
    let step = select(8u, 4u, a.wide == 16u);
    for (var tap = select(local / 8u, local / 16u, a.wide == 16u); tap < 9u; tap += step) {
        tile[begin + block / 8u][block % 8u][tap] = taps[(c * 9u + tap) * a.count + min(a.base + block, a.count - 1u)];
    }
}

// What the channels in `tile` give. Row after row of taps, so that few vectors are held at a time beside the 16 of
// sums: in 128 registers nothing is spilled, and more waves fit.
fn convolve_tile(sums: Sums, a: Area, o: Own, channels: u32) -> Sums {
    var s = sums;
    // The unit of the patches, and those of the two blocks' taps.
    var x = o.pair / 8u;
    var low = taps_begin(a, channels);
    var high = low + a.across / 8u;
    let pair = o.pair % 8u;
    let above = (o.column + a.across) % 8u;
    for (var channel = 0u; channel < channels; channel++) {
        var upper0 = tile[x][pair][0];
        var upper1 = tile[x][pair][1];
        for (var row = 0u; row < 3u; row++) {
            let lower0 = tile[x][pair][row * 2u + 2u];
            let lower1 = tile[x][pair][row * 2u + 3u];
            let a0 = Three(tile[low][o.column][row * 3u], tile[low][o.column][row * 3u + 1u],
                           tile[low][o.column][row * 3u + 2u]);
            s.low0 = convolve_row(s.low0, upper0, lower0, a0);
            s.low1 = convolve_row(s.low1, upper1, lower1, a0);
            let a1 = Three(tile[high][above][row * 3u], tile[high][above][row * 3u + 1u],
                           tile[high][above][row * 3u + 2u]);
            s.high0 = convolve_row(s.high0, upper0, lower0, a1);
            s.high1 = convolve_row(s.high1, upper1, lower1, a1);
            upper0 = lower0;
            upper1 = lower1;
        }
        x += a.width / 16u;
        low += a.wide / 8u;
        high += a.wide / 8u;
    }
    return s;
}

// The same for one block and four channels.
fn convolve_small(sums: Half, a: Area, o: Own) -> Half {
    var s = sums;
    let begin = taps_begin(a, 4u);
    for (var channel = 0u; channel < 4u; channel++) {
        var upper0 = tile[channel][o.pair][0];
        var upper1 = tile[channel][o.pair][1];
        for (var row = 0u; row < 3u; row++) {
            let lower0 = tile[channel][o.pair][row * 2u + 2u];
            let lower1 = tile[channel][o.pair][row * 2u + 3u];
            let w = Three(tile[begin + channel][o.column][row * 3u], tile[begin + channel][o.column][row * 3u + 1u],
                          tile[begin + channel][o.column][row * 3u + 2u]);
            s.v0 = convolve_row(s.v0, upper0, lower0, w);
            s.v1 = convolve_row(s.v1, upper1, lower1, w);
            upper0 = lower0;
            upper1 = lower1;
        }
    }
    return s;
}

fn biases(a: Area, o: Own) -> Sums {
    let low = bias(a.base + o.column);
    let high = bias(a.base + o.column + a.across);
    return Sums(low, low, high, high);
}

fn pool_tile(a: Area, o: Own, s: Sums) {
    pool_half(a, o, a.base + o.column, Half(s.low0, s.low1));
    pool_half(a, o, a.base + o.column + a.across, Half(s.high0, s.high1));
}

fn pool_half(a: Area, o: Own, block: u32, s: Half) {
    let window = a.first + o.pair * 2u;
    let image = image_of(window);
    pool(window, image, block, s.v0);
    pool(window + 1u, image_after(image, window + 1u), block, s.v1);
}

// Where a window is: which image, which row and which column of windows.
struct Place { image: u32, row: u32, column: u32 }

// In planes of so many rows and columns of windows.
fn place_in(window: u32, plane: vec2u) -> Place {
    return Place(window / (plane.x * plane.y), window / plane.y % plane.x, window % plane.y);
}

fn place(window: u32) -> Place { return place_in(window, vec2u(dims.h_out, dims.w_out)); }

// The place so much further: a loop counts up, because a division takes long.
fn further(p: Place, by: Place) -> Place {
    let column = p.column + by.column;
    let next_row = column >= dims.w_out;
    let row = p.row + by.row + u32(next_row);
    let next_image = row >= dims.h_out;
    return Place(p.image + by.image + u32(next_image), row - select(0u, dims.h_out, next_image),
                 column - select(0u, dims.w_out, next_row));
}

// Where row `row` of a window's patch is, in channel 0; `there` is whether there is such a window.
fn row_of(p: Place, row: u32, there: bool, position: u32, image: u32) -> vec4u {
    let columns = 2u * p.column - dims.padding_w + vec4u(0u, 1u, 2u, 3u);
    return site_row(p.image * image, select(OUTSIDE, 2u * p.row - dims.padding_h + row, there), columns, position);
}

// The row that a thread loads for a task of `keep_row`.
fn row_of_task(a: Area, task: u32, position: u32, image: u32) -> vec4u {
    let window = a.first + task / 4u;
    return row_of(place(window), task % 4u, window < batch.count * dims.h_out * dims.w_out, position, image);
}

// From channels last.
@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups), dims.c_out);
    let o = own(a, local);
    if a.first >= batch.count * dims.h_out * dims.w_out { return; }
    // A thread loads one row of one window, or two where there are 32 windows.
    let position = dims.c_in / 4u;
    let image = dims.h_in * dims.w_in * position;
    let row0 = row_of_task(a, local, position, image);
    let row1 = row_of_task(a, local + WORKGROUP, position, image);
    var s = biases(a, o);
    for (var c = 0u; c < dims.c_in / 4u; c++) {
        workgroupBarrier();
        keep_rows(a, local, load4_row(row0, c));
        if a.width == 32u { keep_rows(a, local + WORKGROUP, load4_row(row1, c)); }
        keep_taps(a, local, c * 4u);
        workgroupBarrier();
        s = convolve_tile(s, a, o, 4u);
    }
    pool_tile(a, o, s);
}

// The same in smaller parts.
@compute @workgroup_size(WORKGROUP)
fn forward_small(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                 @builtin(local_invocation_index) local: u32) {
    let a = area_small(flat_group(group, groups), dims.c_out);
    let o = own(a, local);
    if a.first >= batch.count * dims.h_out * dims.w_out { return; }
    let position = dims.c_in / 4u;
    let row = row_of_task(a, local, position, dims.h_in * dims.w_in * position);
    let value = bias(a.base + o.column);
    var s = Half(value, value);
    for (var c = 0u; c < dims.c_in / 4u; c++) {
        workgroupBarrier();
        keep_rows(a, local, load4_row(row, c));
        keep_taps(a, local, c * 4u);
        workgroupBarrier();
        s = convolve_small(s, a, o);
    }
    pool_half(a, o, a.base + o.column, s);
}

// From any strides, channel by channel.
@compute @workgroup_size(WORKGROUP)
fn forward_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) local: u32) {
    let a = area(flat_group(group, groups), dims.c_out);
    let o = own(a, local);
    if a.first >= batch.count * dims.h_out * dims.w_out { return; }
    let image = dims.h_in * dims.w_in * dims.c_in;
    let row0 = row_of_task(a, local, dims.x_position, image);
    let row1 = row_of_task(a, local + WORKGROUP, dims.x_position, image);
    var s = biases(a, o);
    for (var c = 0u; c < dims.c_in; c++) {
        workgroupBarrier();
        keep_row(a, local, 0u, load_row(row0, c * dims.x_channel));
        if a.width == 32u { keep_row(a, local + WORKGROUP, 0u, load_row(row1, c * dims.x_channel)); }
        keep_taps_of_one(a, local, c);
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
    let pixels0 = pixels(min(a.first + local / 4u, count - 1u));
    let pixels1 = pixels(min(a.first + local / 4u + WORKGROUP / 4u, count - 1u));
    var s = biases(a, o);
    for (var c = 0u; c < dims.c_in; c++) {
        workgroupBarrier();
        keep_row(a, local, 0u, pixels_row(pixels0, local % 4u, c));
        if a.width == 32u { keep_row(a, local + WORKGROUP, 0u, pixels_row(pixels1, local % 4u, c)); }
        keep_taps_of_one(a, local, c);
        workgroupBarrier();
        s = convolve_tile(s, a, o, 1u);
    }
    pool_tile(a, o, s);
}

fn pixels_row(p: Pixels, row: u32, c: u32) -> vec4f {
    return pixel_row(p.start + c * dims.h_in * dims.w_in, p.row + row, p.column, normalisation[c]);
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
        keep_taps(a, local, block * 4u);
        workgroupBarrier();
        s = convolve_tile(s, a, o, 4u);
    }
    let window = a.first + o.pair * 2u;
    store_window(window, plane, a.base + o.column, s.low0);
    store_window(window + 1u, plane, a.base + o.column, s.low1);
    store_window(window, plane, a.base + o.column + a.across, s.high0);
    store_window(window + 1u, plane, a.base + o.column + a.across, s.high1);
}

// The three windows that touch row `row` of the 4x4 positions about a window.
fn around_of(window: u32, row: u32, plane: vec2u) -> vec3u {
    let p = place_in(window, plane);
    let columns = p.column + vec3u(OUTSIDE, 0u, 1u);
    return around_row(p.image * dims.h_out * dims.w_out, p.row + (row + 1u) / 2u - 1u, columns);
}

// That row, of four channels: the windows' upper positions if it is odd, else their lower ones.
fn gradient_row(at: vec3u, row: u32, block: u32) -> mat4x4f {
    let left = select(2u, 0u, row % 2u == 1u);
    let l = dead_or_alive(at.x, block);
    let m = dead_or_alive(at.y, block);
    let r = dead_or_alive(at.z, block);
    return transpose(mat4x4f(where_code(l, left + 1u), where_code(m, left), where_code(m, left + 1u),
                             where_code(r, left)));
}

// The gradient of four channels of a window, and which of its positions has it.
struct Upstream { dy: vec4f, code: vec4u }

fn dead_or_alive(at: u32, block: u32) -> Upstream {
    let inside = at != OUTSIDE;
    let here = select(0u, at + block, inside);
    let word = select(DEAD * 0x01010101u, codes_in[here], inside);
    return Upstream(dy[here], (vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u));
}

fn where_code(u: Upstream, code: u32) -> vec4f { return select(vec4f(), u.dy, u.code == vec4u(code)); }

// Windows that lie in `tile` at a time, for dw. Their units are [window, block or channel], and in each the gradient's
// four positions, and behind them the rows of a patch.
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
    let image = dims.h_in * dims.w_in * position;
    let row = local / 2u % 4u;
    let step = place(CHUNK);
    var window = range.x + local / 8u;
    var p = place(window);
    var acc = no_taps();
    var sum = vec4f();
    for (var first = range.x; first < range.y; first += CHUNK) {
        workgroupBarrier();
        // Past the split there is nothing.
        let there = window < range.y;
        let v = load_window(select(OUTSIDE, window * (dims.c_out / 4u), there), load_block);
        let rows = load4_row(row_of(p, row, there, position, image), load_c);
        tile[local / 8u][local % 8u][0] = v.v00;
        tile[local / 8u][local % 8u][1] = v.v01;
        tile[local / 8u][local % 8u][2] = v.v10;
        tile[local / 8u][local % 8u][3] = v.v11;
        sum += v.v00 + v.v01 + v.v10 + v.v11;
        let four = local % 2u * 4u;
        tile[local / 8u][four][4u + row] = rows[0];
        tile[local / 8u][four + 1u][4u + row] = rows[1];
        tile[local / 8u][four + 2u][4u + row] = rows[2];
        tile[local / 8u][four + 3u][4u + row] = rows[3];
        workgroupBarrier();
        for (var i = 0u; i < CHUNK; i += 4u) {
            acc = correlate_window(acc, i, local);
            acc = correlate_window(acc, i + 1u, local);
            acc = correlate_window(acc, i + 2u, local);
            acc = correlate_window(acc, i + 3u, local);
        }
        window += CHUNK;
        p = further(p, step);
    }
    let block = block_base + local % 8u;
    let c = c_base + local / 8u;
    // The eight threads that loaded a block's gradient each have a part of the bias's.
    workgroupBarrier();
    tile[local / 8u][local % 8u][0] = sum;
    workgroupBarrier();
    if block * 4u >= dims.c_out || c >= dims.c_in { return; }
    store_taps(split, block * 4u, c, acc);
    if c == 0u {
        var whole = vec4f();
        for (var i = 0u; i < 8u; i++) { whole += tile[i][local % 8u][0]; }
        store_bias(split, block * 4u, whole);
    }
}

// acc + what window `i` in `tile` gives to a thread's block and channel.
fn correlate_window(acc: Taps, i: u32, local: u32) -> Taps {
    let block = local % 8u;
    let channel = local / 8u;
    return correlate(acc, Window(tile[i][block][0], tile[i][block][1], tile[i][block][2], tile[i][block][3]),
                     Patch(tile[i][channel][4], tile[i][channel][5], tile[i][channel][6], tile[i][channel][7]));
}

// Partial sums of dw and db over one split, where the input channels are few or lie apart. Which split, which 8 blocks
// of output channels, which input channel.
struct Part { split: u32, block_base: u32, c: u32 }

fn part(at: u32) -> Part {
    let eights_out = eights(dims.c_out / 4u, 8u);
    return Part(at / (dims.c_in * eights_out), at / dims.c_in % eights_out * 8u, at % dims.c_in);
}

// Windows whose patches lie in `tile` at a time, a unit each: a thread loads one row of one window. The eight threads
// of a window read one vector, and those beside them the unit beside it.
const PART_WINDOWS = 16u;

// What a thread has: a block's taps and its bias.
struct Sum { taps: Taps, bias: vec4f }

// What the windows in `tile`, from `first` on, give: two to each thread, and nothing past `end`.
fn correlate_part(s: Sum, first: u32, end: u32, block: u32, own: u32) -> Sum {
    return correlate_one(correlate_one(s, first + own, end, block, 0u, own), first + own + 8u, end, block, 1u, own);
}

fn correlate_one(s: Sum, window: u32, end: u32, block: u32, eight: u32, own: u32) -> Sum {
    let v = load_window(select(OUTSIDE, window * (dims.c_out / 4u), window < end), block);
    let x = Patch(tile[eight][own][0], tile[eight][own][1], tile[eight][own][2], tile[eight][own][3]);
    return Sum(correlate(s.taps, v, x), s.bias + v.v00 + v.v01 + v.v10 + v.v11);
}

// From the data set's bytes.
fn weight_part_bytes(at: u32, local: u32) {
    let p = part(at);
    if p.split >= dims.splits { return; }
    let range = split_windows(p.split);
    let block = min(p.block_base + local % 8u, dims.c_out / 4u - 1u);
    let step = place(PART_WINDOWS);
    let affine = normalisation[p.c];
    // Past the split, pixels of the batch's first image, with no gradient.
    var at_x = place(range.x + local % PART_WINDOWS);
    var s = Sum(no_taps(), vec4f());
    for (var first = range.x; first < range.y; first += PART_WINDOWS) {
        workgroupBarrier();
        let source = pixels_at(at_x, first + local % PART_WINDOWS < range.y);
        let plane = source.start + p.c * dims.h_in * dims.w_in;
        tile[local % PART_WINDOWS / 8u][local % 8u][local / PART_WINDOWS] =
            pixel_row(plane, source.row + local / PART_WINDOWS, source.column, affine);
        workgroupBarrier();
        s = correlate_part(s, first, range.y, block, local / 8u);
        at_x = further(at_x, step);
    }
    store_part(p, local, s);
}

fn pixels_at(p: Place, there: bool) -> Pixels {
    let image = order[batch.first + select(0u, p.image, there)];
    return Pixels(image * dims.c_in * dims.h_in * dims.w_in,
                  p.row * 2u - dims.padding_h, p.column * 2u - dims.padding_w);
}

// From any strides.
fn weight_part_planes(at: u32, local: u32) {
    let p = part(at);
    if p.split >= dims.splits { return; }
    let range = split_windows(p.split);
    let block = min(p.block_base + local % 8u, dims.c_out / 4u - 1u);
    let image = dims.h_in * dims.w_in * dims.c_in;
    let step = place(PART_WINDOWS);
    var at_x = place(range.x + local % PART_WINDOWS);
    var s = Sum(no_taps(), vec4f());
    for (var first = range.x; first < range.y; first += PART_WINDOWS) {
        workgroupBarrier();
        let there = first + local % PART_WINDOWS < range.y;
        tile[local % PART_WINDOWS / 8u][local % 8u][local / PART_WINDOWS] =
            load_row(row_of(at_x, local / PART_WINDOWS, there, dims.x_position, image), p.c * dims.x_channel);
        workgroupBarrier();
        s = correlate_part(s, first, range.y, block, local / 8u);
        at_x = further(at_x, step);
    }
    store_part(p, local, s);
}

// Adds what the eight threads of each block have, and stores it. A thread's taps are a unit, and two threads' biases
// one behind all of these.
fn store_part(p: Part, local: u32, s: Sum) {
    workgroupBarrier();
    tile[local / 8u][local % 8u][0] = s.taps.t00;
    tile[local / 8u][local % 8u][1] = s.taps.t01;
    tile[local / 8u][local % 8u][2] = s.taps.t02;
    tile[local / 8u][local % 8u][3] = s.taps.t10;
    tile[local / 8u][local % 8u][4] = s.taps.t11;
    tile[local / 8u][local % 8u][5] = s.taps.t12;
    tile[local / 8u][local % 8u][6] = s.taps.t20;
    tile[local / 8u][local % 8u][7] = s.taps.t21;
    tile[local / 8u][local % 8u][8] = s.taps.t22;
    tile[8u + local / 16u][local / 2u % 8u][local % 2u] = s.bias;
    workgroupBarrier();
    let own = local % 8u;
    let o = (p.block_base + own) * 4u;
    if o >= dims.c_out { return; }
    add_tap(p, own, local / 8u);
    if local < 8u { add_tap(p, own, 8u); }
    if p.c == 0u && local / 8u == 1u {
        var sum = vec4f();
        for (var i = own; i < WORKGROUP; i += 8u) { sum += tile[8u + i / 16u][i / 2u % 8u][i % 2u]; }
        store_bias(p.split, o, sum);
    }
}

fn add_tap(p: Part, own: u32, tap: u32) {
    var sum = vec4f();
    for (var i = 0u; i < WORKGROUP / 8u; i++) { sum += tile[i][own][tap]; }
    store_tap(p.split * parameters() + ((p.block_base + own) * 4u * dims.c_in + p.c) * 9u + tap, sum);
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
