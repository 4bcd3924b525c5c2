// What goes with a convolution in register tiles (common/conv2d_tiled.wgsl) and follows its sums z: batch norm, the
// addition of a residual block, ReLU and a 2x2 pooling in one pass forward and two backward. Channels last, four at
// once.
//
//   v    = weight (z - mean) inv + bias + skip          y = max(0, v), or the largest of max(0, v) over a window
//   g    = dy where v > 0, else 0 (of a window: at its first largest v)                dskip = g
//   dbias = sum g        dweight = sum g xhat           dz = weight inv (g - dbias/m - xhat dweight/m)
//
// Statistics come in parts of fixed shape, from the convolution or from `reduce_backward`, and one workgroup adds those
// of a block of channels: the same bits every time.

struct Norm {
    channels: u32,           // of z
    h: u32, w: u32,          // of z
    parts: u32, share: u32,  // of the sums backward, for each block of channels; elements or windows of a part
    eps: f32, momentum: f32,
    relu: u32, adds: u32,
    positions: u32,          // of z, or windows, that a thread does
    bias: u32,               // whether the convolution has one
}
@group(0) @binding(1) var<uniform> dims: Norm;
@group(0) @binding(2) var<storage, read> z: array<vec4f>;                  // [n, h, w, blocks]
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;            // as z, or [n, h / 2, w / 2, blocks]
@group(0) @binding(4) var<storage, read> y_in: array<vec4f>;               // y, read back
@group(0) @binding(5) var<storage, read> skip: array<vec4f>;               // as z
@group(0) @binding(6) var<storage, read> found: array<Part>;               // [blocks, groups of tiles]
@group(0) @binding(7) var<storage, read_write> channels: array<Channels>;  // [blocks]
@group(0) @binding(8) var<storage, read> table: array<Channels>;           // channels, read back
@group(0) @binding(9) var<storage, read> weight: array<f32>;               // [channels]
@group(0) @binding(10) var<storage, read> bias: array<f32>;                // [channels]
@group(0) @binding(11) var<storage, read> conv_bias: array<f32>;           // [channels]
@group(0) @binding(12) var<storage, read_write> running_mean: array<f32>;  // [channels]
@group(0) @binding(13) var<storage, read_write> running_var: array<f32>;   // [channels]
@group(0) @binding(14) var<storage, read> kept_mean: array<f32>;           // running_mean, read back
@group(0) @binding(15) var<storage, read> kept_var: array<f32>;            // running_var, read back
@group(0) @binding(16) var<storage, read> dy: array<vec4f>;                // as y
@group(0) @binding(17) var<storage, read_write> dz: array<vec4f>;          // as z
@group(0) @binding(18) var<storage, read_write> dskip: array<vec4f>;       // as z
@group(0) @binding(19) var<storage, read_write> sums: array<Sums>;         // [parts, blocks]
@group(0) @binding(20) var<storage, read> found_sums: array<Sums>;         // sums, read back
@group(0) @binding(21) var<storage, read_write> dweight: array<f32>;       // [channels]
@group(0) @binding(22) var<storage, read_write> dbias: array<f32>;         // [channels]
@group(0) @binding(23) var<storage, read_write> shares: array<Sums>;       // [blocks]: dbias/m, dweight/m
@group(0) @binding(24) var<storage, read> taken: array<Sums>;              // shares, read back
@group(0) @binding(25) var<storage, read> planes_in: array<f32>;           // [n, channels, h, w]
@group(0) @binding(26) var<storage, read_write> planes: array<f32>;        // [n, channels, h, w]

// Of the gradient, and of its products with xhat.
struct Sums { g: vec4f, products: vec4f }

fn blocks() -> u32 { return (dims.channels + 3u) / 4u; }

fn four_of(first: u32, a: f32, b: f32, c: f32, d: f32) -> vec4f {
    return select(vec4f(), vec4f(a, b, c, d), vec4u(first, first + 1u, first + 2u, first + 3u) < vec4u(dims.channels));
}

