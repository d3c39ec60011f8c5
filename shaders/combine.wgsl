// combine: joins the splits of attend.
//
// Grid:    x and z together count rows of a plane, y planes; one workgroup each.
// Shapes:  partials   [plane, row, split, value vectors and then (largest score, sum of weights)]
//          output     strided [sequence, head, token, value_dim]
// Bounds:  rows past the last of a plane are dropped.

@compute @workgroup_size(WORKGROUP)
fn combine(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let plane = group.y;
    let row = row_of(plane, group.z * groups.x + group.x);
    if !row.inside {
        return;
    }
    let stride = cache_value_vectors + 1u;
    let first = (plane * params.tokens * GROUP + row.index) * SPLITS * stride;
    var largest = -3.0e38;
    for (var split = 0u; split < SPLITS; split++) {
        largest = max(largest, partials[first + split * stride + cache_value_vectors].x);
    }
    var weight = 0.0;
    for (var split = 0u; split < SPLITS; split++) {
        let part = partials[first + split * stride + cache_value_vectors];
        weight += part.y * exp(part.x - largest);
    }
    for (var vector = local; vector < cache_value_vectors; vector += WORKGROUP) {
        var sum = vec4<f32>();
        for (var split = 0u; split < SPLITS; split++) {
            let part = partials[first + split * stride + cache_value_vectors];
            sum += partials[first + split * stride + vector] * exp(part.x - largest);
        }
        write_output(row, vector, sum, weight);
    }
}
