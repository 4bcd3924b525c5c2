// GroupNorm, each group of channels of each image: m = channels of a group * plane elements, which lie side by side.
//
//   mean = 1/m sum x             var = 1/m sum (x - mean)^2              inv = 1 / sqrt(var + eps)
//   xhat = (x - mean) inv        y = weight xhat + bias                  g = weight dy
//   dx = inv (g - 1/m sum g - xhat 1/m sum g xhat)
//   dweight = sum dy xhat        dbias = sum dy                          of a channel, over the batch and its plane
//
// A workgroup owns a group of an image, forward and for dx. For the parameters one owns a channel of an image, and
// `finish_parameters` adds the images in their order. All sums have a fixed shape: the same bits every time. The
// variance is around the mean, which is found in two rounds: nothing cancels, however far from 0 it is.

struct GroupNorm {
    channels: u32,
    num_groups: u32,
    plane: u32,       // height * width
    eps: f32,
}
@group(0) @binding(1) var<uniform> dims: GroupNorm;
@group(0) @binding(2) var<storage, read> x: array<f32>;              // [n, channels, plane]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // [n, channels, plane]
@group(0) @binding(4) var<storage, read> weight: array<f32>;         // [channels]
@group(0) @binding(5) var<storage, read> bias: array<f32>;           // [channels]
@group(0) @binding(6) var<storage, read_write> saved: array<vec2f>;  // [n, num_groups]: mean, inv
@group(0) @binding(7) var<storage, read> statistics: array<vec2f>;   // saved, read back
@group(0) @binding(8) var<storage, read> dy: array<f32>;             // [n, channels, plane]
@group(0) @binding(9) var<storage, read_write> dx: array<f32>;       // [n, channels, plane]
@group(0) @binding(10) var<storage, read_write> parts: array<vec2f>; // [n, channels]: sums of dy, of dy xhat
@group(0) @binding(11) var<storage, read> found: array<vec2f>;       // parts, read back
@group(0) @binding(12) var<storage, read_write> dweight: array<f32>; // [channels]
@group(0) @binding(13) var<storage, read_write> dbias: array<f32>;   // [channels]

fn channels_of_group() -> u32 { return dims.channels / dims.num_groups; }

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_group(group, groups);
    if at >= batch.count * dims.num_groups { return; }
    let m = channels_of_group() * dims.plane;
    let first = at * m;
    let channel = at % dims.num_groups * channels_of_group();

    var sum = 0.0;
    for (var i = local; i < m; i += WORKGROUP) {
        sum += x[first + i];
    }
    let near = sum_over_group(vec4f(sum, 0.0, 0.0, 0.0), local).x / f32(m);
    var distances = vec2f(0.0);
    for (var i = local; i < m; i += WORKGROUP) {
        let distance = x[first + i] - near;
        distances += vec2f(distance, distance * distance);
    }
    // The distances add up to what rounding did to the mean.
    let total = sum_over_group(vec4f(distances, 0.0, 0.0), local);
    let off = total.x / f32(m);
    let inv = 1.0 / sqrt(max(total.y - total.x * off, 0.0) / f32(m) + dims.eps);
    if local == 0u { saved[at] = vec2f(near + off, inv); }
    for (var i = local; i < m; i += WORKGROUP) {
        let c = channel + i / dims.plane;
        // In two steps: their sum would be rounded as a number of the mean's size.
        y[first + i] = fma(weight[c], (x[first + i] - near - off) * inv, bias[c]);
    }
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let at = flat_group(group, groups);
    if at >= batch.count * dims.num_groups { return; }
    let m = channels_of_group() * dims.plane;
    let first = at * m;
    let channel = at % dims.num_groups * channels_of_group();
    let mean = statistics[at].x;
    let inv = statistics[at].y;

    var sums = vec2f(0.0);
    for (var i = local; i < m; i += WORKGROUP) {
        let g = weight[channel + i / dims.plane] * dy[first + i];
        sums += g * vec2f(1.0, (x[first + i] - mean) * inv);
    }
    let means = sum_over_group(vec4f(sums, 0.0, 0.0), local).xy / f32(m);
    for (var i = local; i < m; i += WORKGROUP) {
        let g = weight[channel + i / dims.plane] * dy[first + i];
        dx[first + i] = inv * (g - means.x - (x[first + i] - mean) * inv * means.y);
    }
}

@compute @workgroup_size(WORKGROUP)
fn reduce_parameters(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                     @builtin(local_invocation_index) local: u32) {
    let at = flat_group(group, groups);
    if at >= batch.count * dims.channels { return; }
    // [n, channels] are [n, num_groups] in runs.
    let of_group = statistics[at / channels_of_group()];
    var sums = vec2f(0.0);
    for (var i = local; i < dims.plane; i += WORKGROUP) {
        let here = at * dims.plane + i;
        sums += dy[here] * vec2f(1.0, (x[here] - of_group.x) * of_group.y);
    }
    let total = sum_over_group(vec4f(sums, 0.0, 0.0), local);
    if local == 0u { parts[at] = total.xy; }
}

@compute @workgroup_size(WORKGROUP)
fn finish_parameters(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                     @builtin(local_invocation_index) local: u32) {
    let channel = flat_thread(group, groups, local);
    if channel >= dims.channels { return; }
    var sums = vec2f(0.0);
    for (var n = 0u; n < batch.count; n++) {
        sums += found[n * dims.channels + channel];
    }
    dbias[channel] = sums.x;
    dweight[channel] = sums.y;
}