// What normalises a batch, from the parts of its statistics; and the running statistics.
@compute @workgroup_size(WORKGROUP)
fn of_batch(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let block = flat_group(group, groups);
    if block >= blocks() { return; }
    var own = Part(vec4f(), vec4f(), vec4f());
    let parts = parts_of_batch();
    for (var i = local; i < parts; i += WORKGROUP) {
        own = join(own, found[block * parts + i]);
    }
    let whole = join_group(own, local);
    if local > 0u { return; }
    let m = whole.count.x;
    channels[block] = Channels(whole.mean, vec4f(1.0) / sqrt(whole.squares / m + dims.eps), weights(block), biases(block));
    // The convolution's own bias is left out of z: it changes nothing but the mean.
    var mean = whole.mean;
    if dims.bias == 1u { mean += conv_biases(block); }
    let variance = whole.squares / (m - 1.0);
    keep_running(block * 4u, mean.x, variance.x);
    keep_running(block * 4u + 1u, mean.y, variance.y);
    keep_running(block * 4u + 2u, mean.z, variance.z);
    keep_running(block * 4u + 3u, mean.w, variance.w);
}

fn keep_running(c: u32, mean: f32, variance: f32) {
    running_mean[c] = mix(running_mean[c], mean, dims.momentum);
    running_var[c] = mix(running_var[c], variance, dims.momentum);
}

// The groups of tiles of the convolution, as it counts them.
fn parts_of_batch() -> u32 {
    return groups_of(batch.count * ((dims.h + 3u) / 4u) * ((dims.w + 3u) / 4u));
}

fn weights(block: u32) -> vec4f {
    let c = block * 4u;
    return vec4f(weight[c], weight[c + 1u], weight[c + 2u], weight[c + 3u]);
}

fn biases(block: u32) -> vec4f {
    let c = block * 4u;
    return vec4f(bias[c], bias[c + 1u], bias[c + 2u], bias[c + 3u]);
}

fn conv_biases(block: u32) -> vec4f {
    let c = block * 4u;
    return vec4f(conv_bias[c], conv_bias[c + 1u], conv_bias[c + 2u], conv_bias[c + 3u]);
}

// What normalises in inference, the convolution's own bias included.
@compute @workgroup_size(WORKGROUP)
fn of_running(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
              @builtin(local_invocation_index) local: u32) {
    let block = flat_thread(group, groups, local);
    if block >= blocks() { return; }
    let c = block * 4u;
    var mean = vec4f(kept_mean[c], kept_mean[c + 1u], kept_mean[c + 2u], kept_mean[c + 3u]);
    let variance = vec4f(kept_var[c], kept_var[c + 1u], kept_var[c + 2u], kept_var[c + 3u]);
    if dims.bias == 1u { mean -= conv_biases(block); }
    channels[block] = Channels(mean, vec4f(1.0) / sqrt(variance + dims.eps), weights(block), biases(block));
}

// Where no batch norm follows.
@compute @workgroup_size(WORKGROUP)
fn of_bias(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let block = flat_thread(group, groups, local);
    if block >= blocks() { return; }
    var value = vec4f();
    if dims.bias == 1u { value = conv_biases(block); }
    channels[block] = Channels(vec4f(), vec4f(1.0), vec4f(1.0), value);
}

// A thread's part: some elements of one block of channels, side by side.
struct Run { block: u32, first: u32, end: u32 }

fn run(thread: u32, positions: u32) -> Run {
    let first = thread / blocks() * dims.positions;
    return Run(thread % blocks(), min(first, positions), min(first + dims.positions, positions));
}

fn elements() -> u32 { return batch.count * dims.h * dims.w; }
fn windows() -> u32 { return batch.count * (dims.h / 2u) * (dims.w / 2u); }

@compute @workgroup_size(WORKGROUP)
fn apply(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
         @builtin(local_invocation_index) local: u32) {
    let own = run(flat_thread(group, groups, local), elements());
    let c = table[own.block];
    for (var i = own.first; i < own.end; i++) {
        let at = i * blocks() + own.block;
        var v = normed(c, z[at]);
        if dims.adds == 1u { v += skip[at]; }
        if dims.relu == 1u { v = rectified(v); }
        y[at] = v;
    }
}

// Where a window's first element is, in block 0.
fn corner(window: u32) -> u32 {
    let columns = dims.w / 2u;
    let rows = dims.h / 2u;
    let image = window / (rows * columns);
    return ((image * dims.h + window / columns % rows * 2u) * dims.w + window % columns * 2u) * blocks();
}

