// BatchNorm2d, each channel over the batch and its plane: m = images * plane elements.
//
//   mean = 1/m sum x             var = 1/m sum (x - mean)^2              inv = 1 / sqrt(var + eps)
//   xhat = (x - mean) inv        y = weight xhat + bias
//   dbias = sum dy               dweight = sum dy xhat                   dx = weight inv (dy - dbias/m - xhat dweight/m)
//   running_mean = (1 - momentum) running_mean + momentum mean           running_var likewise, of var m/(m-1)
//
// Sums are taken in two levels of fixed shape, so that their bits are the same every time. A workgroup takes every
// `splits`-th image of a channel; `finish` and `finish_backward` add what the workgroups found. The variance of a part
// is around the part's own mean, and parts are joined by Chan's formula: nothing cancels, however far from 0 the mean
// is.

struct BatchNorm2d {
    channels: u32,
    plane: u32,      // height * width
    splits: u32,     // workgroups for each channel
    eps: f32,
    momentum: f32,
}
@group(0) @binding(1) var<uniform> dims: BatchNorm2d;
@group(0) @binding(2) var<storage, read> x: array<f32>;                    // [n, channels, plane]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;              // [n, channels, plane]
@group(0) @binding(4) var<storage, read> weight: array<f32>;               // [channels]
@group(0) @binding(5) var<storage, read> bias: array<f32>;                 // [channels]
@group(0) @binding(6) var<storage, read_write> parts: array<vec2f>;        // [channels, splits]
@group(0) @binding(7) var<storage, read> found: array<vec2f>;              // parts, read back
@group(0) @binding(8) var<storage, read_write> saved: array<f32>;          // mean [channels], then inv [channels]
@group(0) @binding(9) var<storage, read> statistics: array<f32>;           // saved, read back
@group(0) @binding(10) var<storage, read_write> running_mean: array<f32>;  // [channels]
@group(0) @binding(11) var<storage, read_write> running_var: array<f32>;   // [channels]
@group(0) @binding(12) var<storage, read> kept_mean: array<f32>;           // running_mean, read back
@group(0) @binding(13) var<storage, read> kept_var: array<f32>;            // running_var, read back
@group(0) @binding(14) var<storage, read> dy: array<f32>;                  // [n, channels, plane]
@group(0) @binding(15) var<storage, read_write> dx: array<f32>;            // [n, channels, plane]
@group(0) @binding(16) var<storage, read_write> dweight: array<f32>;       // [channels]
@group(0) @binding(17) var<storage, read_write> dbias: array<f32>;         // [channels]
@group(0) @binding(18) var<storage, read> sums_weight: array<f32>;         // dweight, read back
@group(0) @binding(19) var<storage, read> sums_bias: array<f32>;           // dbias, read back

// How many images the workgroup `split` of a channel takes.
fn images_of(split: u32) -> u32 {
    return (batch.count + dims.splits - 1u - split) / dims.splits;
}

// The number `i` of the elements that the workgroup `split` takes of a channel.
fn place(channel: u32, split: u32, i: u32) -> u32 {
    let image = split + i / dims.plane * dims.splits;
    return (image * dims.channels + channel) * dims.plane + i % dims.plane;
}

// Mean and sum of squared distances from it, of each part.
@compute @workgroup_size(WORKGROUP)
fn reduce(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let at = flat_group(group, groups);
    let channel = at / dims.splits;
    if channel >= dims.channels { return; }
    let split = at % dims.splits;
    let count = images_of(split) * dims.plane;
    var sum = 0.0;
    for (var i = local; i < count; i += WORKGROUP) {
        sum += x[place(channel, split, i)];
    }
    let mean = sum_over_group(vec4f(sum, 0.0, 0.0, 0.0), local).x / f32(max(count, 1u));
    var squares = vec2f(0.0);
    for (var i = local; i < count; i += WORKGROUP) {
        let distance = x[place(channel, split, i)] - mean;
        squares += vec2f(distance, distance * distance);
    }
    // The distances add up to what rounding did to the mean.
    let total = sum_over_group(vec4f(squares, 0.0, 0.0), local);
    if local == 0u {
        let off = total.x / f32(max(count, 1u));
        parts[at] = vec2f(mean + off, total.y - total.x * off);
    }
}

