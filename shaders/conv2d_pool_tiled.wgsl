// Conv2d, ReLU and MaxPool2d as one operation (common/conv2d_pool.wgsl has the formulas), for hardware GPUs: what
// several threads need is loaded once, into the workgroup's memory.
//
// For y and dx, a workgroup owns some windows (16 or 32) times some blocks of four channels (16 or 8), and a thread two
// windows times two blocks: 64 sums. Where that gives few workgroups, there is a form of 16 windows times 8 blocks, and
// a thread has two windows times one block. Patches and weights of four channels lie in `tile` at a time: 13.5 KiB
// (common/conv2d_pool_tile.wgsl). For dw and db, it owns 8 blocks of output channels times 8 input channels times 9
// taps of one split, and a thread one block times one input channel. Windows are taken eight at a time. In a first
// layer, which has few input channels, eight threads share a block and one input channel: each takes every eighth
// window, and their sums are added at the end.
//
// Sums of y and dx are taken in the same order as in registers.

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

// Where a row of a window's patch is: its first column in channel 0, and which columns are inside. What is outside is
// read somewhere, and not used.
struct Row { at: u32, inside: vec4<bool> }

// Row `row`; `there` is whether there is such a window.
fn row_of(p: Place, row: u32, there: bool, position: u32, image: u32) -> Row {
    let line = 2u * p.row - dims.padding_h + row;
    let column = 2u * p.column - dims.padding_w;
    let columns = column + vec4u(0u, 1u, 2u, 3u);
    return Row(p.image * image + (line * dims.w_in + column) * position,
               (columns < vec4u(dims.w_in)) & vec4<bool>(there && line < dims.h_in));
}

// It, from channels last: the channels of block `c`.
fn row_last(r: Row, c: u32) -> mat4x4f {
    let step = dims.c_in / 4u;
    let at = r.at + c;
    return transpose(mat4x4f(four_last(at, r.inside.x), four_last(at + step, r.inside.y),
                             four_last(at + 2u * step, r.inside.z), four_last(at + 3u * step, r.inside.w)));
}

fn four_last(at: u32, inside: bool) -> vec4f { return select(vec4f(), unpack(x_last[at]), inside); }

// From any strides: channel `c`.
fn row_planes(r: Row, c: u32) -> vec4f {
    let step = dims.x_position;
    let at = r.at + c * dims.x_channel;
    return select(vec4f(), vec4f(x[at], x[at + step], x[at + 2u * step], x[at + 3u * step]), r.inside);
}