fn window_at(c: Channels, at: u32) -> Window {
    let line = dims.w * blocks();
    return window(c, z[at], z[at + blocks()], z[at + line], z[at + line + blocks()]);
}

@compute @workgroup_size(WORKGROUP)
fn apply_pooled(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                @builtin(local_invocation_index) local: u32) {
    let own = run(flat_thread(group, groups, local), windows());
    let c = table[own.block];
    for (var i = own.first; i < own.end; i++) {
        y[i * blocks() + own.block] = largest(window_at(c, corner(i) + own.block));
    }
}

// The gradient that reaches an element through ReLU. Where something was added, the output says what was above 0.
fn upstream(c: Channels, at: u32, value: vec4f) -> vec4f {
    let g = dy[at];
    if dims.relu == 0u { return g; }
    if dims.adds == 1u { return select(g, vec4f(), y_in[at] <= vec4f()); }
    return select(g, vec4f(), normed(c, value) <= vec4f());
}

// That of a window's four elements: the first of the largest has it, if it is above 0.
fn upstream_of(w: Window, g: vec4f) -> Window {
    let most = bits(largest(w));
    let a = bits(w.a) == most;
    let b = (bits(w.b) == most) & !a;
    let c = (bits(w.c) == most) & !(a | b);
    let d = !(a | b | c);
    let some = most > vec4u();
    return Window(select(vec4f(), g, a & some), select(vec4f(), g, b & some), select(vec4f(), g, c & some),
                  select(vec4f(), g, d & some));
}

fn more(s: Sums, c: Channels, g: vec4f, value: vec4f) -> Sums {
    return Sums(s.g + g, fma(g, (value - c.mean) * c.inv, s.products));
}

fn no_sums() -> Sums { return Sums(vec4f(), vec4f()); }

// A thread sums over `share` elements, or windows, of one block of channels: neighbours have neighbouring blocks, and
// read what lies side by side. Its number is that of its part.
fn part_run(thread: u32, positions: u32) -> Run {
    let first = thread / blocks() * dims.share;
    return Run(thread % blocks(), min(first, positions), min(first + dims.share, positions));
}

@compute @workgroup_size(WORKGROUP)
fn reduce_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= dims.parts * blocks() { return; }
    let part = part_run(at, elements());
    let c = table[part.block];
    var own = no_sums();
    for (var i = part.first; i < part.end; i++) {
        let here = i * blocks() + part.block;
        let value = z[here];
        own = more(own, c, upstream(c, here, value), value);
    }
    sums[at] = own;
}

@compute @workgroup_size(WORKGROUP)
fn reduce_backward_pooled(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                          @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= dims.parts * blocks() { return; }
    let part = part_run(at, windows());
    let c = table[part.block];
    let line = dims.w * blocks();
    var own = no_sums();
    for (var i = part.first; i < part.end; i++) {
        let here = corner(i) + part.block;
        let g = upstream_of(window_at(c, here), dy[i * blocks() + part.block]);
        own = more(own, c, g.a, z[here]);
        own = more(own, c, g.b, z[here + blocks()]);
        own = more(own, c, g.c, z[here + line]);
        own = more(own, c, g.d, z[here + line + blocks()]);
    }
    sums[at] = own;
}

@compute @workgroup_size(WORKGROUP)
fn finish_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    let block = flat_group(group, groups);
    if block >= blocks() { return; }
    var own = no_sums();
    for (var i = local; i < dims.parts; i += WORKGROUP) {
        let part = found_sums[i * blocks() + block];
        own = Sums(own.g + part.g, own.products + part.products);
    }
    let g = sum_over_group(own.g, local);
    let products = sum_over_group(own.products, local);
    if local > 0u { return; }
    let m = f32(elements());
    shares[block] = Sums(g / m, products / m);
    keep_gradient(block * 4u, g.x, products.x);
    keep_gradient(block * 4u + 1u, g.y, products.y);
    keep_gradient(block * 4u + 2u, g.z, products.z);
    keep_gradient(block * 4u + 3u, g.w, products.w);
}

