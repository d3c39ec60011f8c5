// memory: threads share parts of dot products, and weights, through workgroup memory. Each pair of row and group has an
// owner among all threads of the workgroup; a thread owns up to OWNERS of them in a round.

struct Thread {
    @builtin(local_invocation_index) index: u32,
}

fn index_of(thread: Thread) -> u32 {
    return thread.index;
}

fn owns(work: Work, owner: u32) -> bool {
    return work.local + owner * WORKGROUP < ROUND * GROUPS;
}

// The row of the round, and the group, that a thread owns.
fn owned_row(work: Work, owner: u32) -> u32 {
    return (work.local + owner * WORKGROUP) / GROUPS;
}

fn owned_group(work: Work, owner: u32) -> u32 {
    return (work.local + owner * WORKGROUP) % GROUPS;
}

// Whether it is the one that tells of them after the last chunk.
fn tells(work: Work, owner: u32) -> bool {
    return owns(work, owner);
}

fn share_dots(
    work: Work,
#for i in ROUND
    dots_{i}: vec4<f32>,
#end
) {
#for i in ROUND
    shared_parts[({i}u * GROUPS + work.group) * PART_STRIDE + work.lane] = dots_{i};
#end
    workgroupBarrier();
}

fn owned_dots(work: Work, owner: u32) -> vec4<f32> {
    let own = work.local + owner * WORKGROUP;
    var dots = vec4<f32>();
#for l in LANES
    dots += shared_parts[own * PART_STRIDE + {l}u];
#end
    return dots;
}

// `row` is one of the tile.
fn give_weights(row: u32, group: u32, weights: vec4<f32>, factor: f32) {
    shared_weights[row * GROUPS + group] = weights;
    shared_factors[row / 4u * GROUPS + group][row % 4u] = factor;
}

fn share_weights(work: Work, round: u32) {
    workgroupBarrier();
}

fn given_weights(work: Work, row: u32) -> vec4<f32> {
    return shared_weights[row * GROUPS + work.group];
}

// Of four rows.
fn given_factors(work: Work, four: u32) -> vec4<f32> {
    return shared_factors[four * GROUPS + work.group];
}
