// combine: joins the splits of attend.
//
// Grid:    x and z together count rows of a plane, y planes; one workgroup each.
// Shapes:  partials   as parts/split has them
//          lengths    [sequence], then [sequence] of starts
//          output     strided [sequence, head, token, value_dim]
// Bounds:  rows past the queries of a sequence are dropped.
//
// Before this the host writes WORKGROUP, the threads of a workgroup.

#import params.wgsl
#import scores.wgsl
#import output.wgsl

override STARTS: u32; // index of the first start
// As read/read has them.
override cache_heads: u32;
override cache_value_dim: u32;
override cache_value_vectors: u32;

@group(0) @binding(3) var<storage, read> partials: array<vec4<f32>>;

@group(0) @binding(5) var<storage, read> lengths: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn combine(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let plane = group.y;
    let sequence = plane / cache_heads;
    let row = row_of(plane, group.z * groups.x + group.x, count_of(lengths[sequence], lengths[STARTS + sequence]));
    if !row.inside {
        return;
    }
    let splits = u32(partials[0].x);
    let rows = u32(partials[0].y);
    let stride = cache_value_vectors + 1u;
    let first = 1u + (plane * rows + row.index) * splits * stride;
    var largest = HIDDEN;
    for (var split = 0u; split < splits; split++) {
        largest = max(largest, partials[first + split * stride + cache_value_vectors].x);
    }
    var weight = 0.0;
    for (var split = 0u; split < splits; split++) {
        let part = partials[first + split * stride + cache_value_vectors];
        weight += part.y * exp_or_nan(part.x - largest);
    }
    for (var vector = local; vector < cache_value_vectors; vector += WORKGROUP) {
        var sum = vec4<f32>();
        for (var split = 0u; split < splits; split++) {
            let part = partials[first + split * stride + cache_value_vectors];
            sum += partials[first + split * stride + vector] * exp_or_nan(part.x - largest);
        }
        write_output(row, vector, sum, weight);
    }
}