fn keep_gradient(c: u32, of_bias: f32, of_weight: f32) {
    dbias[c] = of_bias;
    dweight[c] = of_weight;
}

fn of_element(c: Channels, taken_away: Sums, g: vec4f, value: vec4f) -> vec4f {
    let xhat = (value - c.mean) * c.inv;
    return c.weight * c.inv * (g - taken_away.g - xhat * taken_away.products);
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let own = run(flat_thread(group, groups, local), elements());
    let c = table[own.block];
    let away = taken[own.block];
    for (var i = own.first; i < own.end; i++) {
        let at = i * blocks() + own.block;
        dz[at] = of_element(c, away, upstream(c, at, z[at]), z[at]);
    }
}

// The same, and the gradient of what was added.
@compute @workgroup_size(WORKGROUP)
fn backward_added(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                  @builtin(local_invocation_index) local: u32) {
    let own = run(flat_thread(group, groups, local), elements());
    let c = table[own.block];
    let away = taken[own.block];
    for (var i = own.first; i < own.end; i++) {
        let at = i * blocks() + own.block;
        let g = upstream(c, at, z[at]);
        dskip[at] = g;
        dz[at] = of_element(c, away, g, z[at]);
    }
}

// What no window covers gets its gradient too: that of the statistics.
@compute @workgroup_size(WORKGROUP)
fn backward_pooled(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    let rows = (dims.h + 1u) / 2u;
    let columns = (dims.w + 1u) / 2u;
    let own = run(flat_thread(group, groups, local), batch.count * rows * columns);
    let c = table[own.block];
    let away = taken[own.block];
    let line = dims.w * blocks();
    for (var i = own.first; i < own.end; i++) {
        let image = i / (rows * columns);
        let row = i / columns % rows;
        let column = i % columns;
        let at = ((image * dims.h + row * 2u) * dims.w + column * 2u) * blocks() + own.block;
        let below = row * 2u + 1u < dims.h;
        let right = column * 2u + 1u < dims.w;
        if below && right {
            let window = (image * (dims.h / 2u) + row) * (dims.w / 2u) + column;
            let g = upstream_of(window_at(c, at), dy[window * blocks() + own.block]);
            dz[at] = of_element(c, away, g.a, z[at]);
            dz[at + blocks()] = of_element(c, away, g.b, z[at + blocks()]);
            dz[at + line] = of_element(c, away, g.c, z[at + line]);
            dz[at + line + blocks()] = of_element(c, away, g.d, z[at + line + blocks()]);
        } else {
            dz[at] = of_element(c, away, vec4f(), z[at]);
            if right { dz[at + blocks()] = of_element(c, away, vec4f(), z[at + blocks()]); }
            if below { dz[at + line] = of_element(c, away, vec4f(), z[at + line]); }
        }
    }
}

// Without a batch norm: dz = dskip = g.
@compute @workgroup_size(WORKGROUP)
fn masked(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= elements() * blocks() { return; }
    dz[at] = select(dy[at], vec4f(), y_in[at] <= vec4f());
}

// From planes, with zeros past the last channel.
@compute @workgroup_size(WORKGROUP)
fn to_last(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= elements() * blocks() { return; }
    let c = at % blocks() * 4u;
    let plane = dims.h * dims.w;
    let position = at / blocks();
    let start = (position / plane * dims.channels + c) * plane + position % plane;
    let last = (dims.channels - 1u - c) * plane;
    y[at] = four_of(c, planes_in[start], planes_in[start + min(plane, last)],
                    planes_in[start + min(2u * plane, last)], planes_in[start + min(3u * plane, last)]);
}

@compute @workgroup_size(WORKGROUP)
fn to_planes(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
             @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= elements() * blocks() { return; }
    let c = at % blocks() * 4u;
    let plane = dims.h * dims.w;
    let position = at / blocks();
    let start = (position / plane * dims.channels + c) * plane + position % plane;
    let v = y_in[at];
    planes[start] = v.x;
    if c + 1u < dims.channels { planes[start + plane] = v.y; }
    if c + 2u < dims.channels { planes[start + 2u * plane] = v.z; }
    if c + 3u < dims.channels { planes[start + 3u * plane] = v.w; }
}
