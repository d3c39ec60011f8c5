// combine: joins the splits of attend.
//
// Grid:    x and z together count rows of tiles, y is the z of attend's grid; one workgroup each.
// Shapes:  partials   as parts/split has them
//          lengths    [sequence], then [sequence] of starts
//          output     strided [sequence, head, token, value_dim]
// Bounds:  rows past the queries of a sequence, and past the tiles, are dropped. A grid that is cut in two has some of
//          these, and sequences past the batch may have such tiles.
//
// All splits are read at once: first the largest scores and sums of weights, one split a thread, which a tree joins;
// then the sums of values, by VECTORS neighbouring threads for each of LANES splits, four loads a thread before the
// first is used.
//
// Before this the host writes WORKGROUP, the threads of a workgroup, VECTORS, those that read vectors of one split, and
// ROWS, those of a tile of attend.

#import params.wgsl
#import scores.wgsl
#import output.wgsl
#import place/{strided,packed}.wgsl

override STARTS: u32; // index of the first start
// As read/read has them.
override cache_heads: u32;
override cache_value_dim: u32;
override cache_value_vectors: u32;

const LANES = WORKGROUP / VECTORS;

@group(0) @binding(3) var<storage, read> partials: array<vec4<f32>>;

@group(0) @binding(5) var<storage, read> lengths: array<u32>;

fn cache_length(sequence: u32) -> u32 {
    return lengths[sequence];
}

fn cache_start(sequence: u32) -> u32 {
    return lengths[STARTS + sequence];
}

// (Largest score, sum of weights) of splits.
var<workgroup> stats: array<vec2<f32>, WORKGROUP>;
var<workgroup> factors: array<f32, WORKGROUP>;
var<workgroup> parts: array<vec4<f32>, WORKGROUP>;

fn join_stats(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
    let largest = max(a.x, b.x);
    return vec2<f32>(largest, kept(a.x, largest) * a.y + kept(b.x, largest) * b.y);
}

@compute @workgroup_size(WORKGROUP)
fn combine(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = group.z * groups.x + group.x;
    let place = place_of(index / ROWS, group.y, local);
    let row = row_of(place, index % ROWS);
    let splits = u32(partials[0].x);
    let tiles = u32(partials[0].y);
    if !row.inside || index >= tiles * ROWS {
        return;
    }
    let stride = cache_value_vectors + 1u;
    let first = 1u + (group.y * tiles * ROWS + index) * splits * stride;

    var own = vec2<f32>(HIDDEN, 0.0);
    for (var split = local; split < splits; split += WORKGROUP) {
        own = join_stats(own, partials[first + split * stride + cache_value_vectors].xy);
    }
    stats[local] = own;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if local < half {
            stats[local] = join_stats(stats[local], stats[local + half]);
        }
        workgroupBarrier();
    }
    let joined = stats[0];

    let lane = local / VECTORS;
    for (var turn = 0u; turn < cache_value_vectors; turn += VECTORS) {
        let vector = min(turn + local % VECTORS, cache_value_vectors - 1u);
        var sum = vec4<f32>();
        for (var base = 0u; base < splits; base += WORKGROUP) {
            let count = min(WORKGROUP, splits - base);
            if local < count {
                factors[local] = kept(partials[first + (base + local) * stride + cache_value_vectors].x, joined.x);
            }
            workgroupBarrier();
            for (var at = lane; at < count; at += 4u * LANES) {
#for p in 4
                let at_{p} = min(at + {p}u * LANES, count - 1u);
                let part_{p} = partials[first + (base + at_{p}) * stride + vector];
#end
#for p in 4
                sum += select(vec4<f32>(), part_{p} * factors[at_{p}], at + {p}u * LANES < count);
#end
            }
            workgroupBarrier();
        }
        parts[local] = sum;
        workgroupBarrier();
        for (var half = LANES / 2u; half > 0u; half /= 2u) {
            if lane < half {
                parts[local] += parts[local + half * VECTORS];
            }
            workgroupBarrier();
        }
        if lane == 0u && turn + local < cache_value_vectors {
            write_output(row, vector, parts[local], joined.x, joined.y);
        }
        workgroupBarrier();
    }
}
