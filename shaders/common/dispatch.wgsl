// Threads of a one-dimensional workgroup. Every reference kernel uses it, so that the host can count workgroups.
const WORKGROUP = 64u;

// More than 65535 workgroups do not fit one axis: the host folds them over x and y, and this unfolds them.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
    return group.x + group.y * groups.x;
}

fn flat_thread(group: vec3u, groups: vec3u, local: u32) -> u32 {
    return flat_group(group, groups) * WORKGROUP + local;
}

// A dispatch with several kinds of work gives each its own workgroups, one kind after the other: how many this one has.
fn groups_of(threads: u32) -> u32 {
    return (threads + WORKGROUP - 1u) / WORKGROUP;
}