// The row that a thread loads for `keep_row`, of the area's row `task`.
fn row_of_task(a: Area, task: u32, position: u32, image: u32) -> Row {
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
        keep_rows(local, 0u, row_last(row0, c));
        if a.width == 32u { keep_rows(local, 1u, row_last(row1, c)); }
        keep_taps(a, local, c * 4u);
        workgroupBarrier();
        s = convolve_tile(s, a, o);
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
        keep_rows(local, 0u, row_last(row, c));
        keep_taps(a, local, c * 4u);
        workgroupBarrier();
        s = convolve_small(s, o);
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
        keep_row(local, 0u, 0u, row_planes(row0, c));
        if a.width == 32u { keep_row(local, 1u, 0u, row_planes(row1, c)); }
        keep_taps_of_one(a, local, c);
        workgroupBarrier();
        s = convolve_one(s, a, o, 0u, 0u);
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
        keep_row(local, 0u, 0u, pixels_row(pixels0, local % 4u, c));
        if a.width == 32u { keep_row(local, 1u, 0u, pixels_row(pixels1, local % 4u, c)); }
        keep_taps_of_one(a, local, c);
        workgroupBarrier();
        s = convolve_one(s, a, o, 0u, 0u);
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

// The same, dx in smaller parts.
@compute @workgroup_size(WORKGROUP)
fn backward_small(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) local: u32) {
    let own = share(group, groups, dims.splits * eights(dims.c_in / 4u, 2u) * eights(dims.c_out / 4u, 8u));
    if own.first {
        weight_tile(own.at, local);
    } else {
        input_tile_small(own.at, local);
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

// The positions of dx are owned in 2x2 windows too; an odd row or column has a window of its own.
fn input_plane() -> vec2u { return vec2u(dims.h_in + 1u, dims.w_in + 1u) / 2u; }

// dx for a padding of 1.
fn input_tile(at: u32, local: u32) {
    let plane = input_plane();
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
        keep_rows(local, 0u, gradient_row(row0, local % 4u, block));
        if a.width == 32u { keep_rows(local, 1u, gradient_row(row1, local % 4u, block)); }
        keep_taps(a, local, block * 4u);
        workgroupBarrier();
        s = convolve_tile(s, a, o);
    }
    let window = a.first + o.pair * 2u;
    store_window(window, plane, a.base + o.column, s.low0);
    store_window(window + 1u, plane, a.base + o.column, s.low1);
    store_window(window, plane, a.base + o.column + a.across, s.high0);
    store_window(window + 1u, plane, a.base + o.column + a.across, s.high1);
}

fn input_tile_small(at: u32, local: u32) {
    let plane = input_plane();
    let a = area_small(at, dims.c_in);
    let o = own(a, local);
    let count = batch.count * plane.x * plane.y;
    if a.first >= count { return; }
    let row = around_of(min(a.first + local / 4u, count - 1u), local % 4u, plane);
    let zero = Window(vec4f(), vec4f(), vec4f(), vec4f());
    var s = Half(zero, zero);
    for (var block = 0u; block < dims.c_out / 4u; block++) {
        workgroupBarrier();
        keep_rows(local, 0u, gradient_row(row, local % 4u, block));
        keep_taps(a, local, block * 4u);
        workgroupBarrier();
        s = convolve_small(s, o);
    }
    let window = a.first + o.pair * 2u;
    store_window(window, plane, a.base + o.column, s.v0);
    store_window(window + 1u, plane, a.base + o.column, s.v1);
}

// The three windows that touch row `row` of the 4x4 positions about a window: where the one in the middle is, in block
// 0, and which of them there are.
struct Beside { at: u32, inside: vec3<bool> }

fn around_of(window: u32, row: u32, plane: vec2u) -> Beside {
    let p = place_in(window, plane);
    let i = p.row + (row + 1u) / 2u - 1u;
    let columns = p.column + vec3u(OUTSIDE, 0u, 1u);
    return Beside(((p.image * dims.h_out + i) * dims.w_out + p.column) * (dims.c_out / 4u),
                  (columns < vec3u(dims.w_out)) & vec3<bool>(i < dims.h_out));
}

// That row, of four channels: the windows' upper positions if it is odd, else their lower ones.
fn gradient_row(b: Beside, row: u32, block: u32) -> mat4x4f {
    let left = select(2u, 0u, row % 2u == 1u);
    let step = dims.c_out / 4u;
    let at = b.at + block;
    let l = upstream(at - step, b.inside.x);
    let m = upstream(at, b.inside.y);
    let r = upstream(at + step, b.inside.z);
    return transpose(mat4x4f(where_code(l, left + 1u), where_code(m, left), where_code(m, left + 1u),
                             where_code(r, left)));
}

// The gradient of four channels of a window, and which of its positions has it.
struct Upstream { dy: vec4f, code: vec4u }

// What is read in place of one that is not there is dead, and so is not used.
fn upstream(at: u32, there: bool) -> Upstream {
    let word = select(DEAD * 0x01010101u, codes_in[at], there);
    return Upstream(dy[at], (vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u));
}

fn where_code(u: Upstream, code: u32) -> vec4f { return select(vec4f(), u.dy, u.code == vec4u(code)); }

// What the bias gets.
fn alive(u: Upstream) -> vec4f { return select(vec4f(), u.dy, u.code < vec4u(DEAD)); }

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
    let own = local / 8u;
    let step = place(CHUNK);
    var window = range.x + own;
    var p = place(window);
    var acc = no_taps();
    var sum = vec4f();
    for (var first = range.x; first < range.y; first += CHUNK) {
        workgroupBarrier();
        // Past the split there is nothing.
        let there = window < range.y;
        let u = upstream(window * (dims.c_out / 4u) + load_block, there);
        let rows = row_last(row_of(p, row, there, position, image), load_c);
        tile[own / 2u % 2u][own % 2u][own / 4u][local % 8u][0] = where_code(u, 0u);
        tile[own / 2u % 2u][own % 2u][own / 4u][local % 8u][1] = where_code(u, 1u);
        tile[own / 2u % 2u][own % 2u][own / 4u][local % 8u][2] = where_code(u, 2u);
        tile[own / 2u % 2u][own % 2u][own / 4u][local % 8u][3] = where_code(u, 3u);
        sum += alive(u);
        let four = local % 2u * 4u;
        tile[own / 2u % 2u][own % 2u][own / 4u][four][4u + row] = rows[0];
        tile[own / 2u % 2u][own % 2u][own / 4u][four + 1u][4u + row] = rows[1];
        tile[own / 2u % 2u][own % 2u][own / 4u][four + 2u][4u + row] = rows[2];
        tile[own / 2u % 2u][own % 2u][own / 4u][four + 3u][4u + row] = rows[3];
        workgroupBarrier();
        for (var four = 0u; four < CHUNK / 4u; four++) {
            acc = correlate_window(acc, 0u, four, local);
            acc = correlate_window(acc, 1u, four, local);
            acc = correlate_window(acc, 2u, four, local);
            acc = correlate_window(acc, 3u, four, local);
        }
        window += CHUNK;
        p = further(p, step);
    }
    let block = block_base + local % 8u;
    let c = c_base + local / 8u;
    // The eight threads that loaded a block's gradient each have a part of the bias's.
    workgroupBarrier();
    tile[own / 2u % 2u][own % 2u][own / 4u][local % 8u][0] = sum;
    workgroupBarrier();
    if block * 4u >= dims.c_out || c >= dims.c_in { return; }
    store_taps(split, block * 4u, c, acc);
    if c == 0u {
        var whole = vec4f();
        for (var i = 0u; i < 8u; i++) { whole += tile[i / 2u % 2u][i % 2u][i / 4u][local % 8u][0]; }
        store_bias(split, block * 4u, whole);
    }
}