// The parts of each channel joined: what normalises, and what inference will use.
@compute @workgroup_size(WORKGROUP)
fn finish(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
          @builtin(local_invocation_index) local: u32) {
    let channel = flat_thread(group, groups, local);
    if channel >= dims.channels { return; }
    let m = f32(batch.count * dims.plane);
    let first = found[channel * dims.splits].x;
    var away = 0.0;
    for (var split = 0u; split < dims.splits; split++) {
        away += f32(images_of(split) * dims.plane) * (found[channel * dims.splits + split].x - first);
    }
    let mean = first + away / m;
    var squares = 0.0;
    for (var split = 0u; split < dims.splits; split++) {
        let part = found[channel * dims.splits + split];
        let distance = part.x - mean;
        squares += select(0.0, part.y + f32(images_of(split) * dims.plane) * distance * distance, images_of(split) > 0u);
    }
    saved[channel] = mean;
    saved[dims.channels + channel] = 1.0 / sqrt(squares / m + dims.eps);
    running_mean[channel] = mix(running_mean[channel], mean, dims.momentum);
    running_var[channel] = mix(running_var[channel], squares / (m - 1.0), dims.momentum);
}

@compute @workgroup_size(WORKGROUP)
fn forward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
           @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.channels * dims.plane { return; }
    let channel = at / dims.plane % dims.channels;
    let xhat = (x[at] - statistics[channel]) * statistics[dims.channels + channel];
    y[at] = fma(weight[channel], xhat, bias[channel]);
}

// In inference, by the running statistics.
@compute @workgroup_size(WORKGROUP)
fn infer(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
         @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.channels * dims.plane { return; }
    let channel = at / dims.plane % dims.channels;
    let xhat = (x[at] - kept_mean[channel]) / sqrt(kept_var[channel] + dims.eps);
    y[at] = fma(weight[channel], xhat, bias[channel]);
}

// Sums of dy and of dy xhat, of each part.
@compute @workgroup_size(WORKGROUP)
fn reduce_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    let at = flat_group(group, groups);
    let channel = at / dims.splits;
    if channel >= dims.channels { return; }
    let split = at % dims.splits;
    let count = images_of(split) * dims.plane;
    let mean = statistics[channel];
    let inv = statistics[dims.channels + channel];
    var sums = vec2f(0.0);
    for (var i = local; i < count; i += WORKGROUP) {
        let here = place(channel, split, i);
        sums += dy[here] * vec2f(1.0, (x[here] - mean) * inv);
    }
    let total = sum_over_group(vec4f(sums, 0.0, 0.0), local);
    if local == 0u { parts[at] = total.xy; }
}

@compute @workgroup_size(WORKGROUP)
fn finish_backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
                   @builtin(local_invocation_index) local: u32) {
    let channel = flat_thread(group, groups, local);
    if channel >= dims.channels { return; }
    var sums = vec2f(0.0);
    for (var split = 0u; split < dims.splits; split++) {
        sums += found[channel * dims.splits + split];
    }
    dbias[channel] = sums.x;
    dweight[channel] = sums.y;
}

@compute @workgroup_size(WORKGROUP)
fn backward(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
            @builtin(local_invocation_index) local: u32) {
    let at = flat_thread(group, groups, local);
    if at >= batch.count * dims.channels * dims.plane { return; }
    let channel = at / dims.plane % dims.channels;
    let m = f32(batch.count * dims.plane);
    let inv = statistics[dims.channels + channel];
    let xhat = (x[at] - statistics[channel]) * inv;
    dx[at] = weight[channel] * inv * (dy[at] - sums_bias[channel] / m - xhat * (sums_weight[channel] / m));
}
