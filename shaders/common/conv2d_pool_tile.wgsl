// What a workgroup's threads share in conv2d_pool_tiled.wgsl: how patches and taps lie in its memory, and the products
// of y and dx.

// A unit holds what one thread reads of one channel: two windows' patches, a block's taps, or a window's gradient and a
// patch. So a thread works out where its unit is, and the rest are constants. A unit is nine vectors even where eight
// are used: eight threads load 16 bytes each at a time, and units of an odd number of vectors begin in eight different
// groups of banks. Counted for every load and store of `tile`: each bank has one word to give at a time.
//
// The first two numbers of a unit are those of its channel, 2 * two + one, or of its window: a loop goes over one of
// them, and the other one is written out, and so is a constant too. The third counts eights of units.
var<workgroup> tile: array<array<array<array<array<vec4f, 9>, 8>, 3>, 2>, 2>;

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

// Which eight of a channel's units has the first taps, behind the patches.
fn taps_begin(a: Area) -> u32 { return a.width / 16u; }

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

// One row of a patch, of one channel: its unit has [row, window of the pair]. A thread keeps row `local` of the 16
// windows `eight`, row by row of window by window.
fn keep_row(local: u32, eight: u32, channel: u32, row: vec4f) {
    tile[channel / 2u][channel % 2u][eight][local / 8u][local % 4u * 2u + local / 4u % 2u] = row;
}

// Of four channels.
fn keep_rows(local: u32, eight: u32, rows: mat4x4f) {
    keep_row(local, eight, 0u, rows[0]);
    keep_row(local, eight, 1u, rows[1]);
    keep_row(local, eight, 2u, rows[2]);
    keep_row(local, eight, 3u, rows[3]);
}

// The weights of four channels from `c` on. All loads stand before the stores, so that they are under way together.
fn keep_taps(a: Area, local: u32, c: u32) {
    let begin = taps_begin(a);
    if a.wide == 16u {
        // A thread has one block of one channel.
        let block = local % 16u;
        let channel = local / 16u;
        let eight = begin + block / 8u;
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
        tile[channel / 2u][channel % 2u][eight][block % 8u][0] = t0;
        tile[channel / 2u][channel % 2u][eight][block % 8u][1] = t1;
        tile[channel / 2u][channel % 2u][eight][block % 8u][2] = t2;
        tile[channel / 2u][channel % 2u][eight][block % 8u][3] = t3;
        tile[channel / 2u][channel % 2u][eight][block % 8u][4] = t4;
        tile[channel / 2u][channel % 2u][eight][block % 8u][5] = t5;
        tile[channel / 2u][channel % 2u][eight][block % 8u][6] = t6;
        tile[channel / 2u][channel % 2u][eight][block % 8u][7] = t7;
        tile[channel / 2u][channel % 2u][eight][block % 8u][8] = t8;
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
        tile[channel / 2u][channel % 2u][begin][block][tap] = t0;
        tile[channel / 2u][channel % 2u][begin][block][tap + 1u] = t1;
        tile[channel / 2u][channel % 2u][begin][block][tap + 2u] = t2;
        tile[channel / 2u][channel % 2u][begin][block][tap + 3u] = t3;
        if tap == 0u { tile[channel / 2u][channel % 2u][begin][block][4] = taps[at + 4u * a.count]; }
    }
}

// Of one channel.
fn keep_taps_of_one(a: Area, local: u32, c: u32) {
    let begin = taps_begin(a);
    let block = local & (a.wide - 1u);
    let step = select(8u, 4u, a.wide == 16u);
    for (var tap = select(local / 8u, local / 16u, a.wide == 16u); tap < 9u; tap += step) {
        tile[0][0][begin + block / 8u][block % 8u][tap] = taps[(c * 9u + tap) * a.count + min(a.base + block, a.count - 1u)];
    }
}

// What the channels in `tile` give. Row after row of taps, so that few vectors are held at a time beside the 16 of
// sums: 120 registers are enough. Two channels in a turn: by count it is 91 % multiply-adds, with one it is 89 or 90.
fn convolve_tile(sums: Sums, a: Area, o: Own) -> Sums {
    var s = sums;
    for (var two = 0u; two < 2u; two++) {
        s = convolve_one(s, a, o, two, 0u);
        s = convolve_one(s, a, o, two, 1u);
    }
    return s;
}

// What channel 2 * two + one gives.
fn convolve_one(sums: Sums, a: Area, o: Own, two: u32, one: u32) -> Sums {
    var s = sums;
    // The eight of the patches, and those of the two blocks' taps.
    let x = o.pair / 8u;
    let low = taps_begin(a);
    let high = low + a.across / 8u;
    let pair = o.pair % 8u;
    let above = (o.column + a.across) % 8u;
    var upper0 = tile[two][one][x][pair][0];
    var upper1 = tile[two][one][x][pair][1];
    for (var row = 0u; row < 3u; row++) {
        let lower0 = tile[two][one][x][pair][row * 2u + 2u];
        let lower1 = tile[two][one][x][pair][row * 2u + 3u];
        let a0 = taps_row(two, one, low, o.column, row);
        s.low0 = convolve_row(s.low0, upper0, lower0, a0);
        s.low1 = convolve_row(s.low1, upper1, lower1, a0);
        let a1 = taps_row(two, one, high, above, row);
        s.high0 = convolve_row(s.high0, upper0, lower0, a1);
        s.high1 = convolve_row(s.high1, upper1, lower1, a1);
        upper0 = lower0;
        upper1 = lower1;
    }
    return s;
}

fn taps_row(two: u32, one: u32, eight: u32, block: u32, row: u32) -> Three {
    return Three(tile[two][one][eight][block][row * 3u], tile[two][one][eight][block][row * 3u + 1u],
                 tile[two][one][eight][block][row * 3u + 2u]);
}

// The same for one block: 16 windows are one eight of pairs, and the taps are behind it.
fn convolve_small(sums: Half, o: Own) -> Half {
    var s = sums;
    for (var two = 0u; two < 2u; two++) {
        s = convolve_one_small(s, o, two, 0u);
        s = convolve_one_small(s, o, two, 1u);
    }
    return s;
}

fn convolve_one_small(sums: Half, o: Own, two: u32, one: u32) -> Half {
    var s = sums;
    var upper0 = tile[two][one][0][o.pair][0];
    var upper1 = tile[two][one][0][o.pair][1];
    for (var row = 0u; row < 3u; row++) {
        let lower0 = tile[two][one][0][o.pair][row * 2u + 2u];
        let lower1 = tile[two][one][0][o.pair][row * 2u + 3u];
        let w = taps_row(two, one, 1u, o.column, row);
        s.v0 = convolve_row(s.v0, upper0, lower0, w);
        s.v1 = convolve_row(s.v1, upper1, lower1, w);
        upper0 = lower0;
        upper1 = lower1;
    }
    return s;
}