// acc + what window `i` of a four in `tile` gives to a thread's block and channel.
fn correlate_window(acc: Taps, i: u32, four: u32, local: u32) -> Taps {
    let block = local % 8u;
    let channel = local / 8u;
    return correlate(acc, Window(tile[i / 2u][i % 2u][four][block][0], tile[i / 2u][i % 2u][four][block][1],
                                 tile[i / 2u][i % 2u][four][block][2], tile[i / 2u][i % 2u][four][block][3]),
                     Patch(tile[i / 2u][i % 2u][four][channel][4], tile[i / 2u][i % 2u][four][channel][5],
                           tile[i / 2u][i % 2u][four][channel][6], tile[i / 2u][i % 2u][four][channel][7]));
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

// What the windows in `tile` give, two to each thread: their gradients are at `at`, from window `own` on.
fn correlate_part(s: Sum, at: u32, windows: u32, own: u32) -> Sum {
    return correlate_one(correlate_one(s, at, own < windows, 0u, own),
                         at + 2u * dims.c_out, own + 8u < windows, 1u, own);
}

fn correlate_one(s: Sum, at: u32, there: bool, eight: u32, own: u32) -> Sum {
    let u = upstream(at, there);
    let v = Window(where_code(u, 0u), where_code(u, 1u), where_code(u, 2u), where_code(u, 3u));
    let x = Patch(tile[0][0][eight][own][0], tile[0][0][eight][own][1],
                  tile[0][0][eight][own][2], tile[0][0][eight][own][3]);
    return Sum(correlate(s.taps, v, x), s.bias + alive(u));
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
    var at_dy = (range.x + local / 8u) * (dims.c_out / 4u) + block;
    var s = Sum(no_taps(), vec4f());
    for (var first = range.x; first < range.y; first += PART_WINDOWS) {
        workgroupBarrier();
        let source = pixels_at(at_x, first + local % PART_WINDOWS < range.y);
        let plane = source.start + p.c * dims.h_in * dims.w_in;
        tile[0][0][local % PART_WINDOWS / 8u][local % 8u][local / PART_WINDOWS] =
            pixel_row(plane, source.row + local / PART_WINDOWS, source.column, affine);
        workgroupBarrier();
        s = correlate_part(s, at_dy, range.y - first, local / 8u);
        at_dy += PART_WINDOWS * (dims.c_out / 4u);
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
    var at_dy = (range.x + local / 8u) * (dims.c_out / 4u) + block;
    var s = Sum(no_taps(), vec4f());
    for (var first = range.x; first < range.y; first += PART_WINDOWS) {
        workgroupBarrier();
        let there = first + local % PART_WINDOWS < range.y;
        tile[0][0][local % PART_WINDOWS / 8u][local % 8u][local / PART_WINDOWS] =
            row_planes(row_of(at_x, local / PART_WINDOWS, there, dims.x_position, image), p.c);
        workgroupBarrier();
        s = correlate_part(s, at_dy, range.y - first, local / 8u);
        at_dy += PART_WINDOWS * (dims.c_out / 4u);
        at_x = further(at_x, step);
    }
    store_part(p, local, s);
}

// Adds what the eight threads of each block have, and stores it. A thread's taps are a unit, and two threads' biases
// one behind all of these.
fn store_part(p: Part, local: u32, s: Sum) {
    workgroupBarrier();
    let eight = local / 8u;
    tile[eight / 2u % 2u][eight % 2u][eight / 4u][local % 8u][0] = s.taps.t00;
    tile[eight / 2u % 2u][eight % 2u][eight / 4u][local % 8u][1] = s.taps.t01;
    tile[eight / 2u % 2u][eight % 2u][eight / 4u][local % 8u][2] = s.taps.t02;
    tile[eight / 2u % 2u][eight % 2u][eight / 4u][local % 8u][3] = s.taps.t10;
    tile[eight / 2u % 2u][eight % 2u][eight / 4u][local % 8u][4] = s.taps.t11;
    tile[eight / 2u % 2u][eight % 2u][eight / 4u][local % 8u][5] = s.taps.t12;
    tile[eight / 2u % 2u][eight % 2u][eight / 4u][local % 8u][6] = s.taps.t20;
    tile[eight / 2u % 2u][eight % 2u][eight / 4u][local % 8u][7] = s.taps.t21;
    tile[eight / 2u % 2u][eight % 2u][eight / 4u][local % 8u][8] = s.taps.t22;
    tile[local / 32u][local / 16u % 2u][2][local / 2u % 8u][local % 2u] = s.bias;
    workgroupBarrier();
    let own = local % 8u;
    let o = (p.block_base + own) * 4u;
    if o >= dims.c_out { return; }
    add_tap(p, own, eight);
    if local < 8u { add_tap(p, own, 8u); }
    if p.c == 0u && eight == 1u {
        var sum = vec4f();
        for (var i = own; i < WORKGROUP; i += 8u) { sum += tile[i / 32u][i / 16u % 2u][2][i / 2u % 8u][i % 2u]; }
        store_bias(p.split, o, sum);
    }
}

fn add_tap(p: Part, own: u32, tap: u32) {
    var sum = vec4f();
    for (var i = 0u; i < WORKGROUP / 8u; i++) { sum += tile[i / 2u % 2u][i % 2u][i / 4u][own][tap]; }
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
