// Threads of a one-dimensional workgroup. Every reference kernel uses it, so that the host can count workgroups.
const WORKGROUP = 64u;

// More than 65535 workgroups do not fit one axis: the host folds them over x and y, and this unfolds them.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
    return group.x + group.y * groups.x;
}

fn flat_thread(group: vec3u, groups: vec3u, local: u32) -> u32 {
    return flat_group(group, groups) * WORKGROUP + local;
}

fn groups_of(threads: u32) -> u32 {
    return (threads + WORKGROUP - 1u) / WORKGROUP;
}

// A dispatch with two kinds of work spreads the `count` workgroups of the first kind evenly among the others, because a
// software driver (lavapipe) gives each processor one run of them: halves with unlike work would end at unlike times.
// More than 65535 workgroups, whose product might not fit 32 bits, are taken one kind after the other.
struct Share { first: bool, at: u32 }  // which kind this workgroup does, and which of that kind it is

fn share(group: vec3u, groups: vec3u, count: u32) -> Share {
    let at = flat_group(group, groups);
    let before = first_kind_before(at, groups, count);
    let is_first = first_kind_before(at + 1u, groups, count) > before;
    return Share(is_first, select(at - before, before, is_first));
}

fn first_kind_before(at: u32, groups: vec3u, count: u32) -> u32 {
    if groups.y > 1u { return min(at, count); }
    return at * count / groups.x;
}
