// subgroup: the threads of a group are neighbours in a subgroup, and share parts of dot products, and weights, by
// shuffles: no thread waits for another subgroup. In each of the first steps a thread hands half of its rows to a
// neighbour and takes what that has of the other half, until it has one row, of which it is an owner; the other steps
// add up what the owners of a row have.

struct Thread {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) place: u32,
}

// Rows of a round, with rows of zeros up to a power of two.
const HANDED = 1u << HANDING_STEPS;

var<private> own_place: u32; // in the subgroup
var<private> own_dots: vec4<f32>;
var<private> own_weights: vec4<f32>;
var<private> own_factor: f32;
var<private> taken_weights: array<vec4<f32>, ROWS>;
var<private> taken_factors: array<vec4<f32>, ROW_FOURS>;

// Threads count by subgroups, so that neighbours are in one.
fn index_of(thread: Thread) -> u32 {
    own_place = thread.place;
    return thread.subgroup * thread.size + thread.place;
}

fn owns(work: Work, owner: u32) -> bool {
    return true;
}

// In the first step bit 0 of the lane decides about the highest bit of the row, and so on.
fn reversed(number: u32) -> u32 {
    return (reverseBits(number) >> 1u) >> (31u - HANDING_STEPS);
}

// Threads with a row of zeros compute the last row again.
fn owned_row(work: Work, owner: u32) -> u32 {
    return min(reversed(work.lane), ROUND - 1u);
}

fn owned_group(work: Work, owner: u32) -> u32 {
    return work.group;
}

fn tells(work: Work, owner: u32) -> bool {
    return work.lane < HANDED && reversed(work.lane) < ROUND;
}

fn share_dots(
    work: Work,
#for i in ROUND
    dots_{i}: vec4<f32>,
#end
) {
    var dots: array<vec4<f32>, HANDED>;
#for i in ROUND
    dots[{i}] = dots_{i};
#end
#for s in HANDING_STEPS
    {
        let upper = (work.lane & (1u << {s}u)) != 0u;
#for i in HANDED_{s}
        {
            let half = HANDED >> ({s}u + 1u);
            let handed = select(dots[{i}u + half], dots[{i}], upper);
            dots[{i}] = select(dots[{i}], dots[{i}u + half], upper) + subgroupShuffleXor(handed, 1u << {s}u);
        }
#end
    }
#end
    own_dots = dots[0];
#for s in ADDING_STEPS
    own_dots += subgroupShuffleXor(own_dots, HANDED << {s}u);
#end
}

fn owned_dots(work: Work, owner: u32) -> vec4<f32> {
    return own_dots;
}

fn give_weights(row: u32, group: u32, weights: vec4<f32>, factor: f32) {
    own_weights = weights;
    own_factor = factor;
}

fn share_weights(work: Work, round: u32) {
    let first = own_place - work.lane;
#for i in ROUND
    {
        let owner = first + reversed({i}u);
        let row = round * ROUND + {i}u;
        taken_weights[row] = subgroupShuffle(own_weights, owner);
        taken_factors[row / 4u][row % 4u] = subgroupShuffle(own_factor, owner);
    }
#end
}

fn given_weights(work: Work, row: u32) -> vec4<f32> {
    return taken_weights[row];
}

fn given_factors(work: Work, four: u32) -> vec4<f32> {
    return taken_factors[four];
}
